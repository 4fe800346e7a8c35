"""Counting under budgets: what fits, what does not, who gets the last part, and what is settled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ValidationError

from agentbackend.foundation.database import Database
from agentbackend.foundation.identifiers import uuid7
from agentbackend.foundation.writer import GroupWriter, Unit
from audit.actor import SYSTEM, Actor
from tests.tools.support import somebody
from tools.changes import submit
from tools.documents import Document
from tools.governance.budget_ledger import (
    SETTLED_ROWS,
    BudgetLedger,
    forget_old_use,
    release_all,
    reserving_runs,
    settlement,
    turn_slot,
)
from tools.governance.budgets import Amounts, Left, OverBudgetError
from tools.models import Budget, BudgetReservation, BudgetUse
from tools.registry import ToolRegistry

pytestmark = pytest.mark.asyncio


@pytest.fixture
async def ledger(database_pool: Database) -> BudgetLedger:
    """A ledger that always looks at the registry."""
    return BudgetLedger(database_pool, ToolRegistry(database_pool, max_age_seconds=0).snapshot)


@pytest.fixture
async def budget() -> AsyncIterator[Callable[..., Any]]:
    """Makes budgets for one caller; all are gone after the test."""
    made: list[str] = []

    async def make(actor: Actor | None, what: str, limit: float, period: str = "day", **spec: Any) -> str:
        made.append(f"test-{uuid4().hex[:12]}")
        said = {"user_id": actor.id if actor else "", "what": what, "limit": limit, "period": period, **spec}
        await sync_to_async(submit)(Document("Budget", made[-1], said), by=SYSTEM)
        return made[-1]

    yield make
    for name in made:
        await sync_to_async(submit)(Document("Budget", name, None), by=SYSTEM)


async def uses(name: str) -> list[tuple[int, int]]:
    """What is used and reserved of a budget, by window."""
    rows = BudgetUse.objects.filter(budget__name=name).order_by("window_start")
    return [(row.used, row.reserved) async for row in rows]


async def settle(database: Database, run_id: Any, number: int, used: Amounts) -> None:
    """Settle a turn as a run's journal does, for a run that nobody holds."""
    writer = GroupWriter(database)
    writer.start()
    unit = Unit()
    unit.add(SETTLED_ROWS, settlement(run_id, turn_slot(number), used))
    await writer.commit(unit)
    await writer.stop()


async def test_nothing_is_asked_of_the_database_where_no_budget_binds(ledger: BudgetLedger) -> None:
    actor = somebody()
    assert await ledger.admission("support", actor) is None
    assert await ledger.reserve_turn(uuid7(), 1, "support", actor, lambda: Amounts(tokens=10**9)) is False
    assert await ledger.left_for("support", actor) == []


async def test_a_turn_is_reserved_once_and_settled_once_with_what_was_really_used(
    ledger: BudgetLedger, budget: Callable[..., Any], database_pool: Database
) -> None:
    actor, run = somebody(), uuid7()
    name = await budget(actor, "tokens", 100)
    for _ in range(2):  # a successor does the turn again
        assert await ledger.reserve_turn(run, 1, "a", actor, lambda: Amounts(tokens=60))
    assert await uses(name) == [(0, 60)]
    for _ in range(2):  # a group that is sent again
        await settle(database_pool, run, 1, Amounts(tokens=45))
    assert await uses(name) == [(45, 0)]
    with pytest.raises(OverBudgetError) as refused:
        await ledger.reserve_turn(run, 2, "a", actor, lambda: Amounts(tokens=56))
    assert await uses(name) == [(45, 0)], "what does not fit leaves nothing behind"
    assert not await BudgetReservation.objects.filter(run_id=run).aexists()
    tomorrow = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    assert refused.value.renews_at == tomorrow
    assert name in str(refused.value)
    assert "45" not in str(refused.value)
    await ledger.reserve_turn(run, 2, "a", actor, lambda: Amounts(tokens=55))


