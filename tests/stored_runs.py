"""Threads and runs made straight in the database, for tests of what stands below the engine."""

from uuid import UUID

from agentbackend.foundation.database import Database
from agentbackend.foundation.identifiers import uuid7


async def stored_run(database: Database, *, status: str = "running", lease_seconds: float = 60.0) -> UUID:
    """A run with fence 1 in a thread of its own; returns its id, which is its public id too."""
    thread_id, run_id, owner = uuid7(), uuid7(), str(uuid7())
    async with database.connection() as connection:
        cursor = await connection.execute("SELECT id FROM orchestration_agent WHERE is_default")
        row = await cursor.fetchone()
        assert row is not None, "the migrations seed a default agent"
        await connection.execute(
            "INSERT INTO orchestration_thread (id, public_id, tenant, owner_id, agent_id) VALUES (%s, %s, 'default', %s, %s)",
            (thread_id, str(thread_id), owner, row[0]),
        )
        await connection.execute(
            "INSERT INTO orchestration_run (id, public_id, tenant, owner_id, thread_id, agent_id, input, status, fence, "
            "lease_owner, lease_expires_at) VALUES (%s, %s, 'default', %s, %s, %s, '{}', %s, 1, 'test', "
            "now() + make_interval(secs => %s))",
            (run_id, str(run_id), owner, thread_id, row[0], status, lease_seconds),
        )
    return run_id


async def stored_event_rows(database: Database, run_id: UUID) -> list[tuple[int, int, bytes]]:
    """The run's rows of the event log: (seq_from, seq_to, events)."""
    rows = await database.fetch_all(
        "SELECT seq_from, seq_to, events FROM orchestration_runevents WHERE run_id = %s ORDER BY seq_from", (run_id,)
    )
    return [(row[0], row[1], bytes(row[2])) for row in rows]
