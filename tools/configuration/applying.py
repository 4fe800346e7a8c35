"""Making the registry say what files say: all of it or nothing.

Everything happens in one transaction. First all is written as if nobody else had to agree, and taken back: whatever goes wrong
there is a problem of the files, found by the same checks and the same code that write. Then every change is submitted
(`tools.changes`), which writes it or, where FOUR_EYES says so, proposes it. What refers to something that is only proposed is
held back. A dry run does all the same, and takes it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db import DataError, IntegrityError, connection, transaction

import audit
from audit import actions
from audit.actor import Actor
from tools.changes import needs_second_person, submit
from tools.configuration.kinds import CircularReferenceError, configuration_of, exported_kinds, in_order
from tools.configuration.reading import FileDocument, Problem, messages_by_field
from tools.configuration.secrets import known_secrets
from tools.documents import Document, DocumentKind, Spec, differences
from tools.models import ChangeRequest, RegistryRevision

LOCK_SECONDS: Final = 10


class Action(StrEnum):
    """What is done to a thing."""

    CREATE = "create"
    CHANGE = "change"
    REMOVE = "remove"


class State(StrEnum):
    """What becomes of a change."""

    LIVE = "live"
    PROPOSED = "proposed"
    WAITING = "waiting"
    HELD_BACK = "held_back"


class PlanChangedError(Exception):
    """The registry has changed since the plan was shown; nothing is written."""


@dataclass(frozen=True, slots=True)
class Prune:
    """What is removed when no file has it: things of these kinds; only those of these names, where some are given."""

    kinds: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is not as the files say, and what becomes of that."""

    kind: str
    name: str
    before: Spec | None
    after: Spec | None
    state: State = State.LIVE
    note: str = ""

    @property
    def action(self) -> Action:
        """What is done to the thing."""
        if self.before is None:
            return Action.CREATE
        return Action.REMOVE if self.after is None else Action.CHANGE

    @property
    def differences(self) -> dict[str, dict[str, Any]]:
        """What changes, by field."""
        return differences(self.before, self.after)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an apply did, or a dry run would do. With problems nothing is done."""

    changes: tuple[Change, ...] = ()
    unchanged: int = 0
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()

    @property
    def waits(self) -> bool:
        """Whether some of it waits for a second person."""
        return any(change.state is not State.LIVE for change in self.changes)


@dataclass(frozen=True, slots=True)
class _Step:
    """One thing to write, and the document that says so (none where it is pruned)."""

    kind: DocumentKind
    name: str
    before: Spec | None
    after: Spec | None
    document: FileDocument | None = None

    def problems(self, error: ValidationError) -> list[Problem]:
        if self.document is not None:
            return self.document.problems(error)
        return [
            Problem(message, kind=self.kind.name, name=self.name, field=field)
            for field, message in messages_by_field(error)
        ]


def apply_documents(
    documents: Sequence[FileDocument],
    *,
    by: Actor,
    reason: str = "",
    prune: Prune | None = None,
    dry_run: bool = False,
    expected: Sequence[Change] | None = None,
    details: Mapping[str, Any] | None = None,
) -> Outcome:
    """Make the registry say what these documents say; `details` are recorded with what is done.

    `expected` are the changes that a person has agreed to: raises PlanChangedError when they would be others by now. Raises
    OperationalError when somebody else changes the registry for longer than LOCK_SECONDS.
    """
    with transaction.atomic():
        _hold_registry()
        outcome = _Apply(documents, prune or Prune(), by, reason).outcome()
        if expected is not None and not outcome.problems and tuple(expected) != outcome.changes:
            raise PlanChangedError
        if outcome.problems or dry_run:
            transaction.set_rollback(True)
        elif any(change.state in (State.LIVE, State.PROPOSED) for change in outcome.changes):
            _record(outcome, by, reason, details or {})
    return outcome


@dataclass(slots=True)
class _Apply:
    """One pass over the documents, within a transaction."""

    documents: Sequence[FileDocument]
    prune: Prune
    by: Actor
    reason: str
    _problems: list[Problem] = field(default_factory=list)
    _warnings: list[Problem] = field(default_factory=list)

    def outcome(self) -> Outcome:
        """Rehearse, and submit what can be written."""
        steps = list(self._steps())
        can_be_rehearsed = not self._problems
        self._look_at_pruning()
        self._look_for_secrets()
        self._review(steps)
        if can_be_rehearsed:
            with _taken_back():
                self._rehearse(steps)
        changes = [] if self._problems else self._submitted(steps)
        unchanged = sum(step.before == step.after for step in steps)
        problems = sorted(self._problems, key=lambda problem: (problem.file, problem.line))
        return Outcome(tuple(changes), unchanged, tuple(problems), tuple(self._warnings))

    # --- what is to be done

    def _steps(self) -> Iterator[_Step]:
        """The documents in the order in which they can be written."""
        for kind in exported_kinds():
            own = {document.name: document for document in self.documents if document.kind.name == kind.name}
            try:
                names = in_order(kind, {name: document.spec for name, document in own.items()})
            except CircularReferenceError as error:
                self._problems += [own[name].problem(text, error.field) for name, text in error.messages.items()]
                continue
            for name in names:
                yield _Step(kind, name, kind.read(name), own[name].spec, own[name])

    def _prune_steps(self) -> Iterator[_Step]:
        """What is there and in no file; what refers to others first."""
        known = {(document.kind.name, document.name) for document in self.documents}
        for kind in reversed(exported_kinds()):
            if kind.name not in self.prune.kinds:
                continue
            configuration = configuration_of(kind)
            for name in kind.names():
                named = name in self.prune.names
                passed_over = not named and (bool(self.prune.names) or configuration.is_kept(name))
                before = None if passed_over or (kind.name, name) in known else kind.read(name)
                if before is not None and (after := configuration.pruned(name, before)) != before:
                    yield _Step(kind, name, before, after)

    def _look_at_pruning(self) -> None:
        """Files of the wrong folder must not empty the registry, nor a mistyped name pass unseen."""
        pruned = [kind for kind in exported_kinds() if kind.name in self.prune.kinds]
        there = {name for kind in pruned for name in kind.names()}
        self._problems += [
            Problem("Nothing of the kinds to prune is called so.", name=name) for name in self.prune.names - there
        ]
        with_documents = {document.kind.name for document in self.documents}
        self._problems += [
            Problem("No file has one, so --prune would remove all of them: name them.", kind=kind.name)
            for kind in pruned
            if not self.prune.names and kind.name not in with_documents
        ]

    def _look_for_secrets(self) -> None:
        secrets = known_secrets()
        self._problems += [
            document.problem("It holds the value of a credential: name the credential instead.")
            for document in self.documents
            if secrets.held_by(document.spec)
        ]

    def _review(self, steps: Iterable[_Step]) -> None:
        for step in steps:
            if step.document is not None and step.after is not None:
                found = configuration_of(step.kind).review(step.name, step.before, step.after)
                self._problems += [step.document.problem(text, field) for field, text in found.problems.items()]
                self._warnings += [step.document.problem(text) for text in found.warnings]

    # --- the rehearsal

    def _rehearse(self, steps: Sequence[_Step]) -> None:
        """Write everything as if nobody else had to agree, and see that it then says what the files say."""
        self._try_all(steps, self._write)
        self._try_all(self._prune_steps(), self._write)
        if not self._problems:
            self._problems += [
                step.document.problem(
                    "When all is done it says something else: another document, or --prune, changes it."
                )
                for step in steps
                if step.document is not None and step.kind.read(step.name) != step.after
            ]

    def _try_all(self, steps: Iterable[_Step], do: Callable[[_Step], None]) -> None:
        for step in steps:
            if step.before == step.after:
                continue
            try:
                with transaction.atomic():
                    do(step)
            except ValidationError as error:
                self._problems += step.problems(error)
            except (IntegrityError, DataError) as error:
                self._problems += step.problems(ValidationError(f"The database refuses it: {_first_line(error)}"))

    def _write(self, step: _Step) -> None:
        if step.after is None:
            step.kind.delete(step.name, by=self.by, note=self.reason)
        else:
            step.kind.check(step.name, step.after)
            step.kind.write(step.name, step.after, by=self.by, note=self.reason)

    # --- the real thing

    def _submitted(self, steps: Sequence[_Step]) -> list[Change]:
        changes: list[Change] = []

        def do(step: _Step) -> None:
            waits = any(change.state is not State.LIVE for change in changes)
            changes.append(self._submit(step, others_wait=waits))

        self._try_all(steps, do)
        self._try_all(self._prune_steps(), do)
        return changes

    def _submit(self, step: _Step, *, others_wait: bool) -> Change:
        change = Change(step.kind.name, step.name, step.before, step.after)
        pending = self._pending(step)
        if pending is not None and (pending.before, pending.after) == (step.before, step.after):
            return _in_state(change, State.WAITING)
        try:
            proposal = submit(Document(step.kind.name, step.name, step.after), by=self.by, reason=self.reason)
        except ValidationError as error:
            if pending is not None or not others_wait:
                raise
            # it could be written in the rehearsal, so it refers to something that is only proposed
            return _in_state(change, State.HELD_BACK, " ".join(error.messages))
        return _in_state(change, State.PROPOSED) if proposal is not None else change

    def _pending(self, step: _Step) -> ChangeRequest | None:
        if not needs_second_person(step.kind):
            return None
        waiting = ChangeRequest.objects.filter(kind=step.kind.name, name=step.name, status=ChangeRequest.Status.PENDING)
        return waiting.first()


def _in_state(change: Change, state: State, note: str = "") -> Change:
    return Change(change.kind, change.name, change.before, change.after, state, note)


def _hold_registry() -> None:
    """Let nobody else change the registry until the end of the transaction: every change of it counts in this row."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
    RegistryRevision.objects.select_for_update().get(pk=1)


@contextmanager
def _taken_back() -> Iterator[None]:
    """Undo at the end whatever is written within."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def _record(outcome: Outcome, by: Actor, reason: str, details: Mapping[str, Any]) -> None:
    said = [f"{change.action} {change.kind} {change.name}: {change.state}" for change in outcome.changes]
    audit.record(actions.CONFIGURATION_APPLIED, actor=by, details={**details, "reason": reason, "changes": said})


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
