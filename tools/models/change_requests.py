"""Changes that wait for a second person."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from agentbackend.foundation.identifiers import uuid7


class ChangeRequest(models.Model):
    """A proposed change of one thing: `before` is what it said when it was proposed, `after` what it shall say.

    Only `tools.changes` moves it on: from pending to one of the others, once.
    """

    class Status(models.TextChoices):
        """Where it stands."""

        PENDING = "pending", "waits for a second person"
        APPROVED = "approved", "approved and live"
        REFUSED = "refused", "refused"
        WITHDRAWN = "withdrawn", "withdrawn by who proposed it"
        OUTDATED = "outdated", "outdated: the thing has changed meanwhile"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(max_length=40, help_text="What kind of thing: Tool, Role, ...")
    name = models.CharField(max_length=200)
    before = models.JSONField(null=True, blank=True, help_text="Empty: the thing is new.")
    after = models.JSONField(null=True, blank=True, help_text="Empty: the thing shall go.")
    reason = models.CharField(max_length=500, blank=True, db_default="", default="")
    status = models.CharField(max_length=16, choices=Status.choices, default=Status.PENDING, db_default=Status.PENDING)
    proposed_by = models.CharField(max_length=128)
    proposed_at = models.DateTimeField(db_default=Now())
    decided_by = models.CharField(max_length=128, blank=True, db_default="", default="")
    decided_at = models.DateTimeField(null=True, blank=True)
    decision_reason = models.CharField(max_length=500, blank=True, db_default="", default="")

    class Meta:
        ordering = ("-id",)
        permissions = [("decide_changerequest", "Can approve or refuse other people's changes")]
        default_permissions = ("view",)
        indexes = [models.Index(fields=["status", "-id"], name="change_by_status")]  # the list of what waits
        constraints = [
            # one open proposal for a thing: the next would be decided on a base that may be gone
            models.UniqueConstraint(
                fields=["kind", "name"], condition=models.Q(status="pending"), name="one_pending_change"
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"
