"""The tool registry as tables: tools, their immutable versions, caller roles, deny rules.

A tool is switched on or off and points at one version; everything else stands in the version. Versions are
made by `tools.versions.publish_version` and never change: the database refuses it. The run path reads all
this as a snapshot (`tools.registry`), which a trigger on each table marks as out of date.
"""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models.functions import Now

from agentbackend.foundation.identifiers import uuid7
from tools.calls import SideEffects
from tools.notes import Note

__all__ = ["CallerRole", "DenyRule", "Note", "RegistryRevision", "Tool", "ToolVersion"]

TOOL_NAME_PATTERN = r"^[a-zA-Z0-9_-]{1,64}$"
ROLE_NAME_PATTERN = r"^[a-zA-Z0-9_.:-]{1,64}$"

_tool_name = RegexValidator(TOOL_NAME_PATTERN, "1 to 64 letters, digits, underscores and hyphens.")
_role_name = RegexValidator(ROLE_NAME_PATTERN, "1 to 64 letters, digits and . _ : -")


class HandlerType(models.TextChoices):
    """What carries out a call."""

    PYTHON_FUNCTION = "python_function", "Python function"
    HTTP_ENDPOINT = "http_endpoint", "HTTP endpoint"
    MCP_TOOL = "mcp_tool", "Tool of an MCP server"


class Tool(models.Model):
    """A tool by its name: whether it is on, and which version is served."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(
        max_length=64, unique=True, validators=[_tool_name],
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
        help_text="Names of environment variables; their values go to the handler, never to the model.",
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
        max_length=64, blank=True, db_default="", default="", validators=[_role_name],
        help_text="Empty: any authenticated caller. 'admin': that role alone.",
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


class CallerRole(models.Model):
    """An application role as the gateway names it, and the roles whose rights it has, too."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=64, unique=True, validators=[_role_name])
    description = models.CharField(max_length=300, blank=True, db_default="")
    inherits = models.ManyToManyField("self", symmetrical=False, blank=True, related_name="inherited_by")
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(auto_now=True, db_default=Now())

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class DenyRule(models.Model):
    """A tool forbidden to a role; stronger than everything that allows it."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tool = models.ForeignKey(
        Tool, on_delete=models.CASCADE, null=True, blank=True, related_name="denies", help_text="Empty: all."
    )
    role = models.CharField(
        max_length=64, blank=True, db_default="", default="", validators=[_role_name],
        help_text="Also forbids it to the roles that inherit this one. Empty: forbidden to everybody.",
    )  # fmt: skip
    reason = models.CharField(max_length=300, help_text="Shown where somebody asks why.")
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        ordering = ("tool", "role")
        constraints = [
            models.UniqueConstraint(fields=["tool", "role"], name="one_deny_rule"),
            models.UniqueConstraint(
                fields=["role"], condition=models.Q(tool__isnull=True), name="one_deny_rule_for_all"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.role or 'everybody'}: {self.tool or 'every tool'}"


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