async def test_the_strictest_of_all_budgets_decides_and_the_others_take_nothing(
    ledger: BudgetLedger, budget: Callable[..., Any]
) -> None:
    actor = somebody()
    wide, narrow = await budget(actor, "tokens", 1000), await budget(actor, "tokens", 10, "minute")
    with pytest.raises(OverBudgetError, match=narrow):
        await ledger.reserve_turn(uuid7(), 1, "a", actor, lambda: Amounts(tokens=11))
    assert await uses(wide) == []
    await ledger.reserve_turn(uuid7(), 1, "a", actor, lambda: Amounts(tokens=10))
    assert (await uses(wide), await uses(narrow)) == ([(0, 10)], [(0, 10)])


async def test_of_many_who_want_the_last_part_at_once_exactly_one_gets_it(
    ledger: BudgetLedger, budget: Callable[..., Any]
) -> None:
    actor = somebody()
    first, second = await budget(actor, "tool_calls", 3), await budget(actor, "tool_calls", 5, "month")
    tried = await asyncio.gather(*(ledger.use_tool_call("", actor) for _ in range(12)), return_exceptions=True)
    assert [type(found) for found in tried].count(OverBudgetError) == 9
    assert [found for found in tried if found is not None and not isinstance(found, OverBudgetError)] == []
    assert (await uses(first), await uses(second)) == ([(3, 0)], [(3, 0)])


async def test_a_budget_renews_with_its_window(ledger: BudgetLedger, budget: Callable[..., Any]) -> None:
    actor = somebody()
    name = await budget(actor, "tool_calls", 1, "month")
    await ledger.use_tool_call("", actor)
    with pytest.raises(OverBudgetError) as refused:
        await ledger.use_tool_call("", actor)
    assert 0 < refused.value.retry_after <= 31 * 86400
    await _the_window_passes(name)
    await ledger.use_tool_call("", actor)
    assert await uses(name) == [(1, 0), (1, 0)]


async def _the_window_passes(name: str) -> None:
    """The window that is open now becomes the one before it."""
    async for row in BudgetUse.objects.filter(budget__name=name):
        await BudgetUse.objects.filter(pk=row.pk).aupdate(window_start=row.window_start - timedelta(days=31))


async def test_each_user_has_a_budget_or_all_share_it(ledger: BudgetLedger, budget: Callable[..., Any]) -> None:
    role = f"role-{uuid4().hex[:8]}"
    one, other = somebody(role=role), somebody(role=role)
    await sync_to_async(submit)(Document("Role", role, {}), by=SYSTEM)
    try:
        shared = await budget(None, "tool_calls", 2, role=role)
        each = await budget(None, "tool_calls", 1, role=role, each_user=True)
        await ledger.use_tool_call("", one)
        with pytest.raises(OverBudgetError, match=each):
            await ledger.use_tool_call("", one)
        await ledger.use_tool_call("", other)
        assert (await uses(shared), await uses(each)) == ([(2, 0)], [(1, 0), (1, 0)])
        await ledger.use_tool_call("", somebody(role="user"))
    finally:
        await sync_to_async(submit)(Document("Role", role, None), by=SYSTEM)


async def test_a_role_that_nobody_described_is_bound_as_a_user(
    ledger: BudgetLedger, budget: Callable[..., Any]
) -> None:
    actor = somebody(role="never-heard-of")
    await budget(actor, "tool_calls", 0, role="user")
    with pytest.raises(OverBudgetError):
        await ledger.use_tool_call("", actor)


async def test_a_budget_of_an_agent_does_not_count_what_others_do(
    ledger: BudgetLedger, budget: Callable[..., Any]
) -> None:
    actor = somebody()
    await budget(actor, "tool_calls", 0, agent="support")
    await ledger.use_tool_call("", actor)
    await ledger.use_tool_call("sales", actor)
    with pytest.raises(OverBudgetError):
        await ledger.use_tool_call("support", actor)


