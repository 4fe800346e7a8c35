"""The writer against a real PostgreSQL: fences, poison, connections that break, order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from agentbackend.foundation.database import Database
from agentbackend.foundation.identifiers import uuid7
from agentbackend.foundation.writer import GroupWriter, LeaseLostError, Unit, UnitRejectedError, WriterStoppedError
from orchestration.journal import EVENT_ROWS, STEP_ROWS
from tests.breaking_proxy import BreakingProxy
from tests.stored_runs import stored_event_rows, stored_run


@asynccontextmanager
async def running(writer: GroupWriter) -> AsyncIterator[GroupWriter]:
    writer.start()
    try:
        yield writer
    finally:
        await writer.stop()


def unit_of(run_id: UUID, fence: int, seq: int, events: bytes = b"{}") -> Unit:
    unit = Unit(run_id, fence)
    unit.add(EVENT_ROWS, (run_id, seq, seq, events))
    return unit


def poisoned(run_id: UUID) -> Unit:
    unit = Unit(run_id, 1)
    unit.add(STEP_ROWS, (uuid7(), run_id, 1, "model_turn", "x", "started", '{"text": "a\\u0000b"}'))
    return unit


async def test_rows_are_committed_and_their_release_is_called_after_the_commit(database_pool: Database) -> None:
    run_id = await stored_run(database_pool)
    seen: list[str] = []
    async with running(GroupWriter(database_pool)) as writer:
        unit = unit_of(run_id, 1, 1)
        unit.on_commit = lambda: seen.append(unit.state)
        await writer.commit(unit)
    assert seen == ["committed"]
    assert await stored_event_rows(database_pool, run_id) == [(1, 1, b"{}")]


async def test_a_zombies_rows_are_refused_in_a_group_whose_other_rows_stay(database_pool: Database) -> None:
    stale, current = await stored_run(database_pool), await stored_run(database_pool)
    await database_pool.execute("UPDATE orchestration_run SET fence = 2 WHERE id = %s", (stale,))
    writer = GroupWriter(database_pool)
    zombie, owner, successor = (
        unit_of(stale, 1, 1, b"zombie"),
        unit_of(current, 1, 1),
        unit_of(stale, 2, 1, b"successor"),
    )
    for unit in (zombie, owner, successor):
        writer.submit(unit)
    async with running(writer):
        with pytest.raises(LeaseLostError):
            await zombie.done()
        await owner.done()
        await successor.done()
    assert writer.statistics.groups == 1
    assert await stored_event_rows(database_pool, stale) == [(1, 1, b"successor")]
    assert await stored_event_rows(database_pool, current) == [(1, 1, b"{}")]


async def test_a_group_waits_for_a_claim_that_is_under_way_and_then_refuses_the_former_owner(
    database_pool: Database,
) -> None:
    run_id = await stored_run(database_pool)
    async with running(GroupWriter(database_pool)) as writer:
        async with database_pool.connection() as claim:
            await claim.execute("UPDATE orchestration_run SET fence = fence + 1 WHERE id = %s", (run_id,))
            unit = unit_of(run_id, 1, 1)
            writer.submit(unit)
            await _until_somebody_waits_for_a_lock(database_pool)
            assert unit.state == "sealed"
        with pytest.raises(LeaseLostError):
            await unit.done()
    assert await stored_event_rows(database_pool, run_id) == []


async def _until_somebody_waits_for_a_lock(database: Database) -> None:
    async with asyncio.timeout(10):
        while True:
            row = await database.fetch_one("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if row is not None and row[0]:
                return


async def test_a_poisoned_row_fails_its_own_run_only(database_pool: Database) -> None:
    healthy = [await stored_run(database_pool) for _ in range(3)]
    sick = await stored_run(database_pool)
    writer = GroupWriter(database_pool)
    good = [unit_of(run_id, 1, 1) for run_id in healthy]
    bad = poisoned(sick)
    for unit in (good[0], bad, good[1], good[2]):
        writer.submit(unit)
    async with running(writer):
        with pytest.raises(UnitRejectedError):
            await bad.done()
        for unit in good:
            await unit.done()
    for run_id in healthy:
        assert await stored_event_rows(database_pool, run_id) == [(1, 1, b"{}")]


@pytest.mark.parametrize("moment", ["before the commit arrives", "after the commit, before its answer"])
async def test_a_connection_cut_during_commit_loses_and_doubles_nothing(database_pool: Database, moment: str) -> None:
    run_id = await stored_run(database_pool)
    upstream = conninfo_to_dict(settings.DATABASE_PLAN.runtime_conninfo)
    async with BreakingProxy(upstream["host"], int(upstream.get("port") or 5432)) as proxy:
        through_proxy = Database()
        conninfo = make_conninfo(settings.DATABASE_PLAN.runtime_conninfo, host=proxy.directory, port=proxy.port)
        statements = settings.DATABASE_PLAN.session_statements
        await through_proxy.open(conninfo, session_statements=statements, min_size=1, max_size=1)
        released: list[int] = []
        try:
            async with running(GroupWriter(through_proxy)) as writer:
                await writer.commit(unit_of(run_id, 1, 1, b"first"))
                proxy.cut_at_commit(let_it_through=moment.startswith("after"))
                unit = unit_of(run_id, 1, 2, b"second")
                unit.on_commit = lambda: released.append(2)
                await writer.commit(unit)
                await writer.commit(unit_of(run_id, 1, 3, b"third"))
                assert writer.statistics.retries >= 1
        finally:
            await through_proxy.close()
    assert proxy.cuts == 1
    assert released == [2]
    assert await stored_event_rows(database_pool, run_id) == [(1, 1, b"first"), (2, 2, b"second"), (3, 3, b"third")]


async def test_a_hundred_runs_at_once_keep_their_order_without_gaps(database_pool: Database) -> None:
    run_ids = [await stored_run(database_pool) for _ in range(100)]
    released: dict[UUID, list[int]] = {run_id: [] for run_id in run_ids}

    async def write(writer: GroupWriter, run_id: UUID) -> None:
        for seq in range(1, 21):
            unit = unit_of(run_id, 1, seq)
            unit.on_commit = lambda seq=seq: released[run_id].append(seq)  # type: ignore[misc]
            writer.submit(unit)
            if seq % 5 == 0:
                await unit.done()

    async with running(GroupWriter(database_pool)) as writer:
        await asyncio.gather(*(write(writer, run_id) for run_id in run_ids))
    assert all(seqs == list(range(1, 21)) for seqs in released.values())
    assert writer.statistics.groups < 400, "units of different runs share groups"
    for run_id in run_ids[::10]:
        rows = await stored_event_rows(database_pool, run_id)
        assert [row[0] for row in rows] == list(range(1, 21))


async def test_producers_wait_while_the_writer_is_behind(database_pool: Database) -> None:
    run_id = await stored_run(database_pool)
    async with running(GroupWriter(database_pool, max_lag_seconds=0.0)) as writer:
        async with database_pool.connection() as claim:
            await claim.execute("SELECT FROM orchestration_run WHERE id = %s FOR UPDATE", (run_id,))
            writer.submit(unit_of(run_id, 1, 1))
            await _until_somebody_waits_for_a_lock(database_pool)
            waiting = asyncio.ensure_future(writer.room())
            await asyncio.sleep(0)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 10)


async def test_what_is_pending_at_the_stop_is_committed_and_what_comes_later_fails(database_pool: Database) -> None:
    run_id = await stored_run(database_pool)
    writer = GroupWriter(database_pool)
    writer.start()
    pending, late = unit_of(run_id, 1, 1), unit_of(run_id, 1, 2)
    writer.submit(pending)
    await writer.stop()
    await pending.done()
    with pytest.raises(WriterStoppedError):
        await writer.commit(late)
    assert await stored_event_rows(database_pool, run_id) == [(1, 1, b"{}")]
