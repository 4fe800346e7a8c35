"""Recording on the ORM path: the console and management commands, inside the transaction of what is
recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.db import DEFAULT_DB_ALIAS, connections

from agentbackend.foundation import metrics
from audit.actor import Actor
from audit.entry import AuditEntry, Outcome, Target, entry
from audit.rows import EVENT_COLUMNS, PAYLOAD_COLUMNS


class AuditOutsideTransactionError(RuntimeError):
    """`record` was called outside `transaction.atomic`: the record and what it is about could part."""


def record(
    action: str,
    *,
    actor: Actor,
    outcome: Outcome = Outcome.SUCCESS,
    target: Target | None = None,
    subject_id: str = "",
    reason: str = "",
    policy_version: str = "",
    run_id: UUID | None = None,
    thread_id: UUID | None = None,
    request_id: str = "",
    trace_id: str = "",
    details: Mapping[str, Any] | None = None,
    using: str = DEFAULT_DB_ALIAS,
) -> AuditEntry:
    """Record what the current transaction does; arguments as for `audit.entry.entry`, `using` names the connection.

    Raises AuditOutsideTransactionError outside `atomic`, and whatever the database says when it cannot be
    recorded: what must not happen unrecorded is then rolled back with it.
    """
    made = entry(
        action,
        actor=actor,
        outcome=outcome,
        target=target,
        subject_id=subject_id,
        reason=reason,
        policy_version=policy_version,
        run_id=run_id,
        thread_id=thread_id,
        request_id=request_id,
        trace_id=trace_id,
        details=details,
    )
    insert(made, using)
    return made


def insert(made: AuditEntry, using: str = DEFAULT_DB_ALIAS) -> None:
    """Write an entry within the current transaction of one of Django's connections."""
    connection = connections[using]
    if not connection.in_atomic_block:
        raise AuditOutsideTransactionError(f"{made.action}: audit.record() must be called inside transaction.atomic()")
    metrics.audit_entries.labels(action=made.action).inc()
    with connection.cursor() as cursor:
        cursor.execute(_INSERT_EVENT, made.event_row)
        if made.payload_row is not None:
            cursor.execute(_INSERT_PAYLOAD, made.payload_row)


def _insert_statement(table: str, columns: Mapping[str, str]) -> str:
    values = ", ".join(f"%s::{kind}" for kind in columns.values())
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})"  # noqa: S608 - constants of this code


_INSERT_EVENT = _insert_statement("audit_events", EVENT_COLUMNS)
_INSERT_PAYLOAD = _insert_statement("audit_payload", PAYLOAD_COLUMNS)
