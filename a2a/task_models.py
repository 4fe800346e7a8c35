"""Tasks that callers gave us over A2A, where their states are announced, and the announcements that wait.

Written by short SQL of `a2a.task_store` and `a2a.push`, as runs are: the models are here for migrations and for the console's reading.
"""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from agentbackend.foundation.identifiers import uuid7
from audit.actor import DEFAULT_TENANT


class Task(models.Model):
    """A task as its caller sees it. It spans a run, and one more for each answer to a question; `run_id` is the current one.

    What a run has come to is written here by whoever looks first (`a2a.serving.progress`), so any process can answer for any task.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    public_id = models.CharField(max_length=128, unique=True, help_text="The taskId of A2A.")
    context_id = models.CharField(max_length=128, help_text="The contextId: the thread's public id.")
    tenant = models.CharField(max_length=64, db_default=DEFAULT_TENANT, default=DEFAULT_TENANT)
    owner_id = models.CharField(max_length=64)
    agent = models.CharField(max_length=64, help_text="The slug of the agent that was asked.")
    run_id = models.CharField(
        max_length=128, blank=True, db_default="", default="", help_text="The current run's public id."
    )
    state = models.CharField(max_length=24, db_default="working", default="working")
    status_message = models.JSONField(null=True, blank=True)
    status_at = models.DateTimeField(db_default=Now())
    artifacts = models.JSONField(default=list, db_default=[])
    history = models.JSONField(default=list, db_default=[])
    metadata = models.JSONField(default=dict, db_default={})
    message_key = models.CharField(
        max_length=64, blank=True, db_default="", default="", editable=False, help_text="Of the message that began it."
    )
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name = "A2A task"
        indexes = [
            # a caller's tasks, the last changed first
            models.Index(fields=["tenant", "owner_id", "agent", "-status_at", "-id"], name="a2a_task_by_owner"),
            models.Index(fields=["run_id"], name="a2a_task_by_run"),
            models.Index(fields=["context_id"], name="a2a_task_by_context"),
            # whether a message was sent before
            models.Index(
                fields=["tenant", "owner_id", "agent", "message_key"],
                condition=~models.Q(message_key=""),
                name="a2a_task_by_message",
            ),
            # those that somebody may wait for
            models.Index(
                fields=["id"],
                condition=models.Q(state__in=["submitted", "working", "input_required"]),
                name="a2a_task_open",
            ),
        ]

    def __str__(self) -> str:
        return f"task {self.public_id}"


class PushConfig(models.Model):
    """Where a task's states are announced. Token and credentials are sealed together, and never shown."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="push_configs")
    config_id = models.CharField(max_length=128)
    url = models.CharField(max_length=2000)
    scheme = models.CharField(max_length=64, blank=True, db_default="", default="")
    kid = models.CharField(max_length=64, blank=True, db_default="", default="")
    sealed = models.BinaryField(null=True, editable=False)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name = "A2A push notification"
        constraints = [models.UniqueConstraint(fields=["task", "config_id"], name="a2a_push_config_id")]

    def __str__(self) -> str:
        return self.config_id


class PushDelivery(models.Model):
    """One state that is to be announced at one address. Written with the state, so none is lost."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    config = models.ForeignKey(PushConfig, on_delete=models.CASCADE, related_name="deliveries")
    payload = models.TextField()
    attempts = models.PositiveSmallIntegerField(db_default=0, default=0)
    next_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True, blank=True)
    problem = models.CharField(max_length=300, blank=True, db_default="", default="")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name = "A2A announcement"
        verbose_name_plural = "A2A announcements"
        indexes = [
            models.Index(fields=["next_at"], condition=models.Q(ended_at__isnull=True), name="a2a_delivery_due"),
        ]

    def __str__(self) -> str:
        return f"announcement {self.id}"
