"""Threads and runs in PostgreSQL, as the request path reads and writes them: short exchanges on the asynchronous pool.

Every look-up by a public id starts from the caller (tenant and owner), so what belongs to somebody else is not found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from uuid import UUID

import orjson
from psycopg import errors as pg_errors

from agentbackend.foundation.database import Connection, Database
from agentbackend.foundation.identifiers import uuid7
from agentbackend.foundation.problems import Problem
from agentbackend.foundation.writer import Unit
from audit import rows as audit_rows
from audit.actor import Actor
from audit.entry import AuditEntry
from orchestration.agents import AgentProfile
from orchestration.interrupts import Decision, OpenInterrupt
from orchestration.memory import Memory
from orchestration.run_input import RunInput, stored_input
from tools.governance.budget_ledger import Admission

MAX_HISTORY_TURNS = 200
JOURNAL_VERSION = 3
"""The form of the journal that this code writes. Raise it when former code could not go on from what is written now: plans, subagents,
the shared state, corrections came with 3."""
OLDEST_READABLE_JOURNAL = 2
"""What this code can go on from; runs of older versions are ended."""
QUEUED_SECONDS = 30.0
"""After this time a queued run is put into the queue again: its job may be lost."""

_THREAD_SELECT = """
SELECT thread.id, thread.owner_id, thread.agent_id, thread.state, active.public_id,
    (SELECT json_agg(json_build_object('id', i.id, 'detail', i.detail, 'status', i.status, 'decision', i.decision,
        'decider', i.decider, 'approver_role', i.approver_role, 'expires_at', i.expires_at, 'decided_by', i.decided_by,
        'decided_at', i.decided_at) ORDER BY i.id)
     FROM orchestration_interrupt AS i WHERE i.thread_id = thread.id
         AND (i.status = 'open' OR (i.status = 'expired' AND i.carried_out_in_id IS NULL))),
    (SELECT json_build_array(s.text, s.last_message_id, s.token_estimate) FROM orchestration_conversationsummary AS s
     WHERE s.thread_id = thread.id ORDER BY s.up_to_position DESC LIMIT 1)
FROM orchestration_thread AS thread
LEFT JOIN orchestration_run AS active ON active.thread_id = thread.id AND active.status IN ('queued', 'running')
WHERE thread.tenant = %s AND thread.public_id = %s
"""
_HISTORY_SELECT = """
SELECT turn.messages FROM conversation_turns AS turn JOIN orchestration_thread AS thread ON thread.id = turn.thread_id
WHERE thread.tenant = %s AND thread.public_id = %s AND thread.owner_id = %s ORDER BY turn.position DESC LIMIT %s
"""
# Thread, run and turn go in with one statement: a round of the protocol for each would cost as much as the rest.
_RUN = """
run AS (
    INSERT INTO orchestration_run (id, public_id, tenant, owner_id, actor_role, thread_id, agent_id, parent_public_id, input,
        idempotency_key, idempotency_digest, background, journal_version, status, fence, lease_owner, lease_expires_at,
        request_id, trace_id, started_at)
    VALUES (%(run_id)s, %(run_public_id)s, %(tenant)s, %(owner_id)s, %(actor_role)s, %(thread_id)s, %(agent_id)s, %(parent)s,
        %(input)s, %(idempotency_key)s, %(idempotency_digest)s, %(background)s, %(journal_version)s, %(status)s, %(fence)s,
        %(lease_owner)s, now() + make_interval(secs => %(lease_seconds)s), %(request_id)s, %(trace_id)s,
        CASE WHEN %(background)s THEN NULL ELSE now() END)
)
INSERT INTO conversation_turns (id, thread_id, run_id, position, user_message, messages)
"""
_LOCK_QUESTIONS = """
SELECT id::text, status = 'expired', status = 'open' AND decided_at IS NOT NULL FROM orchestration_interrupt
WHERE id = ANY(%s::uuid[]) AND (status = 'open' OR (status = 'expired' AND carried_out_in_id IS NULL)) ORDER BY id FOR UPDATE
"""
_DECIDE = """
UPDATE orchestration_interrupt AS i SET status = d.status, carried_out_in_id = %s,
    decision = CASE WHEN i.decided_at IS NULL THEN d.decision ELSE i.decision END,
    decided_by = COALESCE(NULLIF(i.decided_by, ''), d.decided_by), decided_at = COALESCE(i.decided_at, now())
