"""Tools in the console: the list, the page of one tool with its definition, and the way to the other pages about it.

What is saved here goes through `tools.changes`, which checks it, records it (`tool.described`, `tool.published`, `tool.enabled`,
`tool.disabled`, `change.proposed`), and lets it wait for a second person where FOUR_EYES says so. These records tell the whole
change, so none of the console's own (`console.changed`) stands beside them, and Django's history is not kept.
"""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

import orjson
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.forms import Media
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from audit.admin import pretty
from audit.console_actor import request_actor
from tools.admin import handler_help
from tools.admin.access import AccessPage
from tools.admin.bulk_switching import ask_or_switch
from tools.admin.forms import ReasonForm, RollBackForm, ToolForm
from tools.admin.openapi_import import openapi_urls
from tools.admin.statistics import CallsPage
from tools.admin.tool_filters import EnabledFilter, HandlerTypeFilter, RoleFilter, SideEffectsFilter, TagFilter
from tools.admin.tool_pages import (
    badge,
    credential_badges,
    page_address,
    pages_of,
    remote_state,
    tell_change,
    tell_problem,
    to_page,
    waiting_text,
)
from tools.admin.trial_run import TrialPage
from tools.admin.versions import ComparePage, VersionsPage, carry_out_go_back
from tools.changes import hold_registry, submit
from tools.models import CallerRole, ChangeRequest, HandlerType, Tool
from tools.tool_changes import TOOL_KIND, pending_change, switch
from tools.versions import Definition

MOST_ROLES = 200
_KINDS: dict[str, str] = {
    HandlerType.PYTHON_FUNCTION: "function",
    HandlerType.HTTP_ENDPOINT: "HTTP",
    HandlerType.MCP_TOOL: "MCP",
}


