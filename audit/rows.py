"""Audit rows for the writer: they are committed with what they record, under the same fence."""

from __future__ import annotations

from typing import Final

from agentbackend.foundation import metrics
from agentbackend.foundation.writer import Unit, insert_rows
from audit.entry import AuditEntry

EVENT_COLUMNS: Final[dict[str, str]] = {
    "id": "uuid",
    "recorded_at": "timestamptz",
    "tenant": "text",
    "actor_id": "text",
    "subject_id": "text",
    "action": "text",
    "target_kind": "text",
    "target_id": "text",
    "outcome": "text",
    "reason": "text",
    "run_id": "uuid",
    "thread_id": "uuid",
    "request_id": "text",
    "envelope": "bytea",
}
PAYLOAD_COLUMNS: Final[dict[str, str]] = {"event_id": "uuid", "key": "bytea", "body": "bytea"}

# After the rows that they record: a group that fails on its data fails before it has written about it.
EVENT_ROWS: Final = insert_rows("audit_events", EVENT_COLUMNS, order=90)
PAYLOAD_ROWS: Final = insert_rows("audit_payload", PAYLOAD_COLUMNS, order=91)

_ROW_OVERHEAD_BYTES = 300


def add_to(unit: Unit, entry: AuditEntry) -> None:
    """Put the entry into a unit; it is committed with the unit's other rows or not at all."""
    metrics.audit_entries.labels(action=entry.action).inc()
    unit.add(EVENT_ROWS, entry.event_row, _ROW_OVERHEAD_BYTES + len(entry.envelope))
    if entry.payload_row is not None:
        unit.add(PAYLOAD_ROWS, entry.payload_row, _ROW_OVERHEAD_BYTES + len(entry.payload_row[-1]))
