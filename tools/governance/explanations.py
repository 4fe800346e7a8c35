"""The same decisions from the tables, for pages that answer "why may, or may not, this role call that tool?"."""

from __future__ import annotations

from django.db.models import Prefetch, Q

from tools.governance.roles import Decision, Deny, Inheritance, may_use
from tools.models import CallerRole, DenyRule, Tool


def explain(tool: Tool, role: str) -> Decision:
    """What the door would decide for a caller of this role: three short queries."""
    if not tool.enabled or tool.current_version is None:
        return Decision(False, "disabled", f"{tool.name} is switched off for everybody.")
    rules = DenyRule.objects.filter(Q(tool=tool) | Q(tool=None)).order_by("tool_id")
    denies = [Deny(rule.role, rule.reason) for rule in rules]
    return may_use(role, tool.current_version.required_role, inheritance(), denies)


def inheritance() -> Inheritance:
    """The described roles and what each inherits directly: two queries."""
    described = CallerRole.objects.prefetch_related(Prefetch("inherits", CallerRole.objects.only("name")))
    return {role.name: frozenset(parent.name for parent in role.inherits.all()) for role in described}