FROM unnest(%s::uuid[], %s::text[], %s::jsonb[], %s::text[]) AS d(id, status, decision, decided_by) WHERE i.id = d.id
"""
_FIRST_RUN = f"""
WITH thread AS (
    INSERT INTO orchestration_thread (id, public_id, tenant, owner_id, agent_id, standing_key, title, state)
    VALUES (%(thread_id)s, %(thread_public_id)s, %(tenant)s, %(owner_id)s, %(agent_id)s, %(standing_key)s, %(title)s, %(state)s)
), {_RUN}
VALUES (%(turn_id)s, %(thread_id)s, %(run_id)s, 1, %(user_message)s, %(messages)s)
"""  # noqa: S608 - constants of this module
_NEXT_RUN = f"""
WITH thread AS (
    UPDATE orchestration_thread SET updated_at = now(), state = COALESCE(%(state)s::jsonb, state),
        title = CASE WHEN title = '' THEN %(title)s ELSE title END WHERE id = %(thread_id)s
), {_RUN}
SELECT %(turn_id)s, %(thread_id)s, %(run_id)s, COALESCE(max(position), 0) + 1, %(user_message)s, %(messages)s
FROM conversation_turns WHERE thread_id = %(thread_id)s
"""  # noqa: S608 - constants of this module


class QuestionsChangedError(Exception):
    """A question was decided, or expired, between the look at it and the run that was to carry out something else."""


@dataclass(frozen=True, slots=True)
class ThreadView:
    """A thread as a caller who owns it sees it, or one that does not exist yet (`id` None)."""

    id: UUID | None
    state: Any
    history: list[dict[str, Any]]
    active_run: str | None
    open_interrupts: list[OpenInterrupt] = field(default_factory=list)
    memory: Memory | None = None


@dataclass(frozen=True, slots=True)
class RunReference:
    """A run that exists: enough to follow it."""

    id: UUID
    public_id: str
    thread_public_id: str
    status: str
    last_seq: int
    events_expired: bool = False

    @property
    def is_terminal(self) -> bool:
        """Whether no more events will come."""
        return self.status not in ("queued", "running")


@dataclass(frozen=True, slots=True)
class StartedRun:
    """A run that has just been created: held by this process with fence 1, or queued with fence 0."""

    id: UUID
    thread_id: UUID
    fence: int


@dataclass(frozen=True, slots=True)
class NewRun:
    """What `create_run` stores: the input, what of it is new, for whom, under which lease."""

    actor: Actor
    agent: AgentProfile
    run_input: RunInput
    new_messages: list[dict[str, Any]]
    lease_owner: str
    lease_seconds: float
    known_until: str = ""
    client_agrees: bool = True
    awaits_answer: bool = True
    refusal: dict[str, Any] | None = None
    decisions: tuple[Decision, ...] = ()
    background: bool = False
    standing_key: str | None = None
    idempotency_key: str | None = None
    idempotency_digest: str = ""
    request_id: str = ""
    trace_id: str = ""


async def view_thread(database: Database, actor: Actor, public_id: str) -> ThreadView:
    """The thread with its messages, oldest first; raises Problem `not_found` when it is somebody else's."""
    async with database.connection() as connection:
        async with connection.pipeline():
            found = await connection.execute(_THREAD_SELECT, (actor.tenant, public_id))
            turns = await connection.execute(_HISTORY_SELECT, (actor.tenant, public_id, actor.id, MAX_HISTORY_TURNS))
            await connection.commit()
        thread = await found.fetchone()
        history = await turns.fetchall()
    if thread is None:
        return ThreadView(None, None, [], None)
    thread_id, owner_id, _agent_id, state, active_run, asked, summary = thread
    if owner_id != actor.id:
        raise Problem("not_found", "There is no such thread.")
    messages = [message for (turn,) in reversed(history) for message in turn]
    open_interrupts = [OpenInterrupt.of(row) for row in asked or ()]
    remembered = Memory(*summary) if summary else None
    return ThreadView(thread_id, state, messages, active_run, open_interrupts, remembered)


