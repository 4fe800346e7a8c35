"""The event log's life after a run: its rows are joined into few, and in time removed; messages, steps and the audit trail stay.

What changes are rows, never events: after packing the same events stand under the same numbers, so a reader who pages through the log
meanwhile finds what follows its cursor in either form.
"""

from __future__ import annotations

from agentbackend.foundation.database import Database
from agentbackend.foundation.writer import Unit
from audit import actions
from audit import rows as audit_rows
from audit.actor import SYSTEM
from audit.entry import Target, entry

PACKED_ROW_BYTES = 256 * 1024
"""A packed row is at most about this large, so that a reader's memory is bounded."""
PACK_AFTER_SECONDS = 10

# Each run's rows are cut into pieces of about PACKED_ROW_BYTES by their running size; one row is inserted for each piece.
_PACK = """
WITH ended AS (
    SELECT id FROM orchestration_run
    WHERE NOT events_packed AND finished_at < now() - make_interval(secs => %(after)s)
    ORDER BY finished_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), removed AS (
    DELETE FROM orchestration_runevents AS row USING ended WHERE row.run_id = ended.id
    RETURNING row.run_id, row.seq_from, row.seq_to, row.events, row.version, row.created_at
), sized AS (
    SELECT *, sum(length(events)) OVER (PARTITION BY run_id, version ORDER BY seq_from) / %(bytes)s AS piece FROM removed
), packed AS (
    INSERT INTO orchestration_runevents (run_id, seq_from, seq_to, events, version, created_at)
    SELECT run_id, min(seq_from), max(seq_to), string_agg(events, '\\x0a'::bytea ORDER BY seq_from), version, min(created_at)
    FROM sized GROUP BY run_id, version, piece
)
UPDATE orchestration_run AS run SET events_packed = true FROM ended WHERE run.id = ended.id
"""
_EXPIRE = """
WITH due AS (
    SELECT run.id FROM orchestration_run AS run JOIN orchestration_agent AS agent ON agent.id = run.agent_id
    WHERE run.events_expired_at IS NULL AND run.finished_at IS NOT NULL
        AND run.finished_at < now() - make_interval(days => COALESCE(agent.event_retention_days, %(days)s))
        AND COALESCE(agent.event_retention_days, %(days)s) > 0
    ORDER BY run.finished_at LIMIT %(limit)s FOR UPDATE OF run SKIP LOCKED
), removed AS (
    DELETE FROM orchestration_runevents AS row USING due WHERE row.run_id = due.id
)
UPDATE orchestration_run AS run SET events_expired_at = now() FROM due WHERE run.id = due.id
"""


async def pack_ended_runs(database: Database, *, limit: int = 200) -> int:
    """Join the event rows of up to `limit` runs that ended some seconds ago; returns how many runs. Several processes may do it at once."""
    parameters = {"after": PACK_AFTER_SECONDS, "limit": limit, "bytes": PACKED_ROW_BYTES}
    return await database.execute(_PACK, parameters)


async def expire_event_logs(database: Database, *, default_days: int, limit: int = 200) -> int:
    """Remove the event logs of up to `limit` runs that ended longer ago than their agent keeps them; returns how many runs.

    `default_days` holds for agents that say nothing; 0 keeps their logs for ever. The removal is recorded with its number.
    """
    async with database.connection() as connection:
        done = await connection.execute(_EXPIRE, {"days": default_days, "limit": limit})
        removed = done.rowcount
        if removed:
            unit = Unit()
            details = {"runs": removed, "default_days": default_days}
            audit_rows.add_to(
                unit, entry(actions.EVENTS_EXPIRED, actor=SYSTEM, target=Target("event_log", "runs"), details=details)
            )
            for statement, parameters in unit.statements():
                await connection.execute(statement, parameters)
    return removed
