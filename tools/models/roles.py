"""Caller roles, what is forbidden to them, and with which arguments they may call."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from agentbackend.foundation.identifiers import uuid7
from tools.models.names import role_name
from tools.models.registry import Tool


class CallerRole(models.Model):
    """An application role as the gateway names it, and the roles whose rights it has, too."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=64, unique=True, validators=[role_name])
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
        max_length=64, blank=True, db_default="", default="", validators=[role_name],
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


class ArgumentRule(models.Model):
    """Which arguments callers of a role may call a tool with, beside those that the tool's own schema allows."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tool = models.ForeignKey(Tool, on_delete=models.CASCADE, related_name="argument_rules")
    role = models.CharField(
        max_length=64, blank=True, db_default="", default="", validators=[role_name],
        help_text="Binds this role, and those that inherit it and have no rule of their own. Empty: everybody.",
    )  # fmt: skip
    schema = models.JSONField(help_text="JSON Schema 2020-12 that the call's arguments must fit, an object.")
    reason = models.CharField(max_length=300, help_text="Shown to whoever is refused by it.")
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        ordering = ("tool", "role")
        constraints = [models.UniqueConstraint(fields=["tool", "role"], name="one_argument_rule")]

    def __str__(self) -> str:
        return f"{self.role or 'everybody'}: arguments of {self.tool}"
