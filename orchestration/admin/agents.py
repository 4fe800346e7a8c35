"""Agents in the console: what they are told, which model and tools they use, which of them answers by default."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.decorators import display
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget

from audit import actions
from audit.admin_recording import AuditedModelAdmin, record_console
from orchestration.models import Agent
from tools.models import Tool

MOST_TOOLS = 500


class AgentForm(forms.ModelForm):
    """An agent, with its tools chosen from the registry."""

    tools = forms.MultipleChoiceField(
        required=False,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="What it may offer to callers whose role allows it. None chosen: every tool.",
    )

    class Meta:
        model = Agent
        fields = (
            "name", "slug", "description", "enabled", "is_default", "instructions", "model", "temperature",
            "max_output_tokens", "history_token_budget", "max_iterations", "tools",
        )  # fmt: skip

    becomes_default = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if "description" in self.fields:
            self.fields["description"].widget.attrs["rows"] = 3
        if "tools" in self.fields:  # not there for a reader
            self.fields["tools"].choices = _tool_choices(self.instance.tools)  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        """There is always one default agent, and it is enabled."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        was_default = bool(self.initial.get("is_default"))
        if was_default and not cleaned.get("is_default"):
            self.add_error("is_default", ValidationError("Make another agent the default one instead."))
        if cleaned.get("is_default") and not cleaned.get("enabled"):
            self.add_error("enabled", ValidationError("The default agent must be enabled."))
        self.becomes_default = bool(cleaned.get("is_default")) and not was_default
        if self.becomes_default:
            cleaned["is_default"] = False  # set on saving, when the one before has stepped back
        return cleaned


def _tool_choices(chosen: list[str]) -> list[tuple[str, str]]:
    """The registry's tools, and what is chosen but no longer there: removing that is up to a person."""
    known = list(Tool.objects.values_list("name", "enabled")[:MOST_TOOLS])
    names = {name for name, _ in known}
    missing = [(name, f"{name} (not in the registry)") for name in chosen if name not in names]
    return [(name, name if enabled else f"{name} (switched off)") for name, enabled in known] + missing


@admin.register(Agent)
class AgentAdmin(AuditedModelAdmin, ModelAdmin):
    """The list of agents and the page of one."""

    form = AgentForm
    list_display = ("name", "slug", "shown_model", "tool_names", "is_default", "enabled")
    list_filter = ("enabled",)
    search_fields = ("name", "slug")
    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER
    warn_unsaved_form = True
    actions = None
    prepopulated_fields = {"slug": ("name",)}
    fieldsets = (
        (None, {"fields": (("name", "slug"), "description", ("enabled", "is_default"))}),
        ("Behaviour", {"fields": ("instructions",)}),
        ("Model", {"fields": (("model", "temperature"), ("max_output_tokens", "max_iterations"), "history_token_budget")}),
        ("Tools", {"fields": ("tools",)}),
    )  # fmt: skip

    def get_prepopulated_fields(self, request: HttpRequest, obj: Agent | None = None) -> dict[str, Any]:
        """The slug is suggested for a new agent and fixed afterwards: addresses contain it."""
        return {} if obj else dict(self.prepopulated_fields)

    def get_readonly_fields(self, request: HttpRequest, obj: Agent | None = None) -> tuple[str, ...]:
        return ("slug",) if obj else ()

    def has_delete_permission(self, request: HttpRequest, obj: Agent | None = None) -> bool:
        """The default agent stays; an agent with threads is switched off instead (the database refuses)."""
        allowed: bool = super().has_delete_permission(request, obj)
        return allowed and not (obj is not None and obj.is_default)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Save; a new default agent takes the place of the one before, in the same transaction."""
        with transaction.atomic():
            if form.becomes_default:
                self._demote_others(request, obj)
                obj.is_default = True
            super().save_model(request, obj, form, change)

    def _demote_others(self, request: HttpRequest, successor: Agent) -> None:
        for agent in Agent.objects.select_for_update().filter(is_default=True).exclude(pk=successor.pk):
            Agent.objects.filter(pk=agent.pk).update(is_default=False)
            changes = {"is_default": {"before": True, "after": False}}
            record_console(request, actions.CONSOLE_CHANGED, agent, details={"name": agent.name, "changes": changes})

    @display(description="Model")
    def shown_model(self, agent: Agent) -> str:
        return agent.model or "the service's"

    @display(description="Tools")
    def tool_names(self, agent: Agent) -> str:
        return ", ".join(agent.tools) or "all"
