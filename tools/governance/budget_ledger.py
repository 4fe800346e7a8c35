"""Counting under budgets: one statement takes from all budgets that bind, or from none.

A row of `tools_budgetuse` is one window of one budget for one caller (or for all of them). It grows by an upsert that does nothing
when the limit would be passed, so of two processes that want the last part one gets it. Rows are locked in the order of their keys,
here as in the settlement, so nobody waits for nobody. The time is the database's: processes whose clocks differ see the same windows.

What a run reserves stands in `tools_budgetreservation` under the run and a slot until it is settled: with the run's journal, under
its fence, so exactly once whoever carries the run out by then. A successor that does a turn again finds its predecessor's reservation
under the same slot.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg import errors as pg_errors
from psycopg_pool import PoolTimeout

from agentbackend.foundation.database import Connection, Database, database
from agentbackend.foundation.writer import changed_rows
from audit.actor import Actor
from tools.governance.budgets import Amounts, BudgetRule, Left, OverBudgetError, What, binding
from tools.registry import Snapshot, registry

logger = logging.getLogger(__name__)

RUN_SLOT: Final = "run"
SHORT_OF_DATABASE_SECONDS: Final = 30.0
KEPT_FOR: Final = {"minute": "2 days", "hour": "35 days", "day": "400 days", "month": "1200 days"}

# The end of a month is reckoned without a time zone: the session's own would move it.
_WINDOW = """
    CASE u.period WHEN '' THEN timestamptz 'epoch' ELSE date_trunc(u.period, now(), 'UTC') END AS window_start,
    CASE u.period WHEN '' THEN NULL
        ELSE (date_trunc(u.period, now() AT TIME ZONE 'UTC') + ('1 ' || u.period)::interval) AT TIME ZONE 'UTC' END AS ends
"""
_TAKE = f"""
WITH wanted AS MATERIALIZED (
    SELECT u.*, {_WINDOW} FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[])
        AS u(budget_id, whose, what, period, amount, bound)
), reserved AS (
    INSERT INTO tools_budgetreservation (run_id, slot, budget_id, whose, window_start, what, amount)
    SELECT %s::uuid, %s, budget_id, whose, window_start, what, amount FROM wanted WHERE %s
    ON CONFLICT DO NOTHING RETURNING budget_id
), taken AS (
    INSERT INTO tools_budgetuse AS spent (budget_id, whose, window_start, used, reserved, bound)
    SELECT budget_id, whose, window_start, CASE WHEN %s THEN 0 ELSE amount END, CASE WHEN %s THEN amount ELSE 0 END, bound
    FROM wanted WHERE amount <= bound AND (NOT %s OR budget_id IN (SELECT budget_id FROM reserved))
    ORDER BY budget_id, whose, window_start
    ON CONFLICT (budget_id, whose, window_start) DO UPDATE SET used = spent.used + excluded.used,
        reserved = spent.reserved + excluded.reserved, bound = excluded.bound, updated_at = now()
    WHERE spent.used + spent.reserved + excluded.used + excluded.reserved <= excluded.bound
    RETURNING budget_id
)
SELECT budget_id, ends, extract(epoch FROM ends - now())::float8 FROM wanted
WHERE budget_id NOT IN (SELECT budget_id FROM taken) AND (NOT %s OR budget_id IN (SELECT budget_id FROM reserved))
"""  # noqa: S608 - constants of this module
_STAND = f"""
WITH wanted AS MATERIALIZED (
    SELECT u.*, {_WINDOW} FROM unnest(%s::uuid[], %s::text[], %s::text[]) AS u(budget_id, whose, period)
)
SELECT wanted.budget_id, coalesce(spent.used + spent.reserved, 0), ends, extract(epoch FROM ends - now())::float8
FROM wanted LEFT JOIN tools_budgetuse AS spent USING (budget_id, whose, window_start)
"""  # noqa: S608 - constants of this module
_SETTLE = """
WITH gone AS (
    DELETE FROM tools_budgetreservation AS r USING {rows}
    WHERE r.run_id = u.run_id AND ({every} OR r.slot = u.slot) AND {held}
    RETURNING r.budget_id, r.whose, r.window_start, r.amount,
        CASE r.what WHEN 'tokens' THEN u.tokens WHEN 'cost' THEN u.cost ELSE 0 END AS actual
), total AS (
    SELECT budget_id, whose, window_start, sum(amount)::bigint AS amount, sum(actual)::bigint AS actual
    FROM gone GROUP BY budget_id, whose, window_start
), held_use AS (
    SELECT total.* FROM tools_budgetuse AS spent JOIN total USING (budget_id, whose, window_start)
    ORDER BY spent.budget_id, spent.whose, spent.window_start FOR UPDATE OF spent
)
UPDATE tools_budgetuse AS spent SET used = spent.used + held_use.actual,
    reserved = greatest(spent.reserved - held_use.amount, 0), updated_at = now()
FROM held_use WHERE spent.budget_id = held_use.budget_id AND spent.whose = held_use.whose
    AND spent.window_start = held_use.window_start
