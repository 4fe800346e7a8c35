"""A run's journal against a real PostgreSQL: numbers without gaps, release after the commit, a refused unit that leaves no hole."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import psycopg
import pytest

from agentbackend.foundation.database import Database
from agentbackend.foundation.identifiers import uuid7
from agentbackend.foundation.writer import GroupWriter, LeaseLostError, UnitRejectedError
from orchestration import events as ev
from orchestration.journal import STEP_ROWS, RunJournal
from orchestration.live import LiveRuns, Subscription
from orchestration.recovery import claim_run, end_abandoned
from orchestration.store import renew_leases
from tests.runs.support import eventually
from tests.stored_runs import stored_event_rows, stored_run


@pytest.fixture
async def writer(database_pool: Database) -> AsyncIterator[GroupWriter]:
    running = GroupWriter(database_pool)
    running.start()
    yield running
    await running.stop()


async def watched_journal(database: Database, writer: GroupWriter) -> tuple[RunJournal, Subscription]:
    run_id = await stored_run(database)
    live = LiveRuns(database)
    channel = live.open_local(run_id, str(run_id))
    return RunJournal(run_id=run_id, fence=1, channel=channel, writer=writer), live.subscribe(run_id, str(run_id))


async def logged(database: Database, run_id: UUID) -> list[tuple[int, ev.Event]]:
    return [
        (seq_from + index, ev.decode(line))
        for seq_from, _, events in await stored_event_rows(database, run_id)
        for index, line in enumerate(events.split(b"\n"))
    ]


async def test_events_reach_readers_once_they_are_committed_and_not_before(
    database_pool: Database, writer: GroupWriter
) -> None:
    journal, reader = await watched_journal(database_pool, writer)
    journal.emit(ev.RunStarted(thread_id="t", run_id="r"))
    assert reader.take() == ([], False)
    await journal.flush()
    [chunk], _ = reader.take()
    assert [(chunk.seq_from, ev.decode(line)) for line in chunk.lines] == await logged(database_pool, journal.run_id)


async def test_a_refused_unit_and_all_after_it_leave_no_hole_in_the_log(
    database_pool: Database, writer: GroupWriter
) -> None:
    journal, reader = await watched_journal(database_pool, writer)
    journal.emit(ev.RunStarted(thread_id="t", run_id="r"))
    await journal.flush()
    journal.emit(ev.StepStarted(step_name="poisoned"))
    refused = journal._current_unit()
    refused.add(STEP_ROWS, (uuid7(), journal.run_id, 1, "model_turn", "x", "started", "this is no JSON"))
    with pytest.raises(UnitRejectedError):
        await journal.flush()
    journal.discard_rejected()
    journal.emit(ev.RunError(message="The run could not be recorded.", code="internal_error"))
    await journal.flush()
    assert [(number, type(event).__name__) for number, event in await logged(database_pool, journal.run_id)] == [
        (1, "RunStarted"),
        (2, "RunError"),
    ]
    chunks, _ = reader.take()
    assert [chunk.seq_from for chunk in chunks] == [1, 2]


async def test_a_former_owner_writes_nothing_and_is_told(database_pool: Database, writer: GroupWriter) -> None:
    journal, reader = await watched_journal(database_pool, writer)
    await database_pool.execute("UPDATE orchestration_run SET fence = 2 WHERE id = %s", (journal.run_id,))
    journal.emit(ev.RunStarted(thread_id="t", run_id="r"))
    with pytest.raises(LeaseLostError):
        await journal.flush()
    assert reader.take() == ([], False)
    assert await logged(database_pool, journal.run_id) == []


async def test_text_that_jsonb_cannot_hold_does_not_fail_the_run(database_pool: Database, writer: GroupWriter) -> None:
    journal, _ = await watched_journal(database_pool, writer)
    journal.step_started(number=1, kind="model_turn", name="x", detail={"nul": "a\x00b", "literal": "a\\u0000b"})
    await journal.flush()
    rows = await database_pool.fetch_all("SELECT detail FROM orchestration_step WHERE run_id = %s", (journal.run_id,))
    assert rows[0][0] == {"nul": "a\ufffdb", "literal": "a\\u0000b"}


async def test_an_abandoned_run_whose_log_cannot_be_read_can_be_ended(
    database_pool: Database, writer: GroupWriter
) -> None:
    unreadable, readable = [await stored_run(database_pool, lease_seconds=-1) for _ in range(2)]
    for run_id, events in ((unreadable, b"{}"), (readable, ev.encode(ev.RunStarted(thread_id="t", run_id="r")))):
        await database_pool.execute(
            "INSERT INTO orchestration_runevents (run_id, seq_from, seq_to, events) VALUES (%s, 1, 1, %s)",
            (run_id, events),
        )
    live = LiveRuns(database_pool)
    for run_id in (unreadable, readable):
        claim = await claim_run(database_pool, run_id, owner="test", lease_seconds=60)
        assert claim is not None
        await end_abandoned(database_pool, writer, live, claim)
        row = await database_pool.fetch_one(
            "SELECT status, error_code, last_seq FROM orchestration_run WHERE id = %s", (run_id,)
        )
        assert row == ("failed", "run_abandoned", 2)


async def test_leases_are_renewed_in_the_order_in_which_the_writer_locks_runs(
    database_pool: Database, superuser_connection: psycopg.Connection
) -> None:
    first, second = sorted([await stored_run(database_pool) for _ in range(2)])
    lock = "SELECT FROM orchestration_run WHERE id = %s FOR NO KEY UPDATE NOWAIT"
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"

    def renewal_waits() -> bool:
        return superuser_connection.execute(waiting).fetchone() == (1,)

    with superuser_connection.transaction():
        superuser_connection.execute(lock, (first,))
        renewing = asyncio.create_task(renew_leases(database_pool, [(second, 1), (first, 1)], 60.0))
        await asyncio.to_thread(eventually, renewal_waits, "the renewal waits for the first run")
        superuser_connection.execute(lock, (second,))
    assert await renewing == {first: False, second: False}
