"""Runs that another process left: how they are found and claimed, and how those end that nobody can go on with.

A run is left when its lease has ended: its owner died, was paused, or gave it away. The claim increments the fence, so a former owner
that only slept writes nothing more; where to go on is read after the claim, so nothing can be missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from agentbackend.foundation.database import Database
from agentbackend.foundation.writer import GroupWriter
from audit import actions
from audit.actor import SYSTEM, Actor
from audit.entry import Outcome, Target, entry
from orchestration import events as ev
from orchestration.interrupts import Decision, decision_from
from orchestration.journal import RunJournal
from orchestration.live import LiveRuns
from orchestration.memory import Memory, applicable
from orchestration.resuming import LogState, ResumePoint, StoredStep, resume_point
from orchestration.run_input import ResumeEntry, RunInput, restored_input
from orchestration.run_task import Totals
from orchestration.store import (
    JOURNAL_VERSION,
    MAX_HISTORY_TURNS,
    OLDEST_READABLE_JOURNAL,
    QUEUED_SECONDS,
    read_events,
)
from tools.governance.budget_ledger import RELEASED_ROWS, release

ABANDONED_TEXT = "The process that carried out this run ended before the run did. Ask again."
_DUE_AT_ONCE = 1000

_CLAIM = """
UPDATE orchestration_run AS run SET status = 'running', fence = fence + 1, lease_owner = %s,
    lease_expires_at = now() + make_interval(secs => %s), started_at = COALESCE(started_at, now()),
    journal_version = CASE WHEN journal_version >= %s THEN %s ELSE journal_version END,
    crashes = crashes + (status = 'running' AND lease_owner <> '')::int
FROM orchestration_thread AS thread
WHERE run.id = %s AND thread.id = run.thread_id AND journal_version <= %s
    AND (status = 'queued' OR (status = 'running' AND lease_expires_at < now()))
RETURNING run.public_id, thread.public_id, run.thread_id, run.agent_id, run.fence, run.crashes, run.journal_version, run.input,
    run.cancel_requested_at IS NOT NULL, run.request_id, run.trace_id, thread.state
"""
_EARLIER_TURNS = """
SELECT messages FROM conversation_turns WHERE thread_id = %s
    AND position < (SELECT position FROM conversation_turns WHERE run_id = %s) ORDER BY position DESC LIMIT %s
"""
_DECIDED = """
SELECT thread.public_id, agent.slug, run.input -> 'actor', json_agg(json_build_array(asked.id, asked.decision))
FROM (SELECT DISTINCT thread_id FROM orchestration_interrupt WHERE status = 'open' AND decided_at IS NOT NULL
      AND decision ->> 'setAside' IS NULL AND (%s::uuid IS NULL OR thread_id = %s) LIMIT %s) AS decided
JOIN orchestration_interrupt AS asked ON asked.thread_id = decided.thread_id AND asked.status = 'open'
JOIN orchestration_run AS run ON run.id = asked.run_id AND jsonb_typeof(run.input -> 'actor') = 'object'
JOIN orchestration_agent AS agent ON agent.id = run.agent_id AND agent.enabled
JOIN orchestration_thread AS thread ON thread.id = asked.thread_id
WHERE NOT EXISTS (SELECT FROM orchestration_run AS active
                  WHERE active.thread_id = thread.id AND active.status IN ('queued', 'running'))
GROUP BY thread.public_id, agent.slug, run.id HAVING bool_and(asked.decided_at IS NOT NULL)
"""
_DUE_QUEUED = """
UPDATE orchestration_run SET lease_expires_at = CASE status WHEN 'queued' THEN now() + make_interval(secs => %s)
    ELSE lease_expires_at END
WHERE id IN (SELECT id FROM orchestration_run WHERE status = 'queued' AND cancel_requested_at IS NULL AND lease_expires_at < now()
    ORDER BY lease_expires_at LIMIT %s FOR UPDATE SKIP LOCKED)
