"""Remote MCP servers in the console: where they are and how they are, and the way to what they offer.

What is saved here goes through `tools.changes`, so it may have to wait for a second person.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from django.contrib import admin, messages
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.forms import BaseDialogForm

from audit.console_actor import request_actor
from tools.admin.documents import DocumentAdmin, DocumentForm, WhyForm, to_page
from tools.admin.remote_tools import RemoteToolsPage
from tools.documents import Spec
from tools.mcp_client.discovery import discover
from tools.models import RemoteServer, RemoteServerHealth, RemoteTool

KIND: Final = "RemoteServer"

_WRITTEN_HERE = (
    "title", "url", "protocol", "credential", "credential_placement", "credential_header", "timeout_seconds", "owner",
)  # fmt: skip


class RemoteServerForm(DocumentForm):
    """A server. Whether it is on is switched by its actions, not here."""

    kind = KIND

    class Meta:
        model = RemoteServer
        fields = ("name", *_WRITTEN_HERE)

    def document_name(self) -> str:
        name: str = self.cleaned_data["name"] if self.instance._state.adding else self.instance.name
        return name

    def spec(self) -> Spec:
        said = {field: self.cleaned_data[field] for field in _WRITTEN_HERE}
        return {**said, "enabled": self.instance.enabled}


@admin.register(RemoteServer)
class RemoteServerAdmin(DocumentAdmin, ModelAdmin):
    """The list of servers and the page of one."""

    form = RemoteServerForm
    list_display = ("name", "title", "state", "offered", "changed", "asked", "owner")
    list_filter = ("enabled",)
    search_fields = ("name", "title", "url", "owner")
    ordering = ("name",)
    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER
    warn_unsaved_form = True
    actions = None
    actions_detail = ("show_tools", "ask", "switch_on", "switch_off", "remove")
    readonly_fields = ("state", "offered", "changed", "asked", "last_ok", "last_failure")
    fieldsets = (
        (None, {"fields": (("name", "state"), "title", "url", ("protocol", "timeout_seconds"), "owner")}),
        ("Credential", {"fields": ("credential", ("credential_placement", "credential_header"))}),
        ("How it is", {"fields": (("offered", "changed", "asked"), ("last_ok", "last_failure"))}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[RemoteServer]:
        """With how it is and how many tools it has, read once for the whole list."""
        found: QuerySet[RemoteServer] = super().get_queryset(request).select_related("health")
        return found.annotate(
            tools_offered=Count("remote_tools"),
            tools_imported=Count("remote_tools", filter=Q(remote_tools__tool__isnull=False)),
            tools_changed=Count("remote_tools", filter=Q(remote_tools__state=RemoteTool.State.CHANGED)),
        )

    def get_fieldsets(self, request: HttpRequest, obj: RemoteServer | None = None) -> Any:
        """A server that is not there yet is no way at all."""
        about, credential, state, *rest = super().get_fieldsets(request, obj)
        if obj is not None:
            return [about, credential, state, *rest]
        return [(None, {"fields": ("name", *_WRITTEN_HERE[:3], ("timeout_seconds", "owner"))}), credential, *rest]

    def get_custom_urls(self) -> tuple[tuple[str, str, Any], ...]:
        return (("<uuid:server_id>/tools/", "tools_remoteserver_tools", RemoteToolsPage.as_view(model_admin=self)),)

    # --- actions

    def has_show_tools_permission(self, request: HttpRequest, object_id: str = "") -> bool:
        """Who may see the server may see what it offers."""
        return request.user.has_perm("tools.view_remoteserver")

    def has_ask_permission(self, request: HttpRequest, object_id: str = "") -> bool:
        """Who may change servers may ask one that is on."""
        return bool(self.has_change_permission(request)) and _is_on(object_id) is True

    def has_switch_on_permission(self, request: HttpRequest, object_id: str = "") -> bool:
        """Who may change servers."""
        return bool(self.has_change_permission(request)) and _is_on(object_id) is False

    def has_switch_off_permission(self, request: HttpRequest, object_id: str = "") -> bool:
        """Who may change servers."""
        return bool(self.has_change_permission(request)) and _is_on(object_id) is True

    @action(description="Its tools", permissions=["show_tools"], url_path="show-tools", icon="build")
    def show_tools(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return HttpResponseRedirect(tools_page(object_id))

    @action(
        description="Ask for its tools now",
        permissions=["ask"],
        url_path="ask",
        icon="travel_explore",
        dialog={
            "title": "Ask this server for its tools?",
            "description": "Nothing that it answers can be called before it is imported. Imported tools stay as they are pinned.",
            "form_class": BaseDialogForm,
            "form_submit_text": "Ask",
        },
    )
    def ask(self, request: HttpRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        found = discover(get_object_or_404(RemoteServer, pk=object_id), by=request_actor(request))
        (messages.error if found.failure else messages.success)(request, found.summary)
        return to_page(tools_page(object_id))

    @action(
        description="Switch on",
        permissions=["switch_on"],
        url_path="switch-on",
        icon="toggle_on",
        variant=ActionVariant.SUCCESS,
        dialog={
            "title": "Switch this server on?",
            "description": "Its tools that are on can be called again, and it is asked for its tools.",
            "form_class": WhyForm,
            "form_submit_text": "Switch on",
        },
    )
    def switch_on(self, request: HttpRequest, form: WhyForm, object_id: str) -> HttpResponse:
        return self.switch_document(request, object_id, enabled=True, reason=form.cleaned_data["reason"])

    @action(
        description="Switch off",
        permissions=["switch_off"],
        url_path="switch-off",
        icon="toggle_off",
        variant=ActionVariant.DANGER,
        dialog={
            "title": "Switch this server off?",
            "description": "Calls of its tools are refused within a second, and it is asked nothing.",
            "form_class": WhyForm,
            "form_submit_text": "Switch off",
        },
    )
    def switch_off(self, request: HttpRequest, form: WhyForm, object_id: str) -> HttpResponse:
        return self.switch_document(request, object_id, enabled=False, reason=form.cleaned_data["reason"])

    @action(
        description="Remove",
        permissions=["remove"],
        url_path="remove",
        icon="delete",
        variant=ActionVariant.DANGER,
        dialog={
            "title": "Remove this server?",
            "description": "Its tools in the registry must be switched off first; they stay, and cannot be called.",
            "form_class": WhyForm,
            "form_submit_text": "Remove",
        },
    )
    def remove(self, request: HttpRequest, form: WhyForm, object_id: str) -> HttpResponse:
        return self.remove_document(request, object_id, form.cleaned_data["reason"])

    # --- showing

    @display(description="State")
    def state(self, server: RemoteServer) -> SafeString:
        text, kind = _state(server)
        return SafeString(render_to_string("unfold/helpers/label.html", {"text": text, "type": kind}))

    @display(description="Tools")
    def offered(self, server: RemoteServer) -> SafeString:
        counted: Any = server
        text = f"{counted.tools_offered}, {counted.tools_imported} imported"
        return format_html('<a class="console-link" href="{}">{}</a>', tools_page(server.pk), text)

    @display(description="Changed")
    def changed(self, server: RemoteServer) -> SafeString | str:
        count = getattr(server, "tools_changed", 0)
        if not count:
            return "-"
        label = render_to_string("unfold/helpers/label.html", {"text": f"{count} to look at", "type": "warning"})
        address = f"{tools_page(server.pk)}?state={RemoteTool.State.CHANGED}"
        return format_html('<a href="{}">{}</a>', address, SafeString(label))

    @display(description="Asked (UTC)")
    def asked(self, server: RemoteServer) -> str:
        health = _health(server)
        if health is None or health.discovered_at is None:
            return "never"
        return f"{health.discovered_at:%Y-%m-%d %H:%M}, {health.protocol_version}"

    @display(description="Answered last (UTC)")
    def last_ok(self, server: RemoteServer) -> str:
        health = _health(server)
        return f"{health.last_ok_at:%Y-%m-%d %H:%M:%S}" if health and health.last_ok_at else "never"

    @display(description="Failed last (UTC)")
    def last_failure(self, server: RemoteServer) -> str:
        health = _health(server)
        if health is None or health.last_failure_at is None:
            return "never"
        return f"{health.last_failure_at:%Y-%m-%d %H:%M:%S}: {health.last_failure}"


@admin.register(RemoteTool)
class RemoteToolAdmin(ModelAdmin):
    """What all servers offer, to be read; it is imported on its server's page."""

    list_display = ("remote_name", "server", "state", "shown_tool", "problem", "seen")
    list_filter = ("state", "server")
    list_select_related = ("server", "tool")
    search_fields = ("remote_name", "title", "tool__name")
    ordering = ("server__name", "remote_name")
    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER
    actions = None
    fields = readonly_fields = (
        "remote_name", "server", "state", "shown_tool", "problem", "title", "description", "input_schema", "output_schema",
        "annotations", "digest", "pinned_digest", "first_seen_at", "last_seen_at", "changed_at",
    )  # fmt: skip

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @display(description="Seen (UTC)", ordering="last_seen_at")
    def seen(self, remote: RemoteTool) -> str:
        return f"{remote.last_seen_at:%Y-%m-%d %H:%M}"

    @display(description="Tool here")
    def shown_tool(self, remote: RemoteTool) -> SafeString | str:
        if remote.tool is None:
            return "-"
        address = reverse("admin:tools_tool_change", args=[remote.tool.pk])
        return format_html('<a class="console-link" href="{}">{}</a>', address, remote.tool.name)


def tools_page(server_id: object) -> str:
    """The address of the page with a server's tools."""
    return reverse("admin:tools_remoteserver_tools", args=[server_id])


def _state(server: RemoteServer) -> tuple[str, str]:
    """In a word, and its colour."""
    health = _health(server)
    if not server.enabled:
        return "off", "danger"
    if health is None or (health.last_ok_at is None and not health.failures_in_a_row):
        return "not asked yet", "info"
    if health.failures_in_a_row:
        return f"unreachable ({health.failures_in_a_row} in a row)", "danger"
    return "well", "success"


def _health(server: RemoteServer) -> RemoteServerHealth | None:
    return getattr(server, "health", None)


def _is_on(object_id: str) -> bool | None:
    """Whether the server is on; nothing when there is none."""
    try:
        return RemoteServer.objects.filter(pk=UUID(str(object_id))).values_list("enabled", flat=True).first()
    except ValueError:
        return None
