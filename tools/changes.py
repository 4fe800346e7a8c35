"""Changing the registry, with one pair of eyes or two.

Whoever changes something calls `submit`. Where FOUR_EYES names the kind's group, the change becomes a proposal (ChangeRequest) that a
second person approves or refuses; else it is written at once. Either way it is checked first, written in one transaction, and audited.
A proposal says what the thing said before: when that is no longer true at the decision, the proposal is outdated and nothing is written.

Switching a tool or a server off is never held up: who sees harm stops it alone, also when the rest of it could not be saved today.

Changes of the registry follow one another: each holds it from its first look to the end of its transaction, so that what was checked
is still true when it is written.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

import audit
from audit import actions
from audit.actor import Actor
from audit.entry import Target
from tools.documents import Document, DocumentKind, Spec, differences, kind_named
from tools.json_values import same_json
from tools.models import ChangeRequest, RegistryRevision

Status = ChangeRequest.Status


SEALED_FIELD: Final = "secret"
"""The field of a spec that holds a sealed value."""


class NotYoursError(Exception):
    """This person may not decide this proposal; the text says why."""


@dataclass(frozen=True, slots=True)
class _Change:
    """A change that can be written, or proposed."""

    kind: DocumentKind
    name: str
    before: Spec | None
    after: Spec | None
    needs_second_person: bool


def needs_second_person(kind: DocumentKind) -> bool:
    """Whether changes of this kind are proposed first."""
    return kind.group in settings.FOUR_EYES


def submit(document: Document, *, by: Actor, reason: str = "") -> ChangeRequest | None:
    """Write what the document says, or propose it; returns the proposal, None when it is written (or nothing changes).

    `spec` None removes the thing. Raises UnknownKindError, and ValidationError keyed by field when it cannot be written, or when
    another proposal about the same thing waits.
    """
    with transaction.atomic():
        hold_registry()
        change = _checked_change(document)
        if same_json(change.before, change.after):
            return None
        if change.needs_second_person:
            return _propose(change, by=by, reason=reason)
        _write(change.kind, change.name, change.after, by=by, note=reason)
    return None


def check_submission(document: Document) -> None:
    """Raise what `submit` would raise. Inside `atomic`: the registry is held until its end, so that `submit` then finds the same."""
    hold_registry()
    _checked_change(document)


def hold_registry() -> None:
    """Let nobody else change the registry until the end of the transaction, which must have begun."""
    RegistryRevision.objects.select_for_update().get(pk=1)


def checked(kind: DocumentKind, document: Document) -> Spec | None:
    """The document's spec, complete and fit to be written; None when the thing shall go. Raises ValidationError."""
    if document.spec is None:
        return None
    spec = kind.complete(document.spec)
    kind.check(document.name, spec)
    return spec


def waiting_change(kind: str, name: str) -> ChangeRequest | None:
    """The proposal about this thing that waits for a second person, if any."""
    return ChangeRequest.objects.filter(kind=kind, name=name, status=Status.PENDING).first()


def is_outdated(request: ChangeRequest) -> bool:
    """Whether the thing no longer says what it said when this was proposed."""
    return not same_json(kind_named(request.kind).read(request.name), request.before)


def approve(request: ChangeRequest, *, by: Actor, reason: str = "") -> bool:
    """Write a proposal in the name of who decides; False when it is outdated, and then it says so.

    Raises NotYoursError for who proposed it, ValidationError when it is decided already or cannot be written any more.
    """
    with transaction.atomic():
        hold_registry()
        held = _pending(request)
        if _is_same_person(held.proposed_by, by):
            raise NotYoursError("Who proposed a change cannot approve it: a second person must.")
        kind = kind_named(held.kind)
        if is_outdated(held):
            _decide(held, Status.OUTDATED, by=by, reason=reason, action=actions.CHANGE_OUTDATED)
            return False
        after = checked(kind, Document(held.kind, held.name, held.after))
        _decide(held, Status.APPROVED, by=by, reason=reason, action=actions.CHANGE_APPROVED)
        _write(kind, held.name, after, by=by, note=held.reason)
    return True


def refuse(request: ChangeRequest, *, by: Actor, reason: str) -> None:
    """Refuse a proposal of somebody else's, with a reason. Raises NotYoursError, or ValidationError when it is decided already."""
    with transaction.atomic():
        held = _pending(request)
        if _is_same_person(held.proposed_by, by):
            raise NotYoursError("Withdraw your own proposal instead.")
        if not reason.strip():
            raise ValidationError({"reason": ["Say why: who proposed it reads it."]})
        _decide(held, Status.REFUSED, by=by, reason=reason, action=actions.CHANGE_REFUSED)


