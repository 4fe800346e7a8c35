"""A run's journal: its events, steps and audit entries, numbered and handed to the writer under the run's fence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from agentbackend.foundation import metrics
from agentbackend.foundation.identifiers import uuid7
from agentbackend.foundation.writer import GroupWriter, Row, RowKind, Unit, UnitRejectedError, insert_rows, update_rows
from audit import rows as audit_rows
from audit.entry import AuditEntry
from orchestration import events as ev
from orchestration.fold import OpenItems
from orchestration.interrupts import Question
from orchestration.live import Chunk, RunChannel

_NUL_ESCAPE = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")  # jsonb cannot hold NUL

EVENT_ROWS = insert_rows(
    "orchestration_runevents",
    {"run_id": "uuid", "seq_from": "bigint", "seq_to": "bigint", "events": "bytea"},
    order=1,
)
STEP_ROWS = insert_rows(
    "orchestration_step",
    {
        "id": "uuid",
        "run_id": "uuid",
        "number": "int",
        "kind": "text",
        "name": "text",
        "status": "text",
        "detail": "jsonb",
    },
    order=2,
)
STEP_END_ROWS = update_rows(
    "orchestration_step",
    {"id": "uuid"},
    {"status": "text", "detail": "jsonb", "finished_at": "timestamptz"},
    order=4,
)
STEP_NOTE_ROWS = update_rows("orchestration_step", {"id": "uuid"}, {"detail": "jsonb"}, order=3)
TURN_END_ROWS = update_rows(
    "conversation_turns",
    {"run_id": "uuid"},
    {"agent_response": "text", "messages": "jsonb", "token_estimate": "int", "finished_at": "timestamptz"},
    order=4,
)
# After the rows of budgets: a new run in the same thread takes its budgets first and then the thread, so nobody waits for nobody.
THREAD_STATE_ROWS = update_rows("orchestration_thread", {"id": "uuid"}, {"state": "jsonb"}, order=8)
RUN_END_ROWS = update_rows(
    "orchestration_run",
    {"id": "uuid"},
    {
        "status": "text",
        "outcome": "jsonb",
        "error_code": "text",
        "error_message": "text",
        "model": "text",
        "model_turns": "int",
        "input_tokens": "bigint",
        "output_tokens": "bigint",
        "cost": "numeric",
        "last_seq": "bigint",
        "event_bytes": "bigint",
        "finished_at": "timestamptz",
        "lease_expires_at": "timestamptz",
    },
    order=9,
)

INTERRUPT_ROWS = insert_rows(
    "orchestration_interrupt",
    {
        "id": "uuid",
        "run_id": "uuid",
        "thread_id": "uuid",
        "number": "int",
        "reason": "text",
        "message": "text",
        "tool_call_id": "text",
        "response_schema": "jsonb",
        "detail": "jsonb",
        "decider": "text",
        "approver_role": "text",
        "expires_at": "timestamptz",
    },
    order=5,
)

RUN_ABANDONED_ROWS = update_rows(
    "orchestration_run",
    {"id": "uuid"},
    {
        "status": "text",
        "error_code": "text",
        "error_message": "text",
        "last_seq": "bigint",
        "event_bytes": "bigint",
        "finished_at": "timestamptz",
        "lease_expires_at": "timestamptz",
    },
    order=9,
)


class _JournalUnit(Unit):
    """A unit that gathers events as lines and turns them into one row when the writer takes it."""

    __slots__ = ("_journal", "lines", "seq_from")

    def __init__(self, journal: RunJournal, seq_from: int) -> None:
        super().__init__(journal.run_id, journal.fence)
        self._journal = journal
        self.lines: list[bytes] = []
        self.seq_from = seq_from

    def settle(self, error: BaseException | None) -> None:
        if error is None:
            self._journal.release(self)
        elif isinstance(error, UnitRejectedError):
            self._journal.note_rejected(self)
        super().settle(error)

    def seal(self) -> None:
        if self._journal.rejected_from is not None:
            # An earlier unit of the run was refused: what follows it would leave a hole in the log.
            self.lines.clear()
            self.rows.clear()
        if self.lines:
            row = (self.run_id, self.seq_from, self.seq_from + len(self.lines) - 1, b"\n".join(self.lines))
            self.rows[EVENT_ROWS] = [row]
        self.state = "sealed"


class RunJournal:
    """Writes one run, as the holder of `fence`. Events are numbered from `next_seq` and reach readers only once committed."""

    def __init__(
        self, *, run_id: UUID, fence: int, channel: RunChannel, writer: GroupWriter, next_seq: int = 1
    ) -> None:
        self.run_id = run_id
        self.fence = fence
        self.open_items = OpenItems()
        self.bytes = 0
        self._channel = channel
        self._writer = writer
        self.rejected_from: int | None = None
        self._next_seq = next_seq
        self._unit: _JournalUnit | None = None

    @property
    def last_seq(self) -> int:
        """Number of the last event emitted."""
        return self._next_seq - 1

    def emit(self, event: ev.Event) -> None:
        """Append an event that may open or close an item."""
        self.open_items.apply(event)
        self.emit_delta(event)

    def emit_delta(self, event: ev.Event) -> None:
        """Append an event that neither opens nor closes anything: the path of each token."""
        line = ev.encode(event)
        self._current_unit().lines.append(line)
        self._next_seq += 1
        self.bytes += len(line)

    def step_started(self, *, number: int, kind: str, name: str, detail: dict[str, Any]) -> UUID:
        """Append a step to the journal; returns its id."""
        step_id = uuid7()
        self._current_unit().add(STEP_ROWS, (step_id, self.run_id, number, kind, name, "started", _json(detail)))
        return step_id

    def step_noted(self, step_id: UUID, detail: dict[str, Any]) -> None:
        """Append what became known of a step that goes on: once a step, for a successor. `detail` takes the place of the former."""
        self._current_unit().add(STEP_NOTE_ROWS, (step_id, _json(detail)))

    def step_ended(self, step_id: UUID, *, status: str, detail: dict[str, Any], at: Any) -> None:
        """Append the end of a step."""
        self._current_unit().add(STEP_END_ROWS, (step_id, status, _json(detail), at))

    def turn_ended(self, *, response: str, messages: list[dict[str, Any]], token_estimate: int, at: Any) -> None:
        """Append what the run added to its thread."""
        self._current_unit().add(TURN_END_ROWS, (self.run_id, response, _json(messages), token_estimate, at))

    def interrupted(self, thread_id: UUID, questions: Sequence[Question]) -> None:
        """Append the questions that end the run; the thread's next run answers them."""
        for number, question in enumerate(questions, 1):
            interrupt, call = question.as_interrupt(), question.call
            row = (question.id, self.run_id, thread_id, number, interrupt["reason"], interrupt["message"], call.id,
                   _json(interrupt["responseSchema"]), _json(question.as_detail()), question.decider.value,
                   question.approver_role, question.expires_at)  # fmt: skip
            self._current_unit().add(INTERRUPT_ROWS, row)

    def state_changed(self, thread_id: UUID, state: Any) -> None:
        """Append the shared state with which the thread's next run begins."""
        self._current_unit().add(THREAD_STATE_ROWS, (thread_id, _json(state)))

    def run_ended(self, columns: dict[str, Any]) -> None:
        """Append the run row's final columns (those of RUN_END_ROWS but `id`)."""
        ordered = [columns[name] for name in RUN_END_ROWS.columns[1:]]
        self._current_unit().add(RUN_END_ROWS, (self.run_id, *ordered))

    def abandoned(self, *, message: str, at: datetime) -> None:
        """Append the end of a run whose owner is gone: what it cost is not known."""
        row = (self.run_id, "failed", "run_abandoned", message, self.last_seq, self.bytes, at, None)
        self._current_unit().add(RUN_ABANDONED_ROWS, row)

    def add(self, kind: RowKind, row: Row) -> None:
        """Append a row of a kind that is described elsewhere."""
        self._current_unit().add(kind, row)

    def audit(self, entry: AuditEntry) -> None:
        """Append an audit entry, committed with what happened."""
        audit_rows.add_to(self._current_unit(), entry)

    async def record(self, entry: AuditEntry) -> None:
        """Append an audit entry and wait for its commit: the recorder of the tools' door."""
        self.audit(entry)
        await self.flush()

    async def flush(self) -> None:
        """Wait until all that was appended is committed; raises LeaseLostError or UnitRejectedError."""
        unit = self._unit
        if unit is not None:
            await unit.done()

    async def room(self) -> None:
        """Wait while the writer is behind."""
        await self._writer.room()

    def note_rejected(self, unit: _JournalUnit) -> None:
        """The database refused a unit (called by the unit): nothing after it may be written before `discard_rejected`."""
        if self.rejected_from is None or unit.seq_from < self.rejected_from:
            self.rejected_from = unit.seq_from

    def discard_rejected(self) -> None:
        """Forget what was refused and everything after it; numbering goes on where the log ends."""
        if self.rejected_from is None:
            return
        if self._unit is not None and self._unit.state == "open":
            self._unit.lines.clear()
            self._unit.rows.clear()
            self._unit.seq_from = self.rejected_from
        self._next_seq = self.rejected_from
        self.rejected_from = None
        self.open_items = OpenItems()  # RUN_ERROR, which follows, may leave items open

    def _current_unit(self) -> _JournalUnit:
        unit = self._unit
        if unit is not None and unit.state == "open":
            return unit
        unit = _JournalUnit(self, self._next_seq)
        self._unit = unit
        self._writer.submit(unit)
        return unit

    def release(self, unit: _JournalUnit) -> None:
        """Hand committed events to the readers (called by the unit)."""
        if unit.lines:
            metrics.events_committed.inc(len(unit.lines))
            self._channel.publish(Chunk(self._channel.public_id, unit.seq_from, unit.lines))


def _json(value: Any) -> str:
    text = orjson.dumps(value, default=str).decode()
    return _NUL_ESCAPE.sub(r"\1\\ufffd", text) if "\\u0000" in text else text
