"""The event log's life after a run: packed into few rows, removed in time; messages and the audit trail stay."""

from __future__ import annotations

import asyncio
from uuid import UUID

from django.conf import settings

from agentbackend.foundation.database import Database
from orchestration.models import Agent
from orchestration.retention import PACKED_ROW_BYTES, expire_event_logs, pack_ended_runs
from orchestration.store import read_events
from tests.running_service import Caller, RunningService, run_input
from tests.runs.support import Stored, following
from tests.stored_runs import stored_event_rows, stored_run


async def ended_run(database: Database, rows: int, *, size: int = 20, days_ago: int = 1) -> UUID:
    """A run that has ended, its log in rows of three events each."""
    run_id = await stored_run(database)
    for row in range(rows):
        lines = b"\n".join(b"%06d" % (3 * row + n) + b"x" * size for n in range(3))
        await database.execute(
            "INSERT INTO orchestration_runevents (run_id, seq_from, seq_to, events) VALUES (%s, %s, %s, %s)",
            (run_id, 3 * row + 1, 3 * row + 3, lines),
        )
    await database.execute(
        "UPDATE orchestration_run SET status = 'finished', finished_at = now() - make_interval(days => %s), last_seq = %s "
        "WHERE id = %s",
        (days_ago, 3 * rows, run_id),
    )
    return run_id


async def pack_all(database: Database) -> None:
    while await pack_ended_runs(database):
        pass


def numbered(rows: list[tuple[int, int, bytes]]) -> list[tuple[int, bytes]]:
    return [(first + n, line) for first, _, events in rows for n, line in enumerate(events.split(b"\n"))]


async def test_packing_changes_rows_and_never_events(database_pool: Database) -> None:
    run_id = await ended_run(database_pool, 40)
    before = numbered(await stored_event_rows(database_pool, run_id))
    await pack_all(database_pool)
    rows = await stored_event_rows(database_pool, run_id)
    assert (len(rows), numbered(rows)) == (1, before)


async def test_a_packed_row_stays_small_enough_for_a_reader(database_pool: Database) -> None:
    run_id = await ended_run(database_pool, 12, size=30_000)
    before = numbered(await stored_event_rows(database_pool, run_id))
    await pack_all(database_pool)
    rows = await stored_event_rows(database_pool, run_id)
    assert 1 < len(rows) < 12
    assert max(len(events) for _, _, events in rows) < 2 * PACKED_ROW_BYTES
    assert numbered(rows) == before


async def test_a_reader_that_pages_while_the_log_is_packed_misses_and_doubles_nothing(database_pool: Database) -> None:
    run_id = await ended_run(database_pool, 60)
    seen: list[int] = []
    cursor = 0
    while rows := await read_events(database_pool, run_id, cursor, limit_rows=5):
        for first, events in rows:
            numbers = range(first, first + events.count(b"\n") + 1)
            seen += [number for number in numbers if number > cursor]
            cursor = numbers[-1]
        if len(seen) == 30:
            await pack_all(database_pool)
    assert seen == list(range(1, 181))


async def test_several_processes_pack_at_once_without_harm(database_pool: Database) -> None:
    runs = [await ended_run(database_pool, 5) for _ in range(10)]
    await asyncio.gather(*(pack_all(database_pool) for _ in range(4)))
    for run_id in runs:
        [(first, last, _)] = await stored_event_rows(database_pool, run_id)
        assert (first, last) == (1, 15)


async def test_logs_expire_as_their_agent_says_or_else_the_service(database_pool: Database) -> None:
    old, young = await ended_run(database_pool, 2, days_ago=3000), await ended_run(database_pool, 2, days_ago=1000)
    assert await expire_event_logs(database_pool, default_days=0) == 0, "0 keeps them for ever"
    await expire_event_logs(database_pool, default_days=2000)
    assert await stored_event_rows(database_pool, old) == []
    assert len(await stored_event_rows(database_pool, young)) == 2
    agent = await Agent.objects.aget(is_default=True)
    await Agent.objects.filter(pk=agent.pk).aupdate(event_retention_days=900)
    try:
        await expire_event_logs(database_pool, default_days=0)
    finally:
        await Agent.objects.filter(pk=agent.pk).aupdate(event_retention_days=None)
    assert await stored_event_rows(database_pool, young) == []
    [(count,)] = await database_pool.fetch_all(
        "SELECT count(*) FROM audit_events WHERE action = 'retention.events_expired'"
    )
    assert count >= 2


def test_a_run_whose_log_has_expired_keeps_its_messages_and_says_so(service: RunningService, stored: Stored) -> None:
    caller, wish = Caller(), run_input("hello")
    service.post_run(caller, "hello", runId=wish["runId"])
    stored._connection.execute(
        "DELETE FROM orchestration_runevents e USING orchestration_run r WHERE r.id = e.run_id AND r.public_id = %s",
        (wish["runId"],),
    )
    stored._connection.execute(
        "UPDATE orchestration_run SET events_expired_at = now() WHERE public_id = %s", (wish["runId"],)
    )
    with service.client(caller) as client:
        answer = client.get(f"/ag-ui/runs/{wish['runId']}/events")
    assert (answer.status_code, answer.json()["code"]) == (410, "events_expired")


def test_a_run_can_be_followed_after_its_log_was_packed(service: RunningService, stored: Stored) -> None:
    caller = Caller()
    whole = service.post_run(caller, "What is the weather like in London?")
    run_id = whole[0].event["runId"]
    stored._connection.execute(
        "UPDATE orchestration_run SET finished_at = now() - interval '1 day' WHERE public_id = %s", (run_id,)
    )
    asyncio.run(_pack_now())
    assert len(stored.values("SELECT 1 FROM orchestration_runevents e JOIN orchestration_run r ON r.id = e.run_id "
                             "WHERE r.public_id = %s", run_id)) == 1  # fmt: skip
    for after in (0, 3, len(whole) - 1):
        with following(service, caller, run_id, after=after) as frames:
            assert list(frames) == whole[after:]


async def _pack_now() -> None:
    database, plan = Database(), settings.DATABASE_PLAN
    await database.open(plan.runtime_conninfo, session_statements=plan.session_statements)
    try:
        await pack_all(database)
    finally:
        await database.close()
