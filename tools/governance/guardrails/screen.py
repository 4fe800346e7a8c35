"""A compiled set of policies: checks whole texts and JSON values, and makes gates for streamed text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tools.governance.guardrails.gate import OutputGate
from tools.governance.guardrails.policy import Action, Checked, Finding, Policy, PolicyKind, Stage
from tools.governance.guardrails.rules import StageRules

_SHORTEST_NUMBER: Final = 9  # digits of a number in JSON from which on it may be a phone or card number


class Guardrails:
    """A set of policies, ready to check with. Compiling is expensive: keep it as long as the policies stay the same."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self.policies = tuple(policies)
        self._rules: dict[Stage, StageRules] = {}
        for stage in Stage:
            rules = StageRules(stage, [policy for policy in self.policies if stage in policy.stages])
            if not rules.is_empty:
                self._rules[stage] = rules

    @classmethod
    def compiled(cls, policies: Sequence[Policy]) -> Guardrails:
        """Compile policies; their settings have passed `check_settings`. Raises PatternError for those that would not."""
        return cls(policies)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to check."""
        return not self.policies

    def check(self, stage: Stage, text: str) -> Checked:
        """Check a whole text with everything but the `model` policies."""
        rules = self._rules.get(stage)
        if rules is None or not text:
            return Checked(text, ())
        gate = OutputGate(rules, streamed=stage is Stage.OUTPUT)
        left = gate.whole(text)
        return Checked(left, tuple(gate.findings))

    def check_json(self, stage: Stage, value: Any) -> tuple[Any, tuple[Finding, ...]]:
        """Check every string in a JSON value, keys and long whole numbers too; returns the value with them redacted.

        What blocks does not end the check: all strings are looked at, and the value is not to be used.
        """
        if stage not in self._rules:
            return value, ()
        findings: list[Finding] = []
        return self._checked(stage, value, findings), tuple(findings)

    def gate(self) -> OutputGate | None:
        """A gate for one streamed message; None when no policy is on the output but `model` ones, which are the caller's."""
        rules = self._rules.get(Stage.OUTPUT)
        return None if rules is None else OutputGate(rules)

    def model_policies(self, stage: Stage) -> tuple[Policy, ...]:
        """The policies of a stage that ask a moderation endpoint: the caller's to judge."""
        return tuple(p for p in self.policies if p.kind is PolicyKind.MODEL and stage in p.stages)

    def _checked(self, stage: Stage, value: Any, findings: list[Finding]) -> Any:
        if isinstance(value, str):
            checked = self.check(stage, value)
            findings.extend(checked.findings)
            return checked.text
        if isinstance(value, dict):
            return self._checked_members(stage, value, findings)
        if isinstance(value, list | tuple):
            return [self._checked(stage, inner, findings) for inner in value]
        if isinstance(value, int) and abs(value) >= 10 ** (_SHORTEST_NUMBER - 1):
            checked = self.check(stage, str(value))
            findings.extend(checked.findings)
            is_removed = any(finding.policy.action is Action.REDACT for finding in checked.findings)
            return checked.text if is_removed else value
        return value

    def _checked_members(self, stage: Stage, value: dict[Any, Any], findings: list[Finding]) -> dict[Any, Any]:
        members: dict[Any, Any] = {}
        for name, inner in value.items():
            checked = self._checked(stage, name, findings) if isinstance(name, str) else name
            unique, number = checked, 2
            while unique in members:
                unique, number = f"{checked} {number}", number + 1
            members[unique] = self._checked(stage, inner, findings)
        return members
