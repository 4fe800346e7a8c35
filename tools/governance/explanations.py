"""The same decisions from the tables, for pages that answer "why may, or may not, this role call that tool?"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from django.db.models import Prefetch, Q

from tools.governance.conditions import ArgumentCondition, binding, first_unfit
from tools.governance.roles import Decision, Deny, Inheritance, may_use
from tools.models import ArgumentRule, CallerRole, DenyRule, Tool
from tools.schemas import problems


@dataclass(frozen=True, slots=True)
class AccessRules:
    """Everything that decides who may call one tool, read once: it answers for any number of roles."""

    tool: str
    enabled: bool
    required_role: str
    input_schema: bytes
    inheritance: Inheritance
    denies: Sequence[Deny]
    conditions: Sequence[ArgumentCondition]

    def decide(self, role: str, arguments: dict[str, Any] | None = None) -> Decision:
        """What the door would decide for a caller of this role; without arguments, before it looks at any."""
        if not self.enabled:
            return Decision(False, "disabled", f"{self.tool} is switched off for everybody.")
        decision = may_use(role, self.required_role, self.inheritance, self.denies)
        if not decision.allowed or arguments is None:
            return decision
        return self._refused_with(role, arguments) or decision

    def binding(self, role: str) -> list[ArgumentCondition]:
        """The rules on arguments that a caller of this role is bound by."""
        return binding(role, self.inheritance, self.conditions)

    def _refused_with(self, role: str, arguments: dict[str, Any]) -> Decision | None:
        unfit = problems(self.input_schema, arguments)
        if unfit:
            text = f"The arguments do not fit the tool's schema: {'; '.join(unfit)}."
            return Decision(False, "invalid_arguments", text)
        forbidden = first_unfit(arguments, role, self.inheritance, self.conditions)
        return None if forbidden is None else Decision(False, "argument_rule", forbidden.explanation)


def explain(tool: Tool, role: str, arguments: dict[str, Any] | None = None) -> Decision:
    """What the door would decide for a caller of this role, and why: four short queries."""
    return rules_of(tool).decide(role, arguments)


def rules_of(tool: Tool) -> AccessRules:
    """The rules about a tool as the tables hold them; one without a version counts as switched off."""
    version = tool.current_version
    denies = DenyRule.objects.filter(Q(tool=tool) | Q(tool=None)).order_by("tool_id")
    conditions = ArgumentRule.objects.filter(tool=tool)
    return AccessRules(
        tool=tool.name,
        enabled=tool.is_offered,
        required_role=version.required_role if version else "",
        input_schema=orjson.dumps(version.input_schema if version else {}),
        inheritance=inheritance(),
        denies=[Deny(rule.role, rule.reason) for rule in denies],
        conditions=[ArgumentCondition(rule.role, orjson.dumps(rule.schema), rule.reason) for rule in conditions],
    )


def inheritance() -> Inheritance:
    """The described roles and what each inherits directly: two queries."""
    described = CallerRole.objects.prefetch_related(Prefetch("inherits", CallerRole.objects.only("name")))
    return {role.name: frozenset(parent.name for parent in role.inherits.all()) for role in described}
