"""Caller roles and deny rules in the console."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.decorators import display

from audit.admin_recording import AuditedModelAdmin
from tools.models import CallerRole, DenyRule


@admin.register(CallerRole)
class CallerRoleAdmin(AuditedModelAdmin, ModelAdmin):
    """Roles as the gateway names them. A role that is not listed has no rights but its own name's."""

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


@admin.register(DenyRule)
class DenyRuleAdmin(AuditedModelAdmin, ModelAdmin):
    """What is forbidden whatever allows it."""

    list_display = ("shown_tool", "shown_role", "reason", "created_at")
    list_select_related = ("tool",)
    search_fields = ("tool__name", "role", "reason")
    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER
    autocomplete_fields = ("tool",)
    warn_unsaved_form = True
    fields = ("tool", "role", "reason")

    @display(description="Tool")
    def shown_tool(self, rule: DenyRule) -> str:
        return rule.tool.name if rule.tool else "every tool"

    @display(description="Role")
    def shown_role(self, rule: DenyRule) -> str:
        return rule.role or "everybody"