"""
_SETTLED_COLUMNS = {"run_id": "uuid", "slot": "text", "tokens": "bigint", "cost": "bigint"}
_OF_ONE_SLOT = _SETTLE.replace("{every}", "false")
_OF_ALL_SLOTS = _SETTLE.replace("{every}", "true")

SETTLED_ROWS = changed_rows("budget settled", _SETTLED_COLUMNS, _OF_ONE_SLOT, order=6)
"""A run's slot with what was really used: tokens, and nano-dollars."""
RELEASED_ROWS = changed_rows("budget released", _SETTLED_COLUMNS, _OF_ALL_SLOTS, order=7)
"""Everything that a run still holds, when it ends."""


@dataclass(frozen=True, slots=True)
class _Wish:
    rule: BudgetRule
    amount: int


class BudgetLedger:
    """What is used under the budgets of the registry. Nothing is asked of the database where no budget binds."""

    def __init__(self, database: Database, snapshot: Callable[[], Awaitable[Snapshot]]) -> None:
        self._database = database
        self._snapshot = snapshot

    async def admission(self, agent: str, actor: Actor) -> Admission | None:
        """What a new run of this caller must pass; None when no budget binds it."""
        rules = await self._binding(agent, actor, What.RUNS, What.CONCURRENT_RUNS, What.TOKENS, What.COST)
        return Admission(rules, actor) if rules else None

    async def reserve_turn(
        self, run_id: UUID, number: int, agent: str, actor: Actor, may_use: Callable[[], Amounts]
    ) -> bool:
        """Reserve what a model turn may use; whether anything was to be reserved, and so is to be settled.

        `may_use` is asked only where a budget binds. Raises OverBudgetError. The same turn of the same run again finds what it has
        reserved already.
        """
        rules = await self._binding(agent, actor, What.TOKENS, What.COST)
        if not rules:
            return False
        wishes = _wishes(rules, may_use())
        await self._patiently(lambda: self._take(wishes, actor, run_id, turn_slot(number)))
        return True

    async def counts_costs(self, agent: str, actor: Actor) -> bool:
        """Whether a budget for costs binds, so that only models with a price can be used."""
        return bool(await self._binding(agent, actor, What.COST))

    async def use_tool_call(self, agent: str, actor: Actor, snapshot: Snapshot | None = None) -> None:
        """Count one call of a tool, under the budgets of the registry (or of the snapshot that the call is checked by).

        Raises OverBudgetError.
        """
        found = snapshot or await self._snapshot()
        rules = binding(found.budgets, agent, actor, found.inheritance, What.TOOL_CALLS)
        if rules:
            wishes = _wishes(rules, Amounts(tool_calls=1))
            await self._patiently(lambda: self._take(wishes, actor))

    async def left_for(self, agent: str, actor: Actor) -> list[Left]:
        """What is left of each budget that binds this caller with this agent, in the order of their names."""
        rules = await self._binding(agent, actor)
        if not rules:
            return []
        async with self._database.connection() as connection:
            stand = await _stand(connection, rules, actor)
        return [Left(rule, rule.bound - stand[rule.id][0], stand[rule.id][1]) for rule in rules]

    async def _binding(self, agent: str, actor: Actor, *what: What) -> list[BudgetRule]:
        snapshot = await self._snapshot()
        return binding(snapshot.budgets, agent, actor, snapshot.inheritance, *what) if snapshot.budgets else []

    async def _take(self, wishes: Sequence[_Wish], actor: Actor, run_id: UUID | None = None, slot: str = "") -> None:
        async with self._database.connection() as connection:
            await _take(connection, wishes, actor, run_id, slot)

    async def _patiently(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do it, and again while the database is away, for a while: what cannot be counted does not happen."""
        give_up = time.monotonic() + SHORT_OF_DATABASE_SECONDS
        while True:
            try:
                return await work()
            except (pg_errors.DeadlockDetected, psycopg.OperationalError, PoolTimeout) as error:
                if time.monotonic() > give_up:
                    raise
                logger.warning("a budget cannot be asked; trying again", extra={"reason": type(error).__name__})
                await asyncio.sleep(0.2)


@dataclass(frozen=True, slots=True)
class Admission:
    """The budgets that bind a run that is to be created."""

    rules: Sequence[BudgetRule]
    actor: Actor

    @property
    def holds(self) -> bool:
        """Whether the run will hold something until it ends."""
        return any(rule.what is What.CONCURRENT_RUNS for rule in self.rules)

    async def take(self, connection: Connection, run_id: UUID) -> None:
        """Count the run, in the transaction that creates it; raises OverBudgetError, and then that must be rolled back.

        A budget of tokens or costs must have something left; how much a turn needs is reserved before the turn.
        """
        counted = [rule for rule in self.rules if rule.what is What.RUNS]
        held = [rule for rule in self.rules if rule.what is What.CONCURRENT_RUNS]
        if counted:
            await _take(connection, _wishes(counted, Amounts(runs=1)), self.actor)
        if held:
            await _take(connection, _wishes(held, Amounts(concurrent_runs=1)), self.actor, run_id, RUN_SLOT)
        if spent := [rule for rule in self.rules if rule.what in (What.TOKENS, What.COST)]:
            stand = await _stand(connection, spent, self.actor)
            least = 1  # of tokens or costs: with nothing left a turn need not be tried
            _refuse_over([(rule, *stand[rule.id][1:], least) for rule in spent if stand[rule.id][0] >= rule.bound])


def turn_slot(number: int) -> str:
    """Under which a run's model turn reserves."""
    return f"turn {number}"


def settlement(run_id: UUID, slot: str, used: Amounts) -> tuple[Any, ...]:
    """A row of SETTLED_ROWS."""
    return (run_id, slot, used.tokens, used.cost or 0)


def release(run_id: UUID) -> tuple[Any, ...]:
    """A row of RELEASED_ROWS."""
    return (run_id, "", 0, 0)


async def reserving_runs(database: Database, *, older_than_seconds: float) -> list[UUID]:
    """Runs that hold something for longer than this."""
    rows = await database.fetch_all(
        "SELECT DISTINCT run_id FROM tools_budgetreservation WHERE created_at < now() - make_interval(secs => %s)",
        (older_than_seconds,),
    )
    return [row[0] for row in rows]


async def release_all(database: Database, run_ids: Sequence[UUID]) -> None:
    """Give back what these runs hold: they have ended, and nobody did it for them."""
    count = len(run_ids)
    parameters = ([None] * count, [0] * count, list(run_ids), [""] * count, [0] * count, [0] * count)
    await database.execute(RELEASED_ROWS.statement.replace("%b", "%s"), parameters)


async def forget_old_use(database: Database) -> int:
    """Remove windows that nobody asks about any more, and those of budgets that are gone; returns how many."""
    return await database.execute(
        "DELETE FROM tools_budgetuse AS spent WHERE updated_at < now() - interval '1 day' AND NOT EXISTS (SELECT FROM tools_budget "
        "AS budget WHERE budget.id = spent.budget_id AND (budget.period = '' OR spent.window_start > now() - "
        "(CASE budget.period WHEN 'minute' THEN %s WHEN 'hour' THEN %s WHEN 'day' THEN %s ELSE %s END)::interval))",
        tuple(KEPT_FOR[period] for period in ("minute", "hour", "day", "month")),
    )


def _wishes(rules: Sequence[BudgetRule], may_use: Amounts) -> list[_Wish]:
    """What each budget is asked for; raises OverBudgetError for one that cannot count it."""
    found = []
    for rule in rules:
        amount = may_use.of(rule.what)
        if amount is None:
            raise OverBudgetError(rule, None, 0.0, unpriced=True)
        found.append(_Wish(rule, amount))
    return found


async def _take(
    connection: Connection, wishes: Sequence[_Wish], actor: Actor, run_id: UUID | None = None, slot: str = ""
) -> None:
    """Take all or raise OverBudgetError, which must roll the transaction back. With a run it is reserved, else used."""
    rules, holds = [wish.rule for wish in wishes], run_id is not None
    arrays = (
        [rule.id for rule in rules],
        [rule.whose(actor) for rule in rules],
        [rule.what.value for rule in rules],
        [rule.period.value if rule.period else "" for rule in rules],
        [wish.amount for wish in wishes],
        [rule.bound for rule in rules],
    )
    cursor = await connection.execute(_TAKE, (*arrays, run_id, slot, *[holds] * 5))
    over = {row[0]: row[1:] for row in await cursor.fetchall()}
    _refuse_over([(wish.rule, *over[wish.rule.id], wish.amount) for wish in wishes if wish.rule.id in over])


async def _stand(
    connection: Connection, rules: Sequence[BudgetRule], actor: Actor
) -> dict[UUID, tuple[int, datetime | None, float]]:
    """By budget: what is used and reserved of it, and when it renews (and in how many seconds)."""
    arrays = (
        [rule.id for rule in rules],
        [rule.whose(actor) for rule in rules],
        [rule.period.value if rule.period else "" for rule in rules],
    )
    cursor = await connection.execute(_STAND, arrays)
    return {row[0]: (row[1], row[2], row[3] or 0.0) for row in await cursor.fetchall()}


def _refuse_over(over: Sequence[tuple[BudgetRule, datetime | None, float | None, int]]) -> None:
    """Raise for a budget that is too small as a whole, else for the one that renews last: asking again before that would be in vain."""
    found = [
        OverBudgetError(rule, renews_at, seconds or 0.0, amount=amount) for rule, renews_at, seconds, amount in over
    ]
    if found:
        raise max(found, key=lambda error: (error.is_hopeless, error.seconds))


ledger = BudgetLedger(database, registry.snapshot)
"""The process's ledger, on the process's pool."""


async def left_for(agent: str, actor: Actor) -> list[dict[str, Any]]:
    """What is left for this caller with this agent (its slug): `{budget, what, left, renewsAt}` each.

    Of budgets that are the caller's own: what is left of a shared one would tell what others have used.
    """
    left = await ledger.left_for(agent, actor)
    return [own.as_dict() for own in left if own.rule.each_user or own.rule.user_id == actor.id]