RETURNING id
"""
_DUE_CANCELLED = """
SELECT id FROM orchestration_run WHERE status = 'queued' AND cancel_requested_at IS NOT NULL AND journal_version <= %s LIMIT %s
"""
_DUE_ABANDONED = """
SELECT id FROM orchestration_run WHERE status = 'running' AND lease_expires_at < now() AND journal_version <= %s
ORDER BY lease_expires_at LIMIT %s
"""
_MEMORY = """
SELECT text, last_message_id, token_estimate FROM orchestration_conversationsummary WHERE thread_id = %s
ORDER BY up_to_position DESC LIMIT 1
"""
_STEPS = "SELECT id, number, kind, name, status, detail FROM orchestration_step WHERE run_id = %s ORDER BY number"


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that this process has just claimed: who asked for what, and its new fence."""

    id: UUID
    public_id: str
    thread_public_id: str
    thread_id: UUID
    agent_id: UUID
    fence: int
    crashes: int
    journal_version: int
    stored_input: dict[str, Any]
    cancel_requested: bool
    request_id: str
    trace_id: str
    thread_state: Any

    @property
    def is_readable(self) -> bool:
        """Whether its journal is in the form that this code goes on from (older ones are ended)."""
        return self.journal_version >= OLDEST_READABLE_JOURNAL

    @property
    def actor(self) -> Actor:
        """Who asked for the run, as authenticated then."""
        return Actor(**self.stored_input["actor"])

    @property
    def run_input(self) -> RunInput:
        """What was asked for."""
        return restored_input(self.stored_input, thread_id=self.thread_public_id, run_id=self.public_id)

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The answers that the run brought."""
        return tuple(decision_from(document) for document in self.stored_input["decisions"])


@dataclass(frozen=True, slots=True)
class DecidedThread:
    """A thread whose open questions were all decided outside a run: what its next run brings, and for whom."""

    thread_id: str
    agent: str
    actor: Actor
    resume: list[ResumeEntry]


@dataclass(frozen=True, slots=True)
class Left:
    """What was found of a claimed run: the thread's messages before it, and where to go on (None: it has not begun)."""

    known_messages: list[dict[str, Any]]
    point: ResumePoint | None
    memory: Memory | None


@dataclass(frozen=True, slots=True)
class DueRuns:
    """Runs that wait for an owner, by id: `abandoned` ones, `queued` ones, and queued ones whose cancellation was asked for."""

    abandoned: list[UUID]
    queued: list[UUID]
    cancelled: list[UUID]


async def due_runs(database: Database) -> DueRuns:
    """What waits for an owner now. Queued runs are named again only after QUEUED_SECONDS, cancelled ones each time."""
    async with database.connection() as connection, connection.pipeline():
        queued = await connection.execute(_DUE_QUEUED, (QUEUED_SECONDS, _DUE_AT_ONCE))
        cancelled = await connection.execute(_DUE_CANCELLED, (JOURNAL_VERSION, _DUE_AT_ONCE))
        abandoned = await connection.execute(_DUE_ABANDONED, (JOURNAL_VERSION, _DUE_AT_ONCE))
        await connection.commit()
        return DueRuns(
            queued=[row[0] for row in await queued.fetchall()],
            cancelled=[row[0] for row in await cancelled.fetchall()],
            abandoned=[row[0] for row in await abandoned.fetchall()],
        )


async def decided_threads(database: Database, thread_id: UUID | None = None) -> list[DecidedThread]:
    """Threads (or this one, if it does) that wait for nothing but a run that carries out what was decided elsewhere."""
    rows = await database.fetch_all(_DECIDED, (thread_id, thread_id, _DUE_AT_ONCE))
    return [
        DecidedThread(
            thread_id, agent, Actor(**actor), [ResumeEntry(key, "resolved", payload) for key, payload in answers]
        )
        for thread_id, agent, actor, answers in rows
    ]


