"""A caller's threads: listed, read, renamed, archived, deleted. Every query begins with the owner, so a stranger's is not found."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from a2a.task_store import remove_context
from agentbackend.foundation.database import Connection, Database
from agentbackend.foundation.problems import Problem
from agentbackend.foundation.writer import Unit
from audit import actions
from audit import rows as audit_rows
from audit.actor import Actor
from audit.entry import Target, entry
from orchestration.store import MAX_HISTORY_TURNS, RunReference

MAX_PAGE = 100
MAX_TITLE = 200
MAX_EVENT_RUNS = 20
MAX_EVENT_BYTES = 4 * 1024 * 1024

_COLUMNS = """
thread.id, thread.public_id, agent.slug, thread.title, thread.created_at, thread.updated_at, thread.archived_at, active.public_id
"""
_FROM = """
FROM orchestration_thread AS thread JOIN orchestration_agent AS agent ON agent.id = thread.agent_id
LEFT JOIN orchestration_run AS active ON active.thread_id = thread.id AND active.status IN ('queued', 'running')
"""
_LIST = f"""
SELECT {_COLUMNS} {_FROM}
WHERE thread.tenant = %(tenant)s AND thread.owner_id = %(owner)s
    AND (%(agent)s::text IS NULL OR agent.slug = %(agent)s) AND (%(archived)s OR thread.archived_at IS NULL)
    AND (%(before)s::timestamptz IS NULL OR (thread.updated_at, thread.id) < (%(before)s::timestamptz, %(before_id)s::uuid))
ORDER BY thread.updated_at DESC, thread.id DESC LIMIT %(limit)s
"""
_ONE = f"""
SELECT {_COLUMNS}, thread.state {_FROM} WHERE thread.tenant = %s AND thread.owner_id = %s AND thread.public_id = %s
"""
_MESSAGES = "SELECT messages FROM conversation_turns WHERE thread_id = %s ORDER BY position DESC LIMIT %s"
_LAST_RUN = """
SELECT run.id, run.public_id, %s, run.status, run.last_seq,
    CASE WHEN run.status = 'interrupted' THEN run.outcome END,
    ARRAY(SELECT asked.id::text FROM orchestration_interrupt AS asked WHERE asked.run_id = run.id AND asked.status = 'open'
        AND asked.decided_at IS NULL AND (asked.expires_at IS NULL OR asked.expires_at > now()))
FROM orchestration_run AS run WHERE run.thread_id = %s ORDER BY run.id DESC LIMIT 1
"""
_EVENTS = """
SELECT run.public_id, log.seq_from, log.events
FROM (SELECT id, public_id FROM orchestration_run WHERE thread_id = %s ORDER BY id DESC LIMIT %s) AS run
JOIN orchestration_runevents AS log ON log.run_id = run.id ORDER BY run.id, log.seq_from
"""
_DELETE = (
    "DELETE FROM orchestration_runevents USING orchestration_run AS run WHERE run_id = run.id AND run.thread_id = %s",
    "DELETE FROM orchestration_interrupt WHERE thread_id = %s",
    "DELETE FROM orchestration_step USING orchestration_run AS run WHERE run_id = run.id AND run.thread_id = %s",
    "DELETE FROM orchestration_conversationsummary WHERE thread_id = %s",
    "DELETE FROM conversation_turns WHERE thread_id = %s",
    "DELETE FROM orchestration_run WHERE thread_id = %s",
    "DELETE FROM orchestration_thread WHERE id = %s",
)


@dataclass(frozen=True, slots=True)
class ThreadSummary:
    """A thread as lists show it."""

    id: UUID
    public_id: str
    agent: str
    title: str
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None
    active_run: str | None

    def as_document(self, actor: Actor) -> dict[str, Any]:
        """The thread as clients get it; the names are those of CopilotKit's threads."""
        return {
            "id": self.public_id,
            "agentId": self.agent,
            "name": self.title or None,
            "createdById": actor.id,
            "organizationId": actor.tenant,
            "createdAt": _moment(self.created_at),
            "updatedAt": _moment(self.updated_at),
            "lastRunAt": _moment(self.updated_at),
            "archived": self.archived_at is not None,
            "activeRunId": self.active_run,
        }


@dataclass(frozen=True, slots=True)
class ThreadDetail:
    """A thread with all that a client joins it with; `open_outcome`: the outcome of its last run while that waits for an answer."""

    summary: ThreadSummary
    state: Any
    messages: list[dict[str, Any]]
    last_run: RunReference | None
    open_outcome: dict[str, Any] | None


async def list_threads(
    database: Database, actor: Actor, *, agent: str | None, archived: bool, limit: int, cursor: str
) -> tuple[list[ThreadSummary], str | None]:
    """A page of the caller's threads, the one used last first, and the cursor of the next page."""
    before, before_id = _read_cursor(cursor)
    parameters = {
        "tenant": actor.tenant, "owner": actor.id, "agent": agent, "archived": archived, "before": before,
        "before_id": before_id, "limit": limit + 1,
    }  # fmt: skip
    found = [ThreadSummary(*row) for row in await database.fetch_all(_LIST, parameters)]
    more = len(found) > limit
    return found[:limit], _cursor(found[limit - 1]) if more else None


