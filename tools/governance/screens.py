"""A screen: the policies that bind one caller, ready to be asked about a text.

It joins the fast checks (`tools.governance.guardrails`), the judgements of moderation models, and policies that cannot be read, which
block everything where they apply: they stand for a bound that somebody wanted. The door and the runner ask it; it holds nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, TypeAlias

import orjson

from tools.governance.guardrails.policy import Action, Checked, Finding, Policy, PolicyKind, Stage, check_settings
from tools.governance.guardrails.screen import Guardrails
from tools.governance.moderation import blocks_on_failure, holds_sentences, judge
from tools.vault import Sealed

logger = logging.getLogger(__name__)

UNREADABLE: Final = "unreadable_policy"
"""Category of what a policy blocks that cannot be read."""
NOT_JUDGED: Final = "not_judged"
"""Category of what a moderation model should have judged and did not."""
WHOLE_TEXT: Final = "(the whole text)"
MOST_SCREENS: Final = 64

PolicyNames: TypeAlias = frozenset[str] | None
"""The policies that a caller names beside those that apply everywhere; None: no others."""


class Gate(Protocol):
    """Releases a text that comes in pieces as far as no policy can object to it any more."""

    violation: Finding | None

    @property
    def findings(self) -> Sequence[Finding]:
        """What was found so far."""
        ...

    def feed(self, delta: str) -> str:
        """More of the text; returns what may leave."""
        ...

    def end(self) -> str:
        """The text is complete; returns the rest that may leave."""
        ...


@dataclass(frozen=True, slots=True)
class RegisteredPolicy:
    """A policy in its current version, as the registry's snapshot has it. `problem`: why it cannot be read."""

    policy: Policy
    everywhere: bool
    problem: str = ""


def registered_policy(
    name: str,
    everywhere: bool,
    version: int,
    digest: str,
    kind: str,
    stages: Sequence[str],
    action: str,
    settings: Any,
    message: str,
) -> RegisteredPolicy:
    """A row of the registry as a policy. One that cannot be read blocks everything at its stages, and the log says which."""
    problem = _problem(kind, stages, action, settings)
    if not problem:
        made = Policy(name, version, digest, PolicyKind(kind), _stages(stages), Action(action), settings, message)
        return RegisteredPolicy(made, everywhere)
    logger.error(
        "the guardrail policy %s cannot be read and blocks everything where it applies: %s", name, problem,
        extra={"policy": name, "version": version},
    )  # fmt: skip
    known = _stages(stage for stage in stages if stage in tuple(Stage)) or _stages(Stage)
    closed = Policy(name, version, digest, PolicyKind.KEYWORDS, known, Action.BLOCK, {"keywords": []}, message)
    return RegisteredPolicy(closed, everywhere, problem)


def _problem(kind: str, stages: Sequence[str], action: str, settings: Any) -> str:
    try:
        of_kind, where, what = PolicyKind(kind), _stages(stages), Action(action)
        if not isinstance(settings, dict):
            return "its settings are no object"
        if of_kind is PolicyKind.MODEL:
            return ""
        found = check_settings(of_kind, where, what, settings)
    except (TypeError, ValueError, KeyError) as error:
        return str(error)
    return "; ".join(f"{name}: {' '.join(texts)}" for name, texts in found.items())


def _stages(stages: Iterable[str]) -> frozenset[Stage]:
    return frozenset(Stage(stage) for stage in stages)


@dataclass(frozen=True, slots=True)
class Screen:
    """The compiled policies of one caller."""

    fast: Guardrails
    closed: tuple[Policy, ...] = ()
    vault: Mapping[str, Sealed] = field(default_factory=dict, repr=False)
    _stages: frozenset[Stage] = frozenset()
    _changing: frozenset[Stage] = frozenset()

    @classmethod
    def compiled(cls, policies: Sequence[RegisteredPolicy], vault: Mapping[str, Sealed]) -> Screen:
        """Make one. Takes a while for many keywords: see `Screens`."""
        closed = [found.policy for found in policies if found.problem]
        usable = [found.policy for found in policies if not found.problem]
        try:
            fast = Guardrails.compiled(usable)
        except Exception:
            usable, broken = _told_apart(usable)
            closed += broken
            fast = Guardrails.compiled(usable)
        stages = frozenset(stage for policy in (*usable, *closed) for stage in policy.stages)
        changing = frozenset(
            stage for policy in (*usable, *closed) if policy.action is not Action.WARN for stage in policy.stages
        )
        return cls(fast, tuple(closed), vault, stages, changing)

    def concerns(self, *stages: Stage) -> bool:
        """Whether anything is checked at one of these stages."""
        return not self._stages.isdisjoint(stages)

    def changes(self, stage: Stage) -> bool:
        """Whether any policy does more at this stage than to warn."""
        return stage in self._changing

    def asks_models(self, *stages: Stage) -> bool:
        """Whether a moderation model is asked at one of these stages, which takes a while."""
        return any(self.fast.model_policies(stage) for stage in stages)

    def check_now(self, stage: Stage, text: str) -> Checked:
        """What the fast checks say, at once."""
        checked = self.fast.check(stage, text)
        if not self.closed:
            return checked
        return replace(checked, findings=(*self._refusals(stage, text), *checked.findings))

    async def check(self, stage: Stage, text: str) -> Checked:
        """What all policies say of a text; `text` of the answer is redacted."""
        if stage not in self._stages or not text:
            return Checked(text, ())
        checked = self.check_now(stage, text)
        if checked.blocked is not None:
            return checked
        judged = await self.judged(stage, checked.text)
        return replace(checked, findings=(*checked.findings, *judged)) if judged else checked

    async def check_json(self, stage: Stage, value: Any) -> tuple[Any, tuple[Finding, ...]]:
        """The same for a JSON value: texts and keys within it; returns the value, redacted, and what was found."""
        if stage not in self._stages:
            return value, ()
        found, findings = self.check_json_now(stage, value)
        if any(finding.policy.action is Action.BLOCK for finding in findings):
            return found, findings
        if self.fast.model_policies(stage):
            findings = (*findings, *await self.judged(stage, orjson.dumps(found).decode()))
        return found, findings

    def check_json_now(self, stage: Stage, value: Any) -> tuple[Any, tuple[Finding, ...]]:
        """What the fast checks say of a JSON value, at once."""
        found, findings = self.fast.check_json(stage, value)
        return found, (*self._refusals(stage, ""), *findings)

    async def judged(self, stage: Stage, text: str) -> tuple[Finding, ...]:
        """What moderation models object to, asked side by side."""
        policies = self.fast.model_policies(stage)
        if not policies:
            return ()
        found = await asyncio.gather(*(_judged(policy, stage, text, self.vault) for policy in policies))
        return tuple(finding for finding in found if finding is not None)

    def gate(self) -> Gate | None:
        """For one text of an agent that comes in pieces; None where no fast check concerns it."""
        closed = next((policy for policy in self.closed if Stage.OUTPUT in policy.stages), None)
        return ClosedGate(closed) if closed is not None else self.fast.gate()

    @property
    def judges_output(self) -> bool:
        """Whether moderation models judge what agents say."""
        return bool(self.fast.model_policies(Stage.OUTPUT))

    @property
    def holds_sentences(self) -> bool:
        """Whether an answer can be released sentence by sentence; otherwise only as a whole."""
        return all(holds_sentences(policy) for policy in self.fast.model_policies(Stage.OUTPUT))

    def _refusals(self, stage: Stage, text: str) -> tuple[Finding, ...]:
        return tuple(
            Finding(policy, stage, UNREADABLE, 0, len(text), WHOLE_TEXT)
            for policy in self.closed
            if stage in policy.stages
        )