async def standing_thread(database: Database, actor: Actor, standing_key: str) -> str | None:
    """The public id of the thread that GET continues for this caller and session, unless a run is going on in it."""
    row = await database.fetch_one(
        "SELECT thread.public_id FROM orchestration_thread AS thread WHERE tenant = %s AND owner_id = %s AND standing_key = %s "
        "AND NOT EXISTS (SELECT FROM orchestration_run AS run WHERE run.thread_id = thread.id "
        "AND run.status IN ('queued', 'running'))",
        (actor.tenant, actor.id, standing_key),
    )
    return row[0] if row else None


async def create_run(
    database: Database,
    new: NewRun,
    thread_id: UUID | None,
    entries: Callable[[UUID, UUID], Sequence[AuditEntry]],
    admission: Admission | None = None,
) -> StartedRun:
    """Store the thread (when `thread_id` is None), the run, its turn and the audit entries in one transaction.

    `entries` makes the audit entries from the ids of run and thread; `admission`: the budgets that the run is counted under. Raises
    Problem `thread_busy` or `run_exists`, OverBudgetError, and QuestionsChangedError when the decisions no longer fit what is open.
    """
    try:
        return await _create_run(database, new, thread_id, entries, admission)
    except pg_errors.UniqueViolation as error:
        if error.diag.constraint_name == "one_standing_thread":  # made by another request in the same moment
            return await create_run(database, replace(new, standing_key=None), thread_id, entries, admission)
        raise _conflict(error, new) from error


async def _create_run(
    database: Database,
    new: NewRun,
    thread_id: UUID | None,
    entries: Callable[[UUID, UUID], Sequence[AuditEntry]],
    admission: Admission | None,
) -> StartedRun:
    run_id, known_thread_id = uuid7(), thread_id or uuid7()
    audit_unit = Unit()
    for entry in entries(run_id, known_thread_id):
        audit_rows.add_to(audit_unit, entry)
    statement = _FIRST_RUN if thread_id is None else _NEXT_RUN
    async with database.connection() as connection:
        if new.decisions:
            await _hold_questions(connection, new.decisions)
        async with connection.pipeline():
            if admission is not None:
                await admission.take(connection, run_id)
            await connection.execute(statement, _columns(new, run_id, known_thread_id))
            if new.decisions:
                await connection.execute(_DECIDE, _decided(new, run_id))
            for audit_statement, parameters in audit_unit.statements():
                await connection.execute(audit_statement, parameters)
            await connection.commit()
    return StartedRun(run_id, known_thread_id, 0 if new.background else 1)


async def _hold_questions(connection: Connection, decisions: Sequence[Decision]) -> None:
    """Nobody else decides from here on; raises QuestionsChangedError when somebody has."""
    cursor = await connection.execute(_LOCK_QUESTIONS, ([decision.interrupt_id for decision in decisions],))
    found = {key: (expired, decided) for key, expired, decided in await cursor.fetchall()}
    if any(found.get(decision.interrupt_id) != decision.seen for decision in decisions):
        raise QuestionsChangedError


