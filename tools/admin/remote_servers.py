"""Remote MCP servers in the console: where they are and how they are, and the way to what they offer.

What is saved here goes through `tools.changes`, so it may have to wait for a second person.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
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
from unfold.widgets import UnfoldAdminTextInputWidget

from audit.console_actor import request_actor
from tools.admin.forms import ReasonForm
from tools.admin.remote_tools import RemoteToolsPage
from tools.changes import checked, needs_second_person, submit
from tools.documents import Document, Spec, kind_named
from tools.mcp_client.discovery import discover
from tools.models import ChangeRequest, RemoteServer, RemoteServerHealth, RemoteTool

KIND: Final = "RemoteServer"
PROPOSED: Final = "Proposed: a second person must approve it before it counts."

_WRITTEN_HERE = (
    "title", "url", "protocol", "credential", "credential_placement", "credential_header", "timeout_seconds", "owner",
)  # fmt: skip


class RemoteServerForm(forms.ModelForm):
    """A server. Whether it is on is switched by its actions, not here."""

    reason = forms.CharField(
        required=False,
        max_length=500,
        widget=UnfoldAdminTextInputWidget,
        help_text="Why: shown to whoever approves it, and in the audit trail.",
    )

    class Meta:
        model = RemoteServer
        fields = ("name", *_WRITTEN_HERE)

    def clean(self) -> dict[str, Any]:
        """Check it as a document, each problem at its field."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if not self.errors and "url" in self.fields:  # else a reader's page
            self._check(self.document())
        return cleaned

    def document(self) -> Document:
        """What the form says."""
        name = self.cleaned_data.get("name", self.instance.name)
        said = {field: self.cleaned_data[field] for field in _WRITTEN_HERE}
        return Document(KIND, name, {**said, "enabled": self.instance.enabled})

    def _check(self, document: Document) -> None:
        kind = kind_named(KIND)
        try:
            checked(kind, document)
        except ValidationError as error:
            self.add_error(None, error)
        waiting = ChangeRequest.objects.filter(kind=KIND, name=document.name, status=ChangeRequest.Status.PENDING)
        if needs_second_person(kind) and waiting.exists():
            self.add_error(None, "Another change of this server waits for a second person.")


@admin.register(RemoteServer)
class RemoteServerAdmin(ModelAdmin):
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
        ("This change", {"fields": ("reason",)}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[RemoteServer]:
        """With how it is and how many tools it has, read once for the whole list."""
        found: QuerySet[RemoteServer] = super().get_queryset(request).select_related("health")
        return found.annotate(
            tools_offered=Count("remote_tools"),
            tools_imported=Count("remote_tools", filter=Q(remote_tools__tool__isnull=False)),
            tools_changed=Count("remote_tools", filter=Q(remote_tools__state=RemoteTool.State.CHANGED)),
        )

    def get_readonly_fields(self, request: HttpRequest, obj: RemoteServer | None = None) -> tuple[str, ...]:
        return ("name", *self.readonly_fields) if obj else self.readonly_fields

    def get_fieldsets(self, request: HttpRequest, obj: RemoteServer | None = None) -> Any:
        """A server that is not there yet is no way at all."""
        if obj is not None:
            return self.fieldsets
        return ((None, {"fields": ("name", *_WRITTEN_HERE[:3], ("timeout_seconds", "owner"))}), *self.fieldsets[1::2])

    def get_custom_urls(self) -> tuple[tuple[str, str, Any], ...]:
        return (("<uuid:server_id>/tools/", "tools_remoteserver_tools", RemoteToolsPage.as_view(model_admin=self)),)

    # --- saving

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Removed by the action, which can say why not."""
        return False

    def save_model(self, request: HttpRequest, obj: RemoteServer, form: RemoteServerForm, change: bool) -> None:
        """Write it, or propose it."""
        reason = form.cleaned_data.get("reason", "")
        request.proposal = submit(form.document(), by=request_actor(request), reason=reason)  # type: ignore[attr-defined]
        if _proposed(request) is None:
            obj.pk = RemoteServer.objects.values_list("pk", flat=True).get(name=obj.name)

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """A proposal is no addition yet."""
        return None if _proposed(request) else super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """A proposal is no change yet."""
        return None if _proposed(request) else super().log_change(request, obj, message)

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        return self._response(request) or super().response_add(request, obj, post_url_continue)

    def response_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        return self._response(request) or super().response_change(request, obj)

    def _response(self, request: HttpRequest) -> HttpResponse | None:
        if _proposed(request) is None:
            return None
        messages.info(request, PROPOSED)
        return HttpResponseRedirect(reverse("admin:tools_remoteserver_changelist"))

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

    def has_remove_permission(self, request: HttpRequest, object_id: str = "") -> bool:
        """Who may delete servers."""
        return request.user.has_perm("tools.delete_remoteserver")

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
        return _to(tools_page(object_id))

    @action(
        description="Switch on",
        permissions=["switch_on"],
        url_path="switch-on",
        icon="toggle_on",
        variant=ActionVariant.SUCCESS,
        dialog={
            "title": "Switch this server on?",
            "description": "Its tools that are on can be called again, and it is asked for its tools.",
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
            "title": "Switch this server off?",
            "description": "Calls of its tools are refused within a second, and it is asked nothing.",
            "form_class": ReasonForm,
            "form_submit_text": "Switch off",
        },
    )
    def switch_off(self, request: HttpRequest, form: ReasonForm, object_id: str) -> HttpResponse:
        return self._switch(request, object_id, enabled=False)

    @action(
        description="Remove",
        permissions=["remove"],
        url_path="remove",
        icon="delete",
        variant=ActionVariant.DANGER,
        dialog={
            "title": "Remove this server?",
            "description": "Its tools in the registry must be switched off first; they stay, and cannot be called.",
            "form_class": ReasonForm,
            "form_submit_text": "Remove",
        },
    )
    def remove(self, request: HttpRequest, form: ReasonForm, object_id: str) -> HttpResponse:
        name = get_object_or_404(RemoteServer, pk=object_id).name
        if self._submit(request, Document(KIND, name, None), f"{name} is removed."):
            return _to(reverse("admin:tools_remoteserver_changelist"))
        return _to(reverse("admin:tools_remoteserver_change", args=[object_id]))

    def _switch(self, request: HttpRequest, object_id: str, *, enabled: bool) -> HttpResponse:
        name = get_object_or_404(RemoteServer, pk=object_id).name
        spec: Spec = {**(kind_named(KIND).read(name) or {}), "enabled": enabled}
        self._submit(request, Document(KIND, name, spec), f"{name} is {'on' if enabled else 'off'}.")
        return _to(reverse("admin:tools_remoteserver_change", args=[object_id]))

    def _submit(self, request: HttpRequest, document: Document, done: str) -> bool:
        """Write or propose it and say so; False when it cannot be."""
        try:
            proposal = submit(document, by=request_actor(request))
        except ValidationError as error:
            messages.error(request, " ".join(error.messages))
            return False
        messages.success(request, PROPOSED if proposal else done)
        return True

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


def _proposed(request: HttpRequest) -> ChangeRequest | None:
    found: ChangeRequest | None = getattr(request, "proposal", None)
    return found


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


def _to(address: str) -> HttpResponse:
    """A dialog posts from a script, which follows this header."""
    return HttpResponse(headers={"HX-Redirect": address})
