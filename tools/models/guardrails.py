"""Guardrail policies and their immutable versions.

A policy is switched on or off, applies everywhere or to the agents that name it, and points at one version; what it looks for, where
and what then happens stands in the version. Versions are made by `tools.governance.policies` and never change: the database refuses
it, because the audit trail names them.
"""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Now

from agentbackend.foundation.identifiers import uuid7
from tools.governance.guardrails.policy import Action, PolicyKind, Stage
from tools.models.names import POLICY_NAME_PATTERN, policy_name

POLICY_KINDS = (
    (PolicyKind.KEYWORDS.value, "Keywords"),
    (PolicyKind.PATTERNS.value, "Patterns"),
    (PolicyKind.PII.value, "Personal data and secrets"),
    (PolicyKind.INJECTION.value, "Prompt injection"),
    (PolicyKind.LENGTH.value, "Length"),
    (PolicyKind.MODEL.value, "Moderation model"),
)
POLICY_STAGES = (
    (Stage.USER_INPUT.value, "What users say"),
    (Stage.TOOL_ARGUMENTS.value, "Arguments of tools"),
    (Stage.TOOL_RESULT.value, "Results of tools"),
    (Stage.REMOTE_ANSWER.value, "Answers of remote agents"),
    (Stage.OUTPUT.value, "What agents say"),
)
POLICY_ACTIONS = (
    (Action.BLOCK.value, "Block"),
    (Action.REDACT.value, "Redact"),
    (Action.WARN.value, "Warn"),
    (Action.ASK.value, "Ask a person"),
)


class GuardrailPolicy(models.Model):
    """A policy by its name: whether it is on, whom it binds, and which version counts."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(
        max_length=64, unique=True, validators=[policy_name],
        help_text="What agents and the audit trail call it; it cannot be changed later.",
    )  # fmt: skip
    enabled = models.BooleanField(default=True, db_default=True, help_text="Off: nothing is checked by it.")
    everywhere = models.BooleanField(
        default=False, db_default=False,
        help_text="For every agent and every other caller of tools. Otherwise only for the agents that name it.",
    )  # fmt: skip
    description = models.CharField(
        max_length=300, blank=True, db_default="", default="", help_text="For people: what it is for."
    )
    setting = models.CharField(
        max_length=64, blank=True, db_default="", default="", editable=False,
        help_text="The setting that it comes from: it is changed there, and only there.",
    )  # fmt: skip
    current_version = models.ForeignKey(
        "GuardrailPolicyVersion", null=True, blank=True, editable=False, on_delete=models.RESTRICT, related_name="+"
    )
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(auto_now=True, db_default=Now())

    class Meta:
        ordering = ("name",)
        verbose_name = "guardrail policy"
        verbose_name_plural = "guardrail policies"
        default_permissions = ("add", "change", "view")
        constraints = [
            models.CheckConstraint(condition=models.Q(name__regex=POLICY_NAME_PATTERN), name="policy_name_form")
        ]

    def __str__(self) -> str:
        return self.name


class GuardrailPolicyVersion(models.Model):
    """What a policy looks for, where, and what then happens; never changed, so that a number names the same thing for good."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    policy = models.ForeignKey(GuardrailPolicy, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField(help_text="1 for the policy's first version.")
    kind = models.CharField(max_length=16, choices=POLICY_KINDS, help_text="What it looks for.")
    stages = ArrayField(
        models.CharField(max_length=16, choices=POLICY_STAGES), help_text="Where it looks: at least one place."
    )
    action = models.CharField(
        max_length=16, choices=POLICY_ACTIONS,
        help_text="block: it goes no further; redact: what was found is masked; warn: it is recorded; ask: a person decides.",
    )  # fmt: skip
    settings = models.JSONField(default=dict, db_default={}, blank=True, help_text="What its kind needs to know.")
    message = models.CharField(
        max_length=500, blank=True, db_default="", default="",
        help_text="What is said when it blocks. Empty: a plain sentence.",
    )  # fmt: skip
    digest = models.CharField(max_length=64, editable=False, help_text="SHA-256 of all of the above.")
    change_note = models.CharField(max_length=500, blank=True, db_default="", default="")
    created_by = models.CharField(max_length=128, db_default="system", default="system")
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        ordering = ("policy", "-number")
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(fields=["policy", "number"], name="policy_version_number"),
            models.CheckConstraint(condition=models.Q(number__gte=1), name="policy_version_from_one"),
        ]

    def __str__(self) -> str:
        return f"version {self.number}"
