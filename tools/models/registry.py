"""Tools and their immutable versions.

A tool is switched on or off and points at one version; everything else stands in the version. Versions are
made by `tools.versions.publish_version` and never change: the database refuses it. The run path reads all
this as a snapshot (`tools.registry`), which a trigger on each table marks as out of date.
"""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models.functions import Now

from agentbackend.foundation.identifiers import uuid7
from tools.calls import CacheScope, RateLimitScope, SideEffects
from tools.governance.approvals import Decider
from tools.models.names import TOOL_NAME_PATTERN, no_delegation, role_name, tool_name


class HandlerType(models.TextChoices):
    """What carries out a call."""

    PYTHON_FUNCTION = "python_function", "Python function"
    HTTP_ENDPOINT = "http_endpoint", "HTTP endpoint"
    MCP_TOOL = "mcp_tool", "Tool of an MCP server"


class Tool(models.Model):
    """A tool by its name: whether it is on, and which version is served."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(
        max_length=64, unique=True, validators=[tool_name, no_delegation],
        help_text="What the model calls; it cannot be changed later.",
    )  # fmt: skip
    enabled = models.BooleanField(
        default=False, db_default=False, help_text="Off: nobody is offered the tool, and calls are refused."
    )
    current_version = models.ForeignKey(
        "ToolVersion", null=True, blank=True, editable=False, on_delete=models.RESTRICT, related_name="+"
    )
    owner = models.CharField(max_length=120, blank=True, db_default="", help_text="Who answers for it.")
    tags = ArrayField(models.CharField(max_length=40), blank=True, default=list, db_default=[])
    code_definition = models.JSONField(
        null=True, blank=True, editable=False,
        help_text="For a function of this service: its definition in code that was last taken over.",
    )  # fmt: skip
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(auto_now=True, db_default=Now())

    class Meta:
        ordering = ("name",)
        constraints = [models.CheckConstraint(condition=models.Q(name__regex=TOOL_NAME_PATTERN), name="tool_name_form")]

    def __str__(self) -> str:
        return self.name

    @property
    def is_offered(self) -> bool:
        """Whether anybody can be offered it: switched on, with a version."""
        return self.enabled and self.current_version_id is not None


class ToolVersion(models.Model):
    """What a tool is, at one moment; never changed, so that a number names the same thing for good."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tool = models.ForeignKey(Tool, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField(help_text="1 for the tool's first version.")
    # what the model and the caller see: `digest` covers it
    title = models.CharField(max_length=120)
    description = models.TextField(help_text="For the model: what the tool does and when to use it.")
    input_schema = models.JSONField(help_text="JSON Schema 2020-12 of the arguments: an object.")
    output_schema = models.JSONField(null=True, blank=True, help_text="JSON Schema 2020-12 of the result.")
    side_effects = models.CharField(
        max_length=16, choices=[(kind.value, kind.value) for kind in SideEffects],
        help_text="idempotent: may be repeated; keyed: may be repeated under its key; unsafe: ask a person.",
    )  # fmt: skip
    # how it is carried out
    handler_type = models.CharField(max_length=32, choices=HandlerType.choices)
    handler = models.JSONField(default=dict, db_default={}, help_text="Settings of the handler.")
    required_credentials = ArrayField(
        models.CharField(max_length=128), blank=True, default=list, db_default=[],
        help_text="Names of credentials, stored or in the environment; their values go to the handler, never to the model.",
    )  # fmt: skip
    timeout_seconds = models.FloatField(
        default=30.0, db_default=30.0, validators=[MinValueValidator(0.05), MaxValueValidator(600.0)]
    )
    output_limit_bytes = models.PositiveIntegerField(
        default=32 * 1024, db_default=32 * 1024,
        validators=[MinValueValidator(256), MaxValueValidator(1024 * 1024)],
        help_text="A longer result is cut, and says so.",
    )  # fmt: skip
    max_retries = models.PositiveSmallIntegerField(
        default=0, db_default=0, validators=[MaxValueValidator(5)],
        help_text="How often a call that failed for a passing reason is repeated (never with unsafe side effects).",
    )  # fmt: skip
    # who may use it
    required_role = models.CharField(
        max_length=64, blank=True, db_default="", default="", validators=[role_name],
        help_text="Empty: any authenticated caller. 'admin': that role alone.",
    )  # fmt: skip
    approval_required = models.BooleanField(
        default=False, db_default=False, help_text="Each call waits for a person's word before it is made."
    )
    approval_by = models.CharField(
        max_length=16, choices=[(decider.value, decider.value) for decider in Decider],
        default=Decider.ASKER.value, db_default=Decider.ASKER.value,
        help_text="Whose word: asker: who asked for the call, or an operator; someone_else: never who asked for it (four eyes).",
    )  # fmt: skip
    approver_role = models.CharField(
        max_length=64, blank=True, db_default="", default="", validators=[role_name],
        help_text="Callers of this role may decide, too, where someone else must. Empty: only people in the console.",
    )  # fmt: skip
    approval_expires_seconds = models.PositiveIntegerField(
        default=0, db_default=0, validators=[MaxValueValidator(366 * 24 * 3600)],
        help_text="How long a question waits and its approval counts. 0: APPROVAL_EXPIRES_SECONDS.",
    )  # fmt: skip
    # how often
    cache_seconds = models.PositiveIntegerField(
        default=0, db_default=0, validators=[MaxValueValidator(7 * 24 * 3600)],
        help_text="How long a result answers the same call again; 0: never. Only without side effects (idempotent).",
    )  # fmt: skip
    cache_scope = models.CharField(
        max_length=8, choices=[(scope.value, scope.value) for scope in CacheScope],
        default=CacheScope.USER.value, db_default=CacheScope.USER.value,
        help_text="Who shares a kept result: the same user, or everybody with the same role.",
    )  # fmt: skip
    rate_limit = models.CharField(
        max_length=40, blank=True, db_default="", default="",
        help_text='Calls in a time, for example "30/minute" or "5 per 10 second". Empty: not limited.',
    )  # fmt: skip
    rate_limit_scope = models.CharField(
        max_length=8, choices=[(scope.value, scope.value) for scope in RateLimitScope],
        default=RateLimitScope.CALLER.value, db_default=RateLimitScope.CALLER.value,
        help_text="Who shares the limit: each caller has its own, or all callers of the tool one.",
    )  # fmt: skip
    max_concurrent = models.PositiveSmallIntegerField(
        default=0, db_default=0, validators=[MaxValueValidator(1000)],
        help_text="Calls at the same time in one process; the next waits within its time. 0: not limited.",
    )  # fmt: skip
    # where it comes from
    digest = models.CharField(max_length=64, editable=False, help_text="SHA-256 of what is seen of it.")
    change_note = models.CharField(max_length=500, blank=True, db_default="", default="")
    created_by = models.CharField(max_length=128, db_default="system", default="system")
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        ordering = ("tool", "-number")
        constraints = [
            models.UniqueConstraint(fields=["tool", "number"], name="tool_version_number"),
            models.CheckConstraint(condition=models.Q(number__gte=1), name="tool_version_from_one"),
        ]

    def __str__(self) -> str:
        return f"version {self.number}"


class RegistryRevision(models.Model):
    """One row that counts the changes of the tables above; triggers count, snapshots compare.

    A counter in a row, not a sequence: it becomes visible when the change does, and not before.
    """

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    revision = models.PositiveBigIntegerField(db_default=0)

    class Meta:
        default_permissions = ()
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="one_registry_revision")]

    def __str__(self) -> str:
        return str(self.revision)