def _decided(new: NewRun, run_id: UUID) -> tuple[Any, ...]:
    return (
        run_id,
        [decision.interrupt_id for decision in new.decisions],
        [decision.verdict.status for decision in new.decisions],
        [orjson.dumps(decision.stored_answer()).decode() for decision in new.decisions],
        [decision.decided_by for decision in new.decisions],
    )


def _columns(new: NewRun, run_id: UUID, thread_id: UUID) -> dict[str, Any]:
    actor, given = new.actor, new.run_input
    return {
        "thread_id": thread_id,
        "thread_public_id": given.thread_id,
        "tenant": actor.tenant,
        "owner_id": actor.id,
        "actor_role": actor.role,
        "agent_id": new.agent.id,
        "standing_key": new.standing_key,
        "title": title_of(new.new_messages),
        "state": orjson.dumps(given.state).decode() if given.state else None,
        "run_id": run_id,
        "run_public_id": given.run_id,
        "parent": given.parent_run_id,
        "input": stored_input(given, new.new_messages, **_circumstances(new)),
        "idempotency_key": new.idempotency_key,
        "idempotency_digest": new.idempotency_digest,
        "background": new.background,
        "journal_version": JOURNAL_VERSION,
        "status": "queued" if new.background else "running",
        "fence": 0 if new.background else 1,
        "lease_owner": "" if new.background else new.lease_owner,
        "lease_seconds": QUEUED_SECONDS if new.background else new.lease_seconds,
        "request_id": new.request_id,
        "trace_id": new.trace_id,
        "turn_id": uuid7(),
        "user_message": text_of_last_user_message(new.new_messages),
        "messages": orjson.dumps(new.new_messages).decode(),
    }


def _circumstances(new: NewRun) -> dict[str, Any]:
    """What the run's beginning has found out, so that a successor finds the same."""
    return {
        "knownUntil": new.known_until,
        "clientAgrees": new.client_agrees,
        "awaitsAnswer": new.awaits_answer,
        "refusal": new.refusal,
        "decisions": [decision.as_document() for decision in new.decisions],
        "actor": asdict(new.actor),
    }


def _conflict(error: pg_errors.UniqueViolation, new: NewRun) -> Problem:
    constraint = error.diag.constraint_name or ""
    if constraint in ("one_active_run_per_thread", "thread_public_id", "turn_position"):
        return Problem("thread_busy", "A run is going on in this thread.", field="threadId")
    if constraint == "run_idempotency_key":
        return Problem(
            "idempotency_conflict", "Another request with this key was stored in the same moment; try again."
        )
    if constraint == "run_public_id":
        return Problem("run_exists", f"The run id {new.run_input.run_id!r} was already used.", field="runId")
    return Problem("unavailable", "The run could not be stored; try again.")


async def find_by_idempotency_key(database: Database, actor: Actor, key: str, digest: str) -> RunReference | None:
    """The caller's run that was begun with this key, if any; raises Problem when it was begun by another request."""
    row = await database.fetch_one(
        "SELECT run.id, run.public_id, thread.public_id, run.status, run.last_seq, run.events_expired_at IS NOT NULL, "
        "run.idempotency_digest FROM orchestration_run AS run JOIN orchestration_thread AS thread ON thread.id = run.thread_id "
        "WHERE run.tenant = %s AND run.owner_id = %s AND run.idempotency_key = %s",
        (actor.tenant, actor.id, key),
    )
    if row is None:
        return None
    if row[6] != digest:
        raise Problem("idempotency_key_reused", field="Idempotency-Key")
    return RunReference(*row[:6])


async def find_run(database: Database, actor: Actor, public_id: str) -> RunReference:
    """The caller's run of this public id; raises Problem `not_found`."""
    row = await database.fetch_one(
        "SELECT run.id, run.public_id, thread.public_id, run.status, run.last_seq, run.events_expired_at IS NOT NULL "
        "FROM orchestration_run AS run JOIN orchestration_thread AS thread ON thread.id = run.thread_id "
        "WHERE run.tenant = %s AND run.owner_id = %s AND run.public_id = %s",
        (actor.tenant, actor.id, public_id),
    )
    if row is None:
        raise Problem("not_found", "There is no such run.")
    return RunReference(*row)


