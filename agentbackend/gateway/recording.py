"""Writes the gateway's decisions into the audit trail."""

from __future__ import annotations

from typing import Any

from agentbackend.foundation import metrics
from agentbackend.foundation.writer import GroupWriter, Unit
from audit.actions import AUTHENTICATION_ACCEPTED
from audit.actor import Actor
from audit.entry import AuditEntry, Target, entry
from audit.refusals import RefusalCounter
from audit.rows import add_to


class GatewayRecorder:
    """The `Observer` of a service: each accepted request is an entry, refusals are counted.

    Entries are queued, not awaited: what an accepted request then does is recorded with its own commit. The
    service runs `refusals.run()` beside the writer, and ends it first.
    """

    def __init__(self, writer: GroupWriter) -> None:
        self._writer = writer
        self.refusals = RefusalCounter(self._queue)

    def accepted(self, actor: Actor, scope: dict[str, Any]) -> None:
        """Record who was let in and to which address, without its query, which may hold a message."""
        target = Target("address", scope["path"])
        self._queue(entry(AUTHENTICATION_ACCEPTED, actor=actor, target=target, request_id=scope["request_id"]))

    def refused(self, scope: dict[str, Any], code: str, source_ip: str) -> None:
        """Count a refusal."""
        metrics.requests_refused.labels(code=code).inc()
        self.refusals.refused(source_ip, code, scope["request_id"])

    def _queue(self, audit_entry: AuditEntry) -> None:
        unit = Unit()
        add_to(unit, audit_entry)
        self._writer.submit(unit)
