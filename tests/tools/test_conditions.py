"""With which arguments a caller may call: whose rule binds, and what the door says of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from tests.tools.support import Door, ToolMaker, details, envelope, somebody
from tools.calls import ToolOutcome, ToolResult
from tools.governance.conditions import ArgumentCondition, binding
from tools.models import ArgumentRule, CallerRole, Tool

INHERITANCE = {
    "user": frozenset[str](),
    "admin": frozenset[str](),
    "analyst": frozenset({"user"}),
    "manager": frozenset({"analyst"}),
    "both": frozenset({"manager", "auditor"}),
    "auditor": frozenset[str](),
}


def rules(*roles: str) -> list[ArgumentCondition]:
    return [ArgumentCondition(role, b'{"type":"object"}', "because") for role in roles]


@pytest.mark.parametrize(
    ("role", "ruled", "bound"),
    [
        ("analyst", ["analyst"], ["analyst"]),
        ("manager", ["analyst"], ["analyst"]),
        ("manager", ["analyst", "manager"], ["manager"]),
        ("manager", ["user"], ["user"]),
        ("both", ["user", "auditor"], ["auditor", "user"]),
        ("both", ["user", "analyst", "auditor"], ["analyst", "auditor"]),
        ("auditor", ["analyst", "user"], []),
        ("admin", ["analyst", "user"], []),
        ("admin", ["admin", "user"], ["admin"]),
        ("admin", ["", "user"], [""]),
        ("manager", ["", "manager", "analyst"], ["", "manager"]),
        ("unheard-of", ["user"], ["user"]),
        ("unheard-of", ["unheard-of", "user"], ["unheard-of"]),
        ("", ["user", "analyst"], ["user"]),
    ],
)
def test_the_nearest_rule_of_each_line_of_inheritance_binds(role: str, ruled: list[str], bound: list[str]):
    assert [condition.role for condition in binding(role, INHERITANCE, rules(*ruled))] == bound


def test_roles_that_inherit_each_other_end_somewhere():
    circular = {"a": frozenset({"b"}), "b": frozenset({"a"})}
    assert binding("a", circular, rules("c")) == []


def test_many_lines_to_the_same_role_are_followed_once():
    levels = {f"{level}{side}": frozenset({f"{level + 1}a", f"{level + 1}b"}) for level in range(60) for side in "ab"}
    assert [condition.role for condition in binding("0a", levels, rules("60a"))] == ["60a"]


# --- at the door


async def transfer(amount: int) -> str:
    return f"{amount} is transferred"


def at_most(amount: int) -> dict[str, Any]:
    return {"type": "object", "properties": {"amount": {"maximum": amount}}}


class Rules:
    """A tool with rules, and the roles analyst and manager, who inherits it; under names of their own."""

    def __init__(self, door: Door, tool: str) -> None:
        self.door, self.tool = door, tool
        mark = uuid4().hex[:12]
        self.analyst, self.manager = f"analyst-{mark}", f"manager-{mark}"

    async def add(self, role: str, amount: int, reason: str = "because") -> None:
        tool = await Tool.objects.aget(name=self.tool)
        await ArgumentRule.objects.acreate(tool=tool, role=role, schema=at_most(amount), reason=reason)

    async def call(self, role: str, amount: int) -> ToolResult:
        return await self.door.call(self.tool, {"amount": amount}, actor=somebody(role))

    async def may(self, role: str, amount: int) -> bool:
        return (await self.call(role, amount)).ok


@pytest.fixture
async def ruled(door: Door, make_tool: ToolMaker) -> AsyncIterator[Rules]:
    found = Rules(door, await make_tool(transfer))
    analyst = await CallerRole.objects.acreate(name=found.analyst)
    manager = await CallerRole.objects.acreate(name=found.manager)
    await manager.inherits.aadd(analyst)
    yield found
    await CallerRole.objects.filter(name__in=[found.analyst, found.manager]).adelete()


async def test_a_role_is_given_a_wider_range_than_the_one_that_it_inherits(ruled: Rules):
    await ruled.add(ruled.analyst, 100)
    assert not await ruled.may(ruled.manager, 500)
    await ruled.add(ruled.manager, 1000)
    assert await ruled.may(ruled.manager, 500)
    assert not await ruled.may(ruled.manager, 1001)
    assert not await ruled.may(ruled.analyst, 500)
    assert await ruled.may(ruled.analyst, 100)


async def test_a_rule_for_everybody_binds_admin_too(ruled: Rules):
    await ruled.add("user", 10)
    assert await ruled.may("admin", 500)
    await ruled.add("", 100)
    assert not await ruled.may("admin", 500)
    assert not await ruled.may(ruled.manager, 500)
    assert await ruled.may("admin", 100)


async def test_a_role_that_nobody_has_described_is_bound_as_user(ruled: Rules):
    await ruled.add("user", 10)
    assert not await ruled.may("unheard-of", 11)
    assert await ruled.may("unheard-of", 10)
    assert await ruled.may(ruled.analyst, 11)


async def test_the_denial_names_what_does_not_fit_and_why_and_is_recorded(ruled: Rules):
    await ruled.add(ruled.analyst, 100, reason="larger ones are the manager's")
    result = await ruled.call(ruled.analyst, 101)
    assert (result.outcome, result.retryable) == (ToolOutcome.DENIED, False)
    for told in ("amount: 101", "100", repr(ruled.analyst), "larger ones are the manager's"):
        assert told in result.content
    denied = ruled.door.last
    assert denied.action == "tool.denied"
    assert envelope(denied)["reason"] == "argument_rule"
    assert details(denied)["arguments"] == {"amount": 101}


async def test_a_rule_that_is_changed_or_removed_counts_at_once(ruled: Rules):
    await ruled.add("user", 10)
    assert not await ruled.may("user", 11)
    await ArgumentRule.objects.filter(tool__name=ruled.tool).aupdate(schema=at_most(11))
    assert await ruled.may("user", 11)
    await ArgumentRule.objects.filter(tool__name=ruled.tool).adelete()
    assert await ruled.may("user", 12)


async def say(text: str) -> str:
    return text


async def test_a_pattern_that_takes_too_long_refuses_instead_of_passing(door: Door, make_tool: ToolMaker):
    name = await make_tool(say)
    endless = {"type": "object", "properties": {"text": {"pattern": r"^(x+x+)+(?=y)y$"}}}
    await ArgumentRule.objects.acreate(tool=await Tool.objects.aget(name=name), schema=endless, reason="because")
    assert (await door.call(name, {"text": "xxxy"})).ok
    assert (await door.call(name, {"text": "x" * 5_000})).outcome is ToolOutcome.DENIED
