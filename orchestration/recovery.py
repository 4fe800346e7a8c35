"""Runs whose owner is gone: they are claimed and brought to an honest end.

The claim increments the fence, so the former owner, should it only have slept, writes nothing more. The claimant folds the log, closes
what is open and ends the run with `run_abandoned`.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from agentbackend.foundation import metrics
from agentbackend.foundation.database import Database
from agentbackend.foundation.writer import GroupWriter, LeaseLostError, UnitRejectedError, WriterStoppedError
from audit import actions
from audit.actor import SYSTEM
from audit.entry import Outcome, Target, entry
from orchestration import events as ev
from orchestration.fold import OpenItems
from orchestration.journal import RunJournal
from orchestration.live import LiveRuns
from orchestration.store import claim_abandoned_runs, read_events

logger = logging.getLogger(__name__)

ABANDONED_TEXT = "The process that carried out this run ended before the run did. Ask again."


async def end_abandoned_runs(
    database: Database, writer: GroupWriter, live: LiveRuns, *, owner: str, lease_seconds: float
) -> int:
    """Claim the runs whose lease has ended and end them; returns how many."""
    claimed = await claim_abandoned_runs(database, owner=owner, lease_seconds=lease_seconds)
    for run_id, public_id, thread_id, fence in claimed:
        try:
            await _end(database, writer, live, run_id=run_id, public_id=public_id, thread_id=thread_id, fence=fence)
            metrics.runs_recovered.inc()
        except LeaseLostError:
            logger.warning("an abandoned run was claimed by somebody else", extra={"run_id": str(run_id)})
        except (UnitRejectedError, WriterStoppedError):
            logger.exception("an abandoned run could not be ended", extra={"run_id": str(run_id)})
    return len(claimed)


async def _end(
    database: Database,
    writer: GroupWriter,
    live: LiveRuns,
    *,
    run_id: UUID,
    public_id: str,
    thread_id: UUID,
    fence: int,
) -> None:
    last_seq, size, open_items = await _fold_log(database, run_id)
    channel = live.open_local(run_id, public_id)
    journal = RunJournal(run_id=run_id, fence=fence, channel=channel, writer=writer, next_seq=last_seq + 1)
    journal.bytes = size
    try:
        for event in open_items.closing_events():
            journal.emit(event)
        journal.emit(ev.RunError(message=ABANDONED_TEXT, code="run_abandoned"))
        journal.abandoned(message=ABANDONED_TEXT, at=datetime.now(UTC))
        journal.audit(
            entry(
                actions.RUN_FAILED,
                actor=SYSTEM,
                outcome=Outcome.FAILURE,
                target=Target("run", str(run_id)),
                reason="run_abandoned",
                run_id=run_id,
                thread_id=thread_id,
            )
        )
        await journal.flush()
    finally:
        live.close_local(run_id)


def _apply(open_items: OpenItems, line: bytes, run_id: UUID) -> None:
    """An event that cannot be read must not keep this run, or those after it, from being ended."""
    try:
        open_items.apply(ev.decode(line))
    except (msgspec.MsgspecError, ValueError):
        logger.exception("an event of an abandoned run cannot be read", extra={"run_id": str(run_id)})


async def _fold_log(database: Database, run_id: UUID) -> tuple[int, int, OpenItems]:
    """The number of the last event, the bytes so far, and what the events leave open. Read after the claim, so it is complete."""
    last_seq, size, open_items = 0, 0, OpenItems()
    while rows := await read_events(database, run_id, last_seq):
        for seq_from, events in rows:
            lines = events.split(b"\n")
            for line in lines:
                _apply(open_items, line, run_id)
            last_seq, size = seq_from + len(lines) - 1, size + len(events)
    return last_seq, size, open_items