@admin.register(Tool)
class ToolAdmin(ModelAdmin):
    """The list of tools and the page of one. A tool is never deleted, only switched off: runs name it."""

    form = ToolForm
    list_display = (
        "name",
        "title",
        "state",
        "kind",
        "version",
        "required_role",
        "shown_tags",
        "remote",
        "owner",
        "changed",
    )
    list_filter = (EnabledFilter, HandlerTypeFilter, RoleFilter, TagFilter, SideEffectsFilter)
    list_select_related = ("current_version", "remote_tool__server__health")
    search_fields = ("name", "current_version__title", "owner")
    search_help_text = "A name, title or owner, or a part of one"
    ordering = ("name",)
    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER
    list_fullwidth = True
    warn_unsaved_form = True
    actions = ("switch_chosen_on", "switch_chosen_off")
    actions_list = ("import_from_openapi",)
    actions_detail = ("switch_on", "switch_off", "go_back")
    change_form_outer_before_template = "admin/tools/tool/head.html"
    conditional_fields = {f"{kind}_help": f"handler_type == '{kind}'" for kind in HandlerType.values}
    fieldsets = (
        (None, {"fields": (("name", "state"), "title", "description", ("owner", "tags"))}),
        ("This change", {"fields": ("change_note", "base_version")}),
        ("Arguments and result", {"fields": ("input_schema", "output_schema"), "classes": ("tab",)}),
        (
            "How it is carried out",
            {
                "fields": (
                    "handler_type", *(f"{kind}_help" for kind in HandlerType.values), "handler", "required_credentials",
                    "credentials",
                ),
                "classes": ("tab",),
            },
        ),
        ("Access", {"fields": ("required_role", "side_effects"), "classes": ("tab",)}),
        (
            "Approval",
            {
                "fields": ("approval_required", ("approval_by", "approver_role"), "approval_expires_seconds"),
                "classes": ("tab",),
            },
        ),
        (
            "Limits",
            {
                "fields": (
                    ("timeout_seconds", "max_retries"),
                    ("output_limit_bytes", "max_concurrent"),
                    ("rate_limit", "rate_limit_scope"),
                    ("cache_seconds", "cache_scope"),
                ),
                "classes": ("tab",),
            },
        ),
    )  # fmt: skip
    always_readonly = ("state", "credentials", *(f"{kind}_help" for kind in HandlerType.values))

    @property
    def media(self) -> Media:
        """With the editor for JSON."""
        return cast("Media", super().media) + Media(js=["tools/json_editor.js"])

    # --- the pages about one tool

    def get_custom_urls(self) -> tuple[tuple[str, str, Any], ...]:
        """Addresses below this list. Further pages of the list itself (imports) are added in `get_urls`."""
        return (
            ("<uuid:object_id>/test/", "tools_tool_test", TrialPage.as_view(model_admin=self)),
            ("<uuid:object_id>/versions/", "tools_tool_versions", VersionsPage.as_view(model_admin=self)),
            ("<uuid:object_id>/versions/compare/", "tools_tool_compare", ComparePage.as_view(model_admin=self)),
            ("<uuid:object_id>/access/", "tools_tool_access", AccessPage.as_view(model_admin=self)),
            ("<uuid:object_id>/calls/", "tools_tool_calls", CallsPage.as_view(model_admin=self)),
        )

    def get_urls(self) -> list[Any]:
        """Pages of the list that belong to no one tool come first."""
        return [*openapi_urls(self.admin_site), *super().get_urls()]

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """What a tool said before stands in its versions."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        tool = self.get_object(request, object_id)
        return (
            to_page(tool, "versions") if tool else self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        )

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The page of a tool's definition; a name in the address, as the audit trail writes it, does as well as an id."""
        tool = _find(unquote(object_id))
        proposal = pending_change(tool.name) if tool else None
        context = {
            "pages": pages_of(request, tool, "change") if tool else [],
            "waiting": waiting_text(proposal) if proposal else "",
            "show_history": False,  # its versions are
            **_role_names(),
            **(extra_context or {}),
        }
        key = str(tool.pk) if tool else object_id
        response: HttpResponse = super().change_view(request, key, form_url, context)
        return response

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The page of a new tool."""
        response: HttpResponse = super().add_view(request, form_url, {**_role_names(), **(extra_context or {})})
        return response

    # --- reading

    def get_queryset(self, request: HttpRequest) -> QuerySet[Tool]:
        """With whether a change waits for a second person, read once for the whole list."""
        tools: QuerySet[Tool] = super().get_queryset(request)
        waiting = ChangeRequest.objects.filter(
            kind=TOOL_KIND, name=OuterRef("name"), status=ChangeRequest.Status.PENDING
        )
        return tools.annotate(change_waits=Exists(waiting))

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Tool | None:
        """A change holds the registry, so that no other undoes it."""
        if request.method == "POST" and _is_uuid(object_id):
            hold_registry()
        tool: Tool | None = super().get_object(request, object_id, from_field)
        if tool is not None and not self.has_change_permission(request):
            _describe(tool)
        return tool

    def get_readonly_fields(self, request: HttpRequest, obj: Tool | None = None) -> tuple[str, ...]:
        return ("name", *self.always_readonly) if obj else self.always_readonly

    def get_fieldsets(self, request: HttpRequest, obj: Tool | None = None) -> Any:
        """Readers are shown no help for writing."""
        if obj is None or self.has_change_permission(request):
            return self.fieldsets
        return [(title, _for_readers(options)) for title, options in self.fieldsets if title != "This change"]

    def has_delete_permission(self, request: HttpRequest, obj: Tool | None = None) -> bool:
        return False

    # --- saving

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Write what the form says, or propose it; `obj.proposal` tells which."""
        document, reason = form.document(), form.cleaned_data["change_note"]
        obj.proposal = submit(document, by=request_actor(request), reason=reason)
        if not change and obj.proposal is None:
            obj.pk = Tool.objects.values_list("pk", flat=True).get(name=obj.name)

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """The form. What another person's change makes impossible between the check and the writing is told, too."""
        try:
            response: HttpResponse = super().changeform_view(request, object_id, form_url, extra_context)
        except ValidationError as error:
            tell_problem(request, error, "Not saved: ")
            return HttpResponseRedirect(request.path)
        return response

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Recorded by `tools.changes`."""
        return None

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Recorded by `tools.changes`."""
        return None

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        if obj.proposal is not None:
            messages.warning(request, waiting_text(obj.proposal))
            return HttpResponseRedirect(reverse("admin:tools_tool_changelist"))
        response: HttpResponse = super().response_add(request, obj, post_url_continue)
        return response

    def response_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        if obj.proposal is not None:
            messages.warning(request, waiting_text(obj.proposal))
            return to_page(obj)
        response: HttpResponse = super().response_change(request, obj)
        return response

    # --- actions on the list

    @action(description="Import from OpenAPI", permissions=["add"], url_path="import-from-openapi", icon="upload_file")
    def import_from_openapi(self, request: HttpRequest) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:tools_tool_import_openapi"))

    # --- actions on the page of a tool

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
        return self._switch(request, object_id, enabled=True, reason=form.cleaned_data["reason"])

    @action(
        description="Switch off",
        permissions=["switch_off"],
        url_path="switch-off",
        icon="toggle_off",
        variant=ActionVariant.DANGER,
        dialog={
            "title": "Switch this tool off?",
            "description": "Nobody is offered it any more, and calls are refused, within a second. No second person is asked.",
            "form_class": ReasonForm,
            "form_submit_text": "Switch off",
        },
    )
    def switch_off(self, request: HttpRequest, form: ReasonForm, object_id: str) -> HttpResponse:
        return self._switch(request, object_id, enabled=False, reason=form.cleaned_data["reason"])

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
        carry_out_go_back(request, tool, form.cleaned_data["number"], form.cleaned_data["note"])
        return _reload(tool)

    def _switch(self, request: HttpRequest, object_id: str, *, enabled: bool, reason: str) -> HttpResponse:
        tool = get_object_or_404(Tool, pk=object_id)
        try:
            proposal = switch(tool.name, enabled=enabled, by=request_actor(request), reason=reason)
        except ValidationError as error:
            tell_problem(request, error)
        else:
            tell_change(request, proposal, f"{tool.name} is {'on' if enabled else 'off'}.")
        return _reload(tool)

    # --- actions on the list

    @admin.action(description="Switch on", permissions=["change"])
    def switch_chosen_on(self, request: HttpRequest, queryset: QuerySet[Tool]) -> HttpResponse | None:
        return ask_or_switch(self, request, queryset, enabled=True)

    @admin.action(description="Switch off", permissions=["change"])
    def switch_chosen_off(self, request: HttpRequest, queryset: QuerySet[Tool]) -> HttpResponse | None:
        return ask_or_switch(self, request, queryset, enabled=False)

    # --- showing

    @display(description="Title")
    def title(self, tool: Tool) -> str:
        return tool.current_version.title if tool.current_version else ""

    @display(description="State")
    def state(self, tool: Tool) -> SafeString:
        state = badge("on", "success") if tool.enabled else badge("off", "danger")
        waits = badge("change waits", "warning", "A second person must approve it") if _change_waits(tool) else ""
        return SafeString(f"{state} {waits}".strip())

    @display(description="Type")
    def kind(self, tool: Tool) -> str:
        return _KINDS.get(tool.current_version.handler_type, "") if tool.current_version else ""

    @display(description="Version")
    def version(self, tool: Tool) -> str:
        return str(tool.current_version.number) if tool.current_version else "none"

    @display(description="Role")
    def required_role(self, tool: Tool) -> str:
        return (tool.current_version.required_role if tool.current_version else "") or "any"

    @display(description="Side effects")
    def side_effects(self, tool: Tool) -> str:
        return tool.current_version.side_effects if tool.current_version else ""

    @display(description="Tags")
    def shown_tags(self, tool: Tool) -> str:
        return ", ".join(tool.tags)

    @display(description="Changed (UTC)", ordering="updated_at")
    def changed(self, tool: Tool) -> str:
        return f"{tool.updated_at:%Y-%m-%d %H:%M}"

    @display(description="Server")
    def remote(self, tool: Tool) -> SafeString:
        found = getattr(tool, "remote_tool", None)
        return remote_state(found, getattr(found.server, "health", None) if found else None)

    @display(description="Their state")
    def credentials(self, tool: Tool) -> SafeString | str:
        names = tool.current_version.required_credentials if tool.current_version else []
        return credential_badges(names) or "It requires none."

    @display(description="About this type")
    def python_function_help(self, tool: Tool) -> SafeString:
        return handler_help.python_function_help()

    @display(description="About this type")
    def http_endpoint_help(self, tool: Tool) -> SafeString:
        return handler_help.http_endpoint_help()

    @display(description="About this type")
    def mcp_tool_help(self, tool: Tool) -> SafeString:
        return handler_help.mcp_tool_help()