async def read_events(database: Database, run_id: UUID, after: int, limit_rows: int = 100) -> list[tuple[int, bytes]]:
    """Rows of the event log that hold events beyond `after`: (number of the row's first event, events one a line)."""
    rows = await database.fetch_all(
        "SELECT seq_from, events FROM orchestration_runevents WHERE run_id = %s AND seq_to > %s ORDER BY seq_from LIMIT %s",
        (run_id, after, limit_rows),
    )
    return [(row[0], bytes(row[1])) for row in rows]


async def not_going_on(database: Database, run_ids: Sequence[UUID]) -> list[UUID]:
    """Which of these runs have ended, or are gone."""
    if not run_ids:
        return []
    rows = await database.fetch_all(
        "SELECT id FROM orchestration_run WHERE id = ANY(%s) AND status IN ('queued', 'running')", (list(run_ids),)
    )
    going_on = {row[0] for row in rows}
    return [run_id for run_id in run_ids if run_id not in going_on]


async def request_cancel(database: Database, actor: Actor, run_id: UUID) -> bool:
    """Ask the run's owner to cancel it; returns whether the run was still going on."""
    changed = await database.execute(
        "UPDATE orchestration_run SET cancel_requested_at = COALESCE(cancel_requested_at, now()), cancel_requested_by = %s "
        "WHERE id = %s AND status IN ('queued', 'running')",
        (actor.id, run_id),
    )
    return changed > 0


async def renew_leases(database: Database, held: Sequence[tuple[UUID, int]], lease_seconds: float) -> dict[UUID, bool]:
    """Renew the leases of runs whose fence is unchanged: {run id: whether its cancellation was asked for}.

    A run that is missing in the answer has another owner. Runs are locked in the order of their ids, as the writer locks them.
    """
    rows = await database.fetch_all(
        "WITH locked AS MATERIALIZED (SELECT run.id FROM orchestration_run AS run "
        "JOIN unnest(%s::uuid[], %s::bigint[]) AS held(id, fence) ON run.id = held.id AND run.fence = held.fence "
        "ORDER BY run.id FOR NO KEY UPDATE OF run) "
        "UPDATE orchestration_run AS run SET lease_expires_at = now() + make_interval(secs => %s) "
        "FROM locked WHERE run.id = locked.id RETURNING run.id, run.cancel_requested_at IS NOT NULL",
        ([run_id for run_id, _ in held], [fence for _, fence in held], lease_seconds),
    )
    return dict(rows)


def text_of(content: Any) -> str:
    """The text of a message's content, its media parts left out."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if part.get("type") == "text")
    return ""


def text_of_last_user_message(messages: Sequence[dict[str, Any]]) -> str:
    """What the user said last, or nothing."""
    return next((text_of(message.get("content")) for message in reversed(messages) if message["role"] == "user"), "")


def title_of(messages: Sequence[dict[str, Any]]) -> str:
    """A thread's title: the first line of the first user message, cut."""
    first = next((text_of(message.get("content")) for message in messages if message["role"] == "user"), "").strip()
    return first.splitlines()[0][:120] if first else ""


async def release_leases(database: Database, held: Sequence[tuple[UUID, int]]) -> None:
    """End the leases of runs that this process gives away, so that another claims them at once."""
    await database.execute(
        "UPDATE orchestration_run AS run SET lease_expires_at = now(), lease_owner = '' "
        "FROM unnest(%s::uuid[], %s::bigint[]) AS held(id, fence) "
        "WHERE run.id = held.id AND run.fence = held.fence AND run.status IN ('queued', 'running')",
        ([run_id for run_id, _ in held], [fence for _, fence in held]),
    )