def withdraw(request: ChangeRequest, *, by: Actor) -> None:
    """Take back one's own proposal. Raises NotYoursError, or ValidationError when it is decided already."""
    with transaction.atomic():
        held = _pending(request)
        if not _is_same_person(held.proposed_by, by):
            raise NotYoursError("Only who proposed a change can withdraw it.")
        _decide(held, Status.WITHDRAWN, by=by, reason="", action=actions.CHANGE_WITHDRAWN)


def changes_of(request: ChangeRequest) -> dict[str, dict[str, Any]]:
    """What a proposal changes, by field. Pages show it through `tools.shown_changes`, which leaves out secrets."""
    return differences(request.before, request.after)


def without_sealed(spec: Spec | None) -> Spec | None:
    """The spec as it is kept once there is nothing more to decide: that a secret was another one can be seen, and the secret is gone."""
    if spec is None or SEALED_FIELD not in spec:
        return spec
    digest = hashlib.sha256(str(spec[SEALED_FIELD]).encode()).hexdigest()
    return {**spec, SEALED_FIELD: f"forgotten:{digest[:16]}"}


def _checked_change(document: Document) -> _Change:
    """What the document changes; raises ValidationError unless it can be written, or proposed."""
    kind = kind_named(document.kind)
    before = kind.read(document.name)
    after = None if document.spec is None else kind.complete(document.spec)
    if same_json(before, after) or _only_switches_off(before, after):
        return _Change(kind, document.name, before, after, needs_second_person=False)
    if after is not None:
        kind.check(document.name, after)
    change = _Change(kind, document.name, before, after, needs_second_person=needs_second_person(kind))
    if change.needs_second_person:
        _check_proposal(change)
    return change


def _check_proposal(change: _Change) -> None:
    """What would be found out when it is written; for one thing at most one proposal waits."""
    if change.after is None:
        _rehearse_removal(change.kind, change.name)
    if waiting_change(change.kind.name, change.name) is not None:
        raise ValidationError(f"Another change of {change.name} waits for a decision already.")


def _rehearse_removal(kind: DocumentKind, name: str) -> None:
    """Remove it and take that back: whether it can go only `delete` knows."""
    with transaction.atomic():
        kind.delete(name, by=_NOBODY, note="")
        transaction.set_rollback(True)


_NOBODY = Actor(id="nobody", kind="system", role="system")


def _propose(change: _Change, *, by: Actor, reason: str) -> ChangeRequest:
    request = ChangeRequest.objects.create(
        kind=change.kind.name,
        name=change.name,
        before=change.before,
        after=change.after,
        reason=reason[:500],
        proposed_by=by.id,
    )
    _record(request, actions.CHANGE_PROPOSED, by, {"reason": reason, "changes": changes_of(request)})
    return request


def _is_same_person(proposed_by: str, by: Actor) -> bool:
    """Whether who decides is who proposed; a command that was given a console user's name (`--as`) is that user."""
    if proposed_by == by.id:
        return True
    command, _, name = proposed_by.partition(":")
    console, _, key = by.id.partition(":")
    if command != "command" or console != "console" or not name or not key.isdigit():
        return False
    user = get_user_model().objects.filter(pk=int(key)).first()
    return user is not None and user.get_username() == name


def _pending(request: ChangeRequest) -> ChangeRequest:
    held = ChangeRequest.objects.select_for_update().get(pk=request.pk)
    if held.status != Status.PENDING:
        raise ValidationError(f"It was decided already: {held.get_status_display()}.")
    return held


def _decide(held: ChangeRequest, status: str, *, by: Actor, reason: str, action: str) -> None:
    held.status = status
    held.decided_by, held.decided_at, held.decision_reason = by.id, timezone.now(), reason[:500]
    held.before, held.after = without_sealed(held.before), without_sealed(held.after)
    held.save(update_fields=["status", "decided_by", "decided_at", "decision_reason", "before", "after"])
    _record(held, action, by, {"reason": reason, "proposed_by": held.proposed_by})


def _write(kind: DocumentKind, name: str, after: Spec | None, *, by: Actor, note: str) -> None:
    if after is None:
        kind.delete(name, by=by, note=note)
    else:
        kind.write(name, after, by=by, note=note)


def _only_switches_off(before: Spec | None, after: Spec | None) -> bool:
    return after is not None and set(differences(before, after)) == {"enabled"} and after["enabled"] is False


def _record(request: ChangeRequest, action: str, by: Actor, details: dict[str, Any]) -> None:
    about = {"kind": request.kind, "name": request.name}
    audit.record(action, actor=by, target=Target("change", str(request.pk)), details={**about, **details})