def _find(object_id: str) -> Tool | None:
    """By id, or by name as the audit trail writes it."""
    known = Q(pk=object_id) if _is_uuid(object_id) else Q(name=object_id)
    return Tool.objects.filter(known).first()


def _describe(tool: Tool) -> None:
    """Give the tool what its version says, as attributes that a reader's page shows."""
    if tool.current_version is None:
        return
    for name, value in Definition.of(tool.current_version).as_dict().items():
        shown = (
            pretty(orjson.dumps(value))
            if isinstance(value, dict)
            else ", ".join(value)
            if isinstance(value, list)
            else value
        )
        setattr(tool, name, shown)


def _for_readers(options: dict[str, Any]) -> dict[str, Any]:
    fields = tuple(name for name in options["fields"] if not str(name).endswith("_help"))
    return {**options, "fields": fields}


def _change_waits(tool: Tool) -> bool:
    return bool(getattr(tool, "change_waits", False))


def _role_names() -> dict[str, list[str]]:
    """The described roles, offered where one is written."""
    return {"role_names": list(CallerRole.objects.order_by("name").values_list("name", flat=True)[:MOST_ROLES])}


def _state_of(object_id: str | None) -> bool | None:
    """Whether the tool is on; nothing when there is no such tool or no version of it."""
    if object_id is None or not _is_uuid(str(object_id)):
        return None
    return Tool.objects.filter(pk=object_id, current_version__isnull=False).values_list("enabled", flat=True).first()


def _reload(tool: Tool) -> HttpResponse:
    """To the tool's page; a dialog posts from a script, which follows this header."""
    return HttpResponse(headers={"HX-Redirect": page_address(tool, "change")})


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
