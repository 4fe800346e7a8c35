"""MCP servers of others, what they offer, and how they are."""

from __future__ import annotations

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models.functions import Now

from agentbackend.foundation.identifiers import uuid7
from tools.models.names import credential_name, server_name
from tools.models.registry import Tool


class RemoteServer(models.Model):
    """A server that speaks MCP over streamable HTTP. Its tools are imported one by one, and pinned."""

    class Protocol(models.TextChoices):
        """How to speak to it; what `auto` finds costs a round trip with each call."""

        AUTO = "auto", "find out"
        STATELESS = "2026-07-28", "2026-07-28 (stateless)"
        HANDSHAKE = "legacy", "2025-11-25 and older (handshake)"

    class Placement(models.TextChoices):
        """Where the credential goes."""

        BEARER = "bearer", "Authorization: Bearer"
        HEADER = "header", "a header of its own"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(
        max_length=40, unique=True, validators=[server_name], help_text="Stands before the names of its tools here."
    )
    title = models.CharField(max_length=120, blank=True, db_default="", default="")
    url = models.CharField(max_length=500, help_text="Of its MCP endpoint: https://...")
    protocol = models.CharField(
        max_length=16, choices=Protocol.choices, default=Protocol.AUTO, db_default=Protocol.AUTO
    )
    credential = models.CharField(
        max_length=128, blank=True, db_default="", default="", validators=[credential_name],
        help_text="Name of the credential that is sent with each request. Empty: none.",
    )  # fmt: skip
    credential_placement = models.CharField(
        max_length=8, choices=Placement.choices, default=Placement.BEARER, db_default=Placement.BEARER
    )
    credential_header = models.CharField(
        max_length=64, blank=True, db_default="", default="", help_text="The header's name, where it is one of its own."
    )
    timeout_seconds = models.FloatField(
        default=30.0, db_default=30.0, validators=[MinValueValidator(0.1), MaxValueValidator(600.0)]
    )
    enabled = models.BooleanField(
        default=True, db_default=True, help_text="Off: no tool of it can be called, and it is not asked for its tools."
    )
    owner = models.CharField(max_length=120, blank=True, db_default="", default="", help_text="Who answers for it.")
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(auto_now=True, db_default=Now())

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class RemoteServerHealth(models.Model):
    """How a server was reached lately: transport only, never what one caller was told."""

    server = models.OneToOneField(RemoteServer, primary_key=True, on_delete=models.CASCADE, related_name="health")
    last_ok_at = models.DateTimeField(null=True, blank=True)
    last_failure_at = models.DateTimeField(null=True, blank=True)
    last_failure = models.CharField(max_length=300, blank=True, db_default="", default="")
    failures_in_a_row = models.PositiveIntegerField(default=0, db_default=0)
    discovered_at = models.DateTimeField(null=True, blank=True, help_text="When it last told its tools.")
    protocol_version = models.CharField(max_length=16, blank=True, db_default="", default="")

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"health of {self.server_id}"


class RemoteTool(models.Model):
    """A tool as its server describes it now. What is served is the registry's pinned version, not this row."""

    class State(models.TextChoices):
        """What a person should know of it."""

        OFFERED = "offered", "not imported"
        IMPORTED = "imported", "imported, as pinned"
        CHANGED = "changed", "changed: quarantined"
        GONE = "gone", "no longer offered"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    server = models.ForeignKey(RemoteServer, on_delete=models.CASCADE, related_name="remote_tools")
    remote_name = models.CharField(max_length=200)
    title = models.CharField(max_length=200, blank=True, db_default="", default="")
    description = models.TextField(blank=True, db_default="", default="")
    input_schema = models.JSONField(default=dict)
    output_schema = models.JSONField(null=True, blank=True)
    annotations = models.JSONField(
        default=dict, db_default={}, help_text="Hints of the server; nothing relies on them."
    )
    digest = models.CharField(max_length=64, help_text="SHA-256 of what the server says of it now.")
    pinned_digest = models.CharField(
        max_length=64, blank=True, db_default="", default="", help_text="The same of what was imported or accepted."
    )
    problem = models.CharField(
        max_length=300, blank=True, db_default="", default="", help_text="Why it cannot be imported."
    )
    state = models.CharField(max_length=16, choices=State.choices, default=State.OFFERED, db_default=State.OFFERED)
    tool = models.OneToOneField(
        Tool, null=True, blank=True, on_delete=models.SET_NULL, related_name="remote_tool", help_text="Its import."
    )
    first_seen_at = models.DateTimeField(db_default=Now())
    last_seen_at = models.DateTimeField(db_default=Now())
    changed_at = models.DateTimeField(null=True, blank=True, help_text="When it stopped being what is pinned.")

    class Meta:
        ordering = ("server", "remote_name")
        constraints = [models.UniqueConstraint(fields=["server", "remote_name"], name="one_remote_tool")]

    def __str__(self) -> str:
        return self.remote_name
