"""Caller roles, and the rules about them, in the console.

What is saved here goes through `tools.changes`, so it may have to wait for a second person.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.decorators import display

from tools.admin.documents import DocumentAdmin, DocumentForm
from tools.admin.forms import IndentedJSONField
from tools.documents import Spec
from tools.documents.kinds import rule_name
from tools.models import ArgumentRule, CallerRole, DenyRule


class CallerRoleForm(DocumentForm):
    """A role and what it inherits."""

    kind = "Role"

    class Meta:
        model = CallerRole
        fields = ("name", "description", "inherits")

    def document_name(self) -> str:
        name: str = self.cleaned_data["name"] if self.instance._state.adding else self.instance.name
        return name

    def spec(self) -> Spec:
        inherits = sorted(role.name for role in self.cleaned_data["inherits"])
        return {"description": self.cleaned_data["description"], "inherits": inherits}


class RuleForm(DocumentForm):
    """A rule about a tool (or all) and a role (or everybody)."""

    def document_name(self) -> str:
        if not self.instance._state.adding:
            return rule_name(self.instance)
        said = self.cleaned_data
        return rule_name(type(self.instance)(tool=said.get("tool"), role=said["role"]))


class DenyRuleForm(RuleForm):
    """Who may not."""

    kind = "DenyRule"

    class Meta:
        model = DenyRule
        fields = ("tool", "role", "reason")

    def spec(self) -> Spec:
        return {"reason": self.cleaned_data["reason"]}


class ArgumentRuleForm(RuleForm):
    """With which arguments."""

    kind = "ArgumentRule"

    schema = IndentedJSONField(
        rows=14,
        initial={"type": "object", "properties": {}},
        help_text="JSON Schema 2020-12 that the arguments must fit beside the tool's own, an object.",
    )

    class Meta:
        model = ArgumentRule
        fields = ("tool", "role", "schema", "reason")

    def spec(self) -> Spec:
        return {"schema": self.cleaned_data["schema"], "reason": self.cleaned_data["reason"]}


@admin.register(CallerRole)
class CallerRoleAdmin(DocumentAdmin, ModelAdmin):
    """Roles as the gateway names them. A role that is not listed is worth as much as `user`."""

    form = CallerRoleForm
    list_display = ("name", "inherited", "description")
    search_fields = ("name", "description")
    filter_horizontal = ("inherits",)
    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER
    warn_unsaved_form = True
    fields = ("name", "description", "inherits")

    def get_queryset(self, request: HttpRequest) -> QuerySet[CallerRole]:
        """With the inherited roles, read once for the whole list."""
        roles: QuerySet[CallerRole] = super().get_queryset(request).prefetch_related("inherits")
        return roles

    @display(description="Has the rights of")
    def inherited(self, role: CallerRole) -> str:
        return ", ".join(sorted(other.name for other in role.inherits.all()))


class RuleAdmin(DocumentAdmin, ModelAdmin):
    """Lists and pages of rules."""

    identity = ("tool", "role")
    list_display: tuple[str, ...] = ("shown_tool", "shown_role", "reason", "created_at")
    list_select_related = ("tool",)
    search_fields = ("tool__name", "role", "reason")
    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER
    autocomplete_fields = ("tool",)
    warn_unsaved_form = True

    def document_name(self, obj: Any) -> str:
        return rule_name(obj)

    @display(description="Tool")
    def shown_tool(self, rule: DenyRule | ArgumentRule) -> str:
        return rule.tool.name if rule.tool else "every tool"

    @display(description="Role")
    def shown_role(self, rule: DenyRule | ArgumentRule) -> str:
        return rule.role or "everybody"


@admin.register(DenyRule)
class DenyRuleAdmin(RuleAdmin):
    """What is forbidden whatever allows it."""

    form = DenyRuleForm
    fields = ("tool", "role", "reason")


@admin.register(ArgumentRule)
class ArgumentRuleAdmin(RuleAdmin):
    """With which arguments a role may call a tool."""

    form = ArgumentRuleForm
    fields = ("tool", "role", "schema", "reason")