async def claim_run(database: Database, run_id: UUID, *, owner: str, lease_seconds: float) -> Claim | None:
    """Take the run, or None when it has an owner, has ended, or was written by newer code.

    What is written to its journal from here on is of this code's form, so it is marked as that: while processes of two versions run
    side by side, none takes up what it would misread.
    """
    row = await database.fetch_one(
        _CLAIM, (owner, lease_seconds, OLDEST_READABLE_JOURNAL, JOURNAL_VERSION, run_id, JOURNAL_VERSION)
    )
    return None if row is None else Claim(run_id, *row)


async def read_left(database: Database, claim: Claim) -> Left:
    """Where a claimed run stands. Raises KeyError, TypeError or ValueError when its journal cannot be read."""
    async with database.connection() as connection, connection.pipeline():
        turns = await connection.execute(_EARLIER_TURNS, (claim.thread_id, claim.id, MAX_HISTORY_TURNS))
        found = await connection.execute(_STEPS, (claim.id,))
        summaries = await connection.execute(_MEMORY, (claim.thread_id,))
        earlier = [message for (turn,) in reversed(await turns.fetchall()) for message in turn]
        steps = [StoredStep(*row) for row in await found.fetchall()]
        summary = await summaries.fetchone()
    log = await _read_log(database, claim.id)
    known = _until(earlier, claim.stored_input["knownUntil"])
    remembered = applicable(Memory(*summary) if summary else None, earlier, known)
    if not steps and not log.last_seq:
        return Left(known, None, remembered)
    return Left(known, resume_point(attempt=claim.fence, steps=steps, log=log), remembered)


def _until(messages: Sequence[dict[str, Any]], last_id: str) -> list[dict[str, Any]]:
    """The messages up to the one that the run's beginning saw last; the same thread, so nothing else can stand before it."""
    position = next((index for index, message in enumerate(messages) if message["id"] == last_id), len(messages) - 1)
    return list(messages[: position + 1]) if last_id else []


async def _read_log(database: Database, run_id: UUID) -> LogState:
    """The event log, folded. Read after the claim, so it is complete."""
    state = LogState()
    while rows := await read_events(database, run_id, state.last_seq):
        for _, events in rows:
            for line in events.split(b"\n"):
                state.take(line)
    return state


async def _steps(database: Database, run_id: UUID) -> list[StoredStep]:
    return [StoredStep(*row) for row in await database.fetch_all(_STEPS, (run_id,))]


async def end_abandoned(
    database: Database, writer: GroupWriter, live: LiveRuns, claim: Claim, reason: str = ABANDONED_TEXT
) -> None:
    """Bring a claimed run that nobody can go on with to an honest end: close what is open, then RUN_ERROR `run_abandoned`."""
    log = await _read_log(database, claim.id)
    channel = live.open_local(claim.id, claim.public_id)
    journal = RunJournal(run_id=claim.id, fence=claim.fence, channel=channel, writer=writer, next_seq=log.last_seq + 1)
    journal.bytes = log.size
    try:
        for event in log.open_items.closing_events():
            journal.emit(event)
        steps = await _steps(database, claim.id)
        for step in steps:
            if step.status == "started":
                journal.step_ended(step.id, status="interrupted", detail=step.detail, at=datetime.now(UTC))
        usage = Totals.of_steps(steps).as_usage("")
        journal.emit(ev.RunError(message=reason, code="run_abandoned", usage=usage))
        journal.add(RELEASED_ROWS, release(claim.id))
        journal.abandoned(message=reason, at=datetime.now(UTC))
        journal.audit(
            entry(
                actions.RUN_FAILED,
                actor=SYSTEM,
                outcome=Outcome.FAILURE,
                target=Target("run", str(claim.id)),
                reason="run_abandoned",
                run_id=claim.id,
                thread_id=claim.thread_id,
            )
        )
        await journal.flush()
    finally:
        live.close_local(claim.id)