NO_SCREEN: Final = Screen(Guardrails.compiled(()))


class ClosedGate:
    """The gate of a policy that cannot be read: nothing leaves."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.violation: Finding | None = None

    @property
    def findings(self) -> Sequence[Finding]:
        """The violation."""
        return () if self.violation is None else (self.violation,)

    def feed(self, delta: str) -> str:
        """Any text is too much."""
        if delta and self.violation is None:
            self.violation = Finding(self._policy, Stage.OUTPUT, UNREADABLE, 0, len(delta), WHOLE_TEXT)
        return ""

    def end(self) -> str:
        """Nothing is left."""
        return ""


class Screens:
    """Screens by the policies that they hold: each set is compiled once, in a thread, and kept while it is used."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], Screen] = OrderedDict()
        self._being_made: dict[tuple[Any, ...], asyncio.Future[Screen]] = {}

    async def of(
        self, policies: Mapping[str, RegisteredPolicy], names: PolicyNames, vault: Mapping[str, Sealed]
    ) -> Screen:
        """The screen of whoever names these policies; those that apply everywhere are always in it."""
        chosen = [found for name, found in policies.items() if found.everywhere or (names and name in names)]
        if not chosen:
            return NO_SCREEN
        key = tuple((found.policy.policy_version, found.policy.digest) for found in chosen)
        known = self._kept.get(key)
        if known is None:
            known = await self._made(key, chosen)
        self._kept.move_to_end(key)
        return known if known.vault is vault else replace(known, vault=vault)

    async def _made(self, key: tuple[Any, ...], chosen: Sequence[RegisteredPolicy]) -> Screen:
        """Compile it in a thread, once for all who wait for it; who is cancelled leaves the others theirs."""
        loop = asyncio.get_running_loop()
        making = self._being_made.get(key)
        if making is None or making.get_loop() is not loop:
            making = asyncio.ensure_future(asyncio.to_thread(_timed, Screen.compiled, chosen, {}))
            self._being_made[key] = making
            making.add_done_callback(lambda _: self._being_made.pop(key, None))
        made = await asyncio.shield(making)
        self._kept[key] = made
        while len(self._kept) > MOST_SCREENS:
            self._kept.popitem(last=False)
        return made


def _timed(make: Callable[..., Screen], *arguments: Any) -> Screen:
    begun = time.monotonic()
    made = make(*arguments)
    logger.info("guardrail policies were compiled", extra={"milliseconds": round((time.monotonic() - begun) * 1000, 1)})
    return made


def _told_apart(policies: Sequence[Policy]) -> tuple[list[Policy], list[Policy]]:
    """Those that can be compiled, and those that cannot, which then block."""
    usable: list[Policy] = []
    broken: list[Policy] = []
    for policy in policies:
        try:
            Guardrails.compiled([policy])
        except Exception:
            logger.exception(
                "the guardrail policy %s cannot be used and blocks everything where it applies", policy.name
            )
            broken.append(policy)
        else:
            usable.append(policy)
    return usable, broken


async def _judged(policy: Policy, stage: Stage, text: str, vault: Mapping[str, Sealed]) -> Finding | None:
    judgement = await judge(policy, text, vault)
    category = judgement.category
    if judgement.failed and blocks_on_failure(policy):
        category = NOT_JUDGED
        if policy.action is not Action.BLOCK:
            policy = replace(policy, action=Action.BLOCK)
    return Finding(policy, stage, category, 0, len(text), WHOLE_TEXT) if category else None