async def test_runs_at_the_same_time_are_held_until_they_are_released(
    ledger: BudgetLedger, budget: Callable[..., Any], database_pool: Database
) -> None:
    actor, first = somebody(), uuid7()
    name = await budget(actor, "concurrent_runs", 1, "")

    async def begin(run: Any) -> None:
        admission = await ledger.admission("a", actor)
        assert admission is not None
        assert admission.holds
        async with database_pool.connection() as connection:
            await admission.take(connection, run)

    await begin(first)
    with pytest.raises(OverBudgetError, match="at the moment"):
        await begin(uuid7())
    assert first in await reserving_runs(database_pool, older_than_seconds=0)
    for _ in range(2):
        await release_all(database_pool, [first])
    await begin(uuid7())
    assert await uses(name) == [(0, 1)]


async def test_costs_are_counted_in_billionths_and_a_model_without_a_price_does_not_pass(
    ledger: BudgetLedger, budget: Callable[..., Any], database_pool: Database
) -> None:
    actor, run = somebody(), uuid7()
    name = await budget(actor, "cost", 0.25, "month")
    assert await ledger.counts_costs("a", actor)
    with pytest.raises(OverBudgetError, match="no price"):
        await ledger.reserve_turn(run, 1, "a", actor, lambda: Amounts(tokens=1, cost=None))
    await ledger.reserve_turn(run, 1, "a", actor, lambda: Amounts(tokens=1, cost=200_000_000))
    await settle(database_pool, run, 1, Amounts(tokens=1, cost=1_000_001))
    assert await uses(name) == [(1_000_001, 0)]
    [left] = await ledger.left_for("a", actor)
    assert isinstance(left, Left)
    assert left.as_dict()["left"] == "0.248999999"
    assert left.renews_at is not None
    assert left.renews_at.day == 1


async def test_what_is_counted_is_forgotten_when_something_else_is_counted(
    ledger: BudgetLedger, budget: Callable[..., Any], database_pool: Database
) -> None:
    actor = somebody()
    name = await budget(actor, "tool_calls", 5)
    await ledger.use_tool_call("", actor)
    spec = {"user_id": actor.id, "what": "tool_calls", "limit": 7.0, "period": "day"}
    await sync_to_async(submit)(Document("Budget", name, spec), by=SYSTEM)
    assert await uses(name) == [(1, 0)], "another limit for the same count"
    await sync_to_async(submit)(Document("Budget", name, {**spec, "period": "hour"}), by=SYSTEM)
    assert await uses(name) == []


async def test_windows_that_nobody_asks_about_any_more_are_swept(
    ledger: BudgetLedger, budget: Callable[..., Any], database_pool: Database
) -> None:
    actor = somebody()
    name = await budget(actor, "tool_calls", 5, "minute")
    await ledger.use_tool_call("", actor)
    old = datetime.now(UTC) - timedelta(days=3)
    [row] = [row async for row in BudgetUse.objects.filter(budget__name=name)]
    await BudgetUse.objects.filter(pk=row.pk).aupdate(window_start=old, updated_at=old)
    await ledger.use_tool_call("", actor)
    assert await forget_old_use(database_pool) >= 1
    assert await uses(name) == [(1, 0)]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"what": "tokens", "limit": 1.5, "period": "day"}, "limit"),
        ({"what": "tokens", "limit": -1, "period": "day"}, "limit"),
        ({"what": "cost", "limit": 10.0**10, "period": "day"}, "limit"),
        ({"what": "runs", "limit": 1}, "period"),
        ({"what": "concurrent_runs", "limit": 1, "period": "day"}, "period"),
        ({"what": "hours", "limit": 1, "period": "day"}, "what"),
    ],
)
async def test_a_budget_that_means_nothing_is_refused(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        await sync_to_async(submit)(Document("Budget", f"test-{uuid4().hex[:12]}", spec), by=SYSTEM)
    assert field in refused.value.message_dict
    assert not await Budget.objects.filter(what="hours").aexists()
