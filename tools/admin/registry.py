"""Tools in the console: switched on and off, changed by new versions, and every version still to be read.

What stands in a version is written through `tools.versions` only, which checks and records it.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from audit.admin import pretty
from audit.admin_recording import AuditedModelAdmin
from audit.console_actor import request_actor
from tools.admin.forms import ReasonForm, RollBackForm, ToolForm
from tools.calls import SideEffects
from tools.models import Tool, ToolVersion
from tools.versions import Definition, publish_version, roll_back, switch_tool

LAST_VERSIONS = 20


class EnabledFilter(admin.SimpleListFilter):
    """Is it on?"""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("on", "on"), ("off", "off")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Tool]) -> QuerySet[Tool]:
        return queryset.filter(enabled=self.value() == "on") if self.value() in ("on", "off") else queryset


class SideEffectsFilter(admin.SimpleListFilter):
    """What does an interrupted call mean?"""

    title = "side effects"
    parameter_name = "side_effects"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(kind.value, kind.value) for kind in SideEffects]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Tool]) -> QuerySet[Tool]:
        return queryset.filter(current_version__side_effects=self.value()) if self.value() else queryset


class VersionInline(TabularInline):
    """The versions of a tool, newest first: they never change."""

    model = ToolVersion
    tab = True
    extra = 0
    can_delete = False
    hide_title = True
    per_page = LAST_VERSIONS
    ordering = ("-number",)
    verbose_name_plural = "versions"
    fields = readonly_fields = ("number", "made", "created_by", "change_note", "short_digest", "content")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @display(description="Made (UTC)")
    def made(self, version: ToolVersion) -> str:
        return f"{version.created_at:%Y-%m-%d %H:%M:%S}"

    @display(description="Digest")
    def short_digest(self, version: ToolVersion) -> SafeString:
        return format_html('<code title="{}">{}</code>', version.digest, version.digest[:12])

    @display(description="Definition")
    def content(self, version: ToolVersion) -> SafeString:
        definition = pretty(orjson.dumps(Definition.of(version).as_dict()))
        return format_html('<details class="console-fold"><summary>show</summary>{}</details>', definition)


@admin.register(Tool)
class ToolAdmin(AuditedModelAdmin, ModelAdmin):
    """The list of tools and the page of one. A tool is never deleted, only switched off: runs name it."""

    form = ToolForm
    list_display = ("name", "title", "state", "version", "required_role", "side_effects", "owner", "updated_at")
    list_filter = (EnabledFilter, SideEffectsFilter)
    list_select_related = ("current_version",)
    search_fields = ("name", "current_version__title", "owner")
    ordering = ("name",)
    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER
    list_fullwidth = True
    warn_unsaved_form = True
    actions = None
    actions_detail = ("switch_on", "switch_off", "go_back")
    inlines = (VersionInline,)
    fieldsets = (
        (None, {"fields": (("name", "state"), "title", "description", ("owner", "tags"))}),
        ("Arguments and result", {"fields": (("input_schema", "output_schema"),)}),
        ("Who and what", {"fields": (("required_role", "side_effects"), "required_credentials")}),
        ("How", {"fields": (("handler_type", "handler"), ("timeout_seconds", "output_limit_bytes", "max_retries"))}),
        (
            "How often",
            {
                "fields": (
                    "approval_required",
                    ("rate_limit", "rate_limit_scope", "max_concurrent"),
                    ("cache_seconds", "cache_scope"),
                )
            },
        ),
        ("This change", {"fields": ("change_note", "base_version")}),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Tool | None = None) -> tuple[str, ...]:
        return ("name", "state") if obj else ("state",)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Tool | None:
        """By id, or by name as the audit trail writes it. A change holds the row, so that no other undoes it."""
        if not _is_uuid(object_id):
            named = Tool.objects.filter(name=object_id).first()
            object_id = str(named.pk) if named else object_id
        elif request.method == "POST":
            Tool.objects.select_for_update().filter(pk=object_id).first()
        tool: Tool | None = super().get_object(request, object_id, from_field)
        return tool

    def has_delete_permission(self, request: HttpRequest, obj: Tool | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Save what belongs to the tool itself, then publish what the form says as a version."""
        with transaction.atomic():
            super().save_model(request, obj, form, change)
            note = form.cleaned_data["change_note"]
            publish_version(obj, form.definition(), by=request_actor(request), note=note)

    # --- actions

    def has_switch_on_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """A tool that is off and has a version can be switched on by who may change it."""
        return self.has_change_permission(request) and _state_of(object_id) is False

    def has_switch_off_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """A tool that is on can be switched off by who may change it."""
        return self.has_change_permission(request) and _state_of(object_id) is True

    def has_go_back_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Who may change a tool may serve an older version again."""
        return bool(self.has_change_permission(request))

    @action(
        description="Switch on",
        permissions=["switch_on"],
        url_path="switch-on",
        icon="toggle_on",
        variant=ActionVariant.SUCCESS,
        dialog={
            "title": "Switch this tool on?",
            "description": "Agents offer it to callers whose role allows it, within a second.",
            "form_class": ReasonForm,
            "form_submit_text": "Switch on",
        },
    )
    def switch_on(self, request: HttpRequest, form: ReasonForm, object_id: str) -> HttpResponse:
        return self._switch(request, object_id, enabled=True)

    @action(
        description="Switch off",
        permissions=["switch_off"],
        url_path="switch-off",
        icon="toggle_off",
        variant=ActionVariant.DANGER,
        dialog={
            "title": "Switch this tool off?",
            "description": "Nobody is offered it any more, and calls are refused, within a second.",
            "form_class": ReasonForm,
            "form_submit_text": "Switch off",
        },
    )
    def switch_off(self, request: HttpRequest, form: ReasonForm, object_id: str) -> HttpResponse:
        return self._switch(request, object_id, enabled=False)

    @action(
        description="Go back to a version",
        permissions=["go_back"],
        url_path="go-back",
        icon="history",
        dialog={
            "title": "Serve an older version again",
            "description": "What it said becomes a new version; the history stays.",
            "form_class": RollBackForm,
            "form_submit_text": "Go back",
        },
    )
    def go_back(self, request: HttpRequest, form: RollBackForm, object_id: str) -> HttpResponse:
        tool = get_object_or_404(Tool, pk=object_id)
        number, note = form.cleaned_data["number"], form.cleaned_data["note"]
        try:
            version = roll_back(tool, number, by=request_actor(request), note=note)
        except ValidationError as error:
            messages.error(request, f"Version {number} can no longer be used: {'; '.join(error.messages)}")
        else:
            messages.success(request, f"Version {version.number} says what version {number} said.")
        return _back_to(tool)

    def _switch(self, request: HttpRequest, object_id: str, *, enabled: bool) -> HttpResponse:
        tool = get_object_or_404(Tool, pk=object_id)
        try:
            switch_tool(tool, enabled=enabled, by=request_actor(request))
        except ValidationError as error:
            messages.error(request, "; ".join(error.messages))
        else:
            messages.success(request, f"{tool.name} is {'on' if enabled else 'off'}.")
        return _back_to(tool)

    # --- showing

    @display(description="Title")
    def title(self, tool: Tool) -> str:
        return tool.current_version.title if tool.current_version else ""

    @display(description="State")
    def state(self, tool: Tool) -> SafeString:
        context = {"text": "on", "type": "success"} if tool.enabled else {"text": "off", "type": "danger"}
        return SafeString(render_to_string("unfold/helpers/label.html", context))

    @display(description="Version")
    def version(self, tool: Tool) -> str:
        return str(tool.current_version.number) if tool.current_version else "none"

    @display(description="Role")
    def required_role(self, tool: Tool) -> str:
        return (tool.current_version.required_role if tool.current_version else "") or "any"

    @display(description="Side effects")
    def side_effects(self, tool: Tool) -> str:
        return tool.current_version.side_effects if tool.current_version else ""


def _state_of(object_id: str | None) -> bool | None:
    """Whether the tool is on; nothing when there is no such tool or no version of it."""
    if object_id is None or not _is_uuid(str(object_id)):
        return None
    return Tool.objects.filter(pk=object_id, current_version__isnull=False).values_list("enabled", flat=True).first()


def _back_to(tool: Tool) -> HttpResponse:
    """To the tool's page; a dialog posts from a script, which follows this header."""
    return HttpResponse(headers={"HX-Redirect": reverse("admin:tools_tool_change", args=[tool.pk])})


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
