"""The tables of the audit trail, for reading. The rows are written by `audit.rows` and `audit.recording`
only.

The tables are made by SQL in the migrations (partitions, triggers, grants), so Django does not manage them.
"""

from __future__ import annotations

from typing import Any, ClassVar

import orjson
from django.db import models

from audit.entry import Outcome
from audit.payload import Payload


class AuditEvent(models.Model):
    """One event: the envelope's canonical bytes, and beside them the columns that searches use.

    The columns repeat what the envelope says; where the two differ the envelope is right and somebody has
    changed the table.
    """

    id = models.UUIDField(primary_key=True)
    recorded_at = models.DateTimeField("time")
    tenant = models.TextField()
    actor_id = models.TextField("actor")
    subject_id = models.TextField("subject")
    action = models.TextField()
    target_kind = models.TextField()
    target_id = models.TextField("target")
    outcome = models.TextField(choices=[(outcome.value, outcome.value) for outcome in Outcome])
    reason = models.TextField()
    run_id = models.UUIDField("run", null=True)
    thread_id = models.UUIDField("thread", null=True)
    request_id = models.TextField("request")
    envelope = models.BinaryField()

    class Meta:
        managed = False
        db_table = "audit_events"
        default_permissions = ("view",)
        ordering: ClassVar = ["-id"]
        verbose_name = "audit event"

    def __str__(self) -> str:
        return f"{self.action} {self.id}"

    def fields(self) -> dict[str, Any]:
        """The envelope, read."""
        document: dict[str, Any] = orjson.loads(bytes(self.envelope))
        return document


class AuditPayload(models.Model):
    """Details of an event: may be deleted (by retention, for a person's right), never changed."""

    event = models.OneToOneField(
        AuditEvent, on_delete=models.DO_NOTHING, db_constraint=False, primary_key=True, related_name="payload"
    )
    key = models.BinaryField()
    body = models.BinaryField()

    class Meta:
        managed = False
        db_table = "audit_payload"
        default_permissions = ("view",)
        verbose_name = "audit payload"

    def __str__(self) -> str:
        return f"details of {self.pk}"

    def unpacked(self) -> Payload:
        """Key and body as one value that can be checked against the envelope's commitment."""
        return Payload(bytes(self.key), bytes(self.body))