async def read_thread(database: Database, actor: Actor, public_id: str) -> ThreadDetail:
    """The caller's thread with its messages (of the last turns) and its last run; raises Problem `not_found`."""
    async with database.connection() as connection:
        *columns, state = await _row(connection, actor, public_id)
        summary = ThreadSummary(*columns)
        async with connection.pipeline():
            turns = await connection.execute(_MESSAGES, (summary.id, MAX_HISTORY_TURNS))
            runs = await connection.execute(_LAST_RUN, (public_id, summary.id))
            messages = [message for (turn,) in reversed(await turns.fetchall()) for message in turn]
            run = await runs.fetchone()
    last_run = None if run is None else RunReference(*run[:5])
    return ThreadDetail(summary, state, messages, last_run, _still_asked(run[5], run[6]) if run else None)


def _still_asked(outcome: dict[str, Any] | None, waiting: Sequence[str]) -> dict[str, Any] | None:
    """An interrupted run's outcome with the questions that still wait for an answer; None when none does."""
    asked = [interrupt for interrupt in (outcome or {}).get("interrupts", ()) if interrupt["id"] in waiting]
    return {"type": "interrupt", "interrupts": asked} if asked else None


async def read_thread_events(database: Database, actor: Actor, public_id: str) -> list[dict[str, Any]]:
    """The events of the thread's last runs, oldest first, as AG-UI 1.0; what goes beyond MAX_EVENT_BYTES is left out at the beginning."""
    async with database.connection() as connection:
        thread_id, *_ = await _row(connection, actor, public_id)
        cursor = await connection.execute(_EVENTS, (thread_id, MAX_EVENT_RUNS))
        rows = await cursor.fetchall()
    kept: list[bytes] = []
    size = 0
    for _, _, events in reversed(rows):
        size += len(events)
        if size > MAX_EVENT_BYTES:
            break
        kept.append(bytes(events))
    return [orjson.loads(line) for events in reversed(kept) for line in events.split(b"\n")]


async def change_thread(
    database: Database,
    actor: Actor,
    public_id: str,
    *,
    title: str | None = None,
    archived: bool | None = None,
    request_id: str = "",
) -> ThreadSummary:
    """Rename the caller's thread, or put it into the archive or take it out; None leaves as it is."""
    async with database.connection() as connection:
        thread_id, *_ = await _row(connection, actor, public_id)
        await connection.execute(
            "UPDATE orchestration_thread SET title = COALESCE(%s, title), archived_at = CASE WHEN %s::boolean IS NULL THEN archived_at "
            "WHEN %s THEN COALESCE(archived_at, now()) END WHERE id = %s",
            (title, archived, archived, thread_id),
        )
        details = {"title": title, "archived": archived}
        await _record(connection, actions.THREAD_CHANGED, actor, thread_id, request_id, details)
        *columns, _ = await _row(connection, actor, public_id)
    return ThreadSummary(*columns)


async def delete_thread(database: Database, actor: Actor, public_id: str, *, request_id: str = "") -> None:
    """Delete the caller's thread with its runs, turns and event logs; the audit trail keeps its own.

    Raises Problem `thread_busy` while a run is going on.
    """
    async with database.connection() as connection:
        thread_id, *_ = await _row(connection, actor, public_id)
        await connection.execute("SELECT FROM orchestration_thread WHERE id = %s FOR UPDATE", (thread_id,))
        *columns, _ = await _row(connection, actor, public_id)
        active_run = ThreadSummary(*columns).active_run
        if active_run is not None:
            raise Problem(
                "thread_busy", "A run is going on in this thread: stop it first.", extra={"run_id": active_run}
            )
        await remove_context(connection, actor.tenant, public_id)
        for statement in _DELETE:
            await connection.execute(statement, (thread_id,))
        await _record(connection, actions.THREAD_DELETED, actor, thread_id, request_id, {"thread": public_id})


async def _row(connection: Connection, actor: Actor, public_id: str) -> Sequence[Any]:
    cursor = await connection.execute(_ONE, (actor.tenant, actor.id, public_id))
    row = await cursor.fetchone()
    if row is None:
        raise Problem("not_found", "There is no such thread.")
    return row


async def _record(
    connection: Connection, action: str, actor: Actor, thread_id: UUID, request_id: str, details: dict[str, Any]
) -> None:
    unit = Unit()
    audit_rows.add_to(
        unit,
        entry(
            action,
            actor=actor,
            target=Target("thread", str(thread_id)),
            thread_id=thread_id,
            request_id=request_id,
            details=details,
        ),
    )
    for statement, parameters in unit.statements():
        await connection.execute(statement, parameters)


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _cursor(thread: ThreadSummary) -> str:
    return base64.urlsafe_b64encode(f"{thread.updated_at.isoformat()} {thread.id}".encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[datetime | None, UUID | None]:
    if not cursor:
        return None, None
    try:
        moment, _, key = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().rpartition(" ")
        return datetime.fromisoformat(moment), UUID(key)
    except (ValueError, binascii.Error) as error:
        raise Problem("invalid_input", "Expected the nextCursor of an earlier answer.", field="cursor") from error
