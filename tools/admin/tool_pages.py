"""What the pages about one tool share: which pages there are, who may open them, and small pieces of HTML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.html import format_html, format_html_join
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.views.generic import TemplateView
from unfold.views import UnfoldModelAdminViewMixin

from audit.admin import linked
from tools.credentials import CredentialSource
from tools.models import ChangeRequest, RemoteServerHealth, RemoteTool, Tool
from tools.stored_credentials import CredentialState, credential_states

CHANGE = "tools.change_tool"
VIEW = "tools.view_tool"


@dataclass(frozen=True, slots=True)
class PageLink:
    """One of the pages of a tool."""

    title: str
    link: str
    icon: str
    active: bool


_PAGES = (
    # name of the address, title, icon, permission
    ("change", "Definition", "edit_note", VIEW),
    ("test", "Test", "play_arrow", CHANGE),
    ("versions", "Versions", "history", VIEW),
    ("access", "Who may call it", "key", VIEW),
    ("calls", "Calls", "monitoring", VIEW),
)


def pages_of(request: HttpRequest, tool: Tool, active: str) -> list[PageLink]:
    """The pages of a tool that this person may open; `active` is the one that is open."""
    return [
        PageLink(title, page_address(tool, name), icon, name == active)
        for name, title, icon, permission in _PAGES
        if request.user.has_perm(permission)
    ]


def page_address(tool: Tool, name: str) -> str:
    """Where a page of a tool is."""
    return reverse(f"admin:tools_tool_{name}", args=[tool.pk])


class ToolPage(UnfoldModelAdminViewMixin, TemplateView):
    """A page about one tool. Subclasses name the page, its template, and add to the context."""

    name = ""
    permission_required: str | tuple[str, ...] = VIEW

    @cached_property
    def tool(self) -> Tool:
        """The tool of the address."""
        found: Tool = get_object_or_404(Tool.objects.select_related("current_version"), pk=self.kwargs["object_id"])
        return found

    def get_context_data(self, **options: Any) -> dict[str, Any]:
        added = {name: value for name, value in options.items() if name not in self.kwargs}  # not the address's own
        context: dict[str, Any] = super().get_context_data(**added)
        may_change = self.request.user.has_perm(CHANGE)
        return {
            **context,
            "object": self.tool,
            "tool": self.tool,
            "version": self.tool.current_version,
            "pages": pages_of(self.request, self.tool, self.name),
            "may_change": may_change,
        }


# --- answers


def tell_change(request: HttpRequest, proposal: ChangeRequest | None, done: str) -> None:
    """Say that something is done, or that it waits for a second person."""
    if proposal is None:
        messages.success(request, done)
    else:
        messages.warning(request, waiting_text(proposal))


def tell_problem(request: HttpRequest, error: ValidationError, what: str = "") -> None:
    """Say why something could not be done."""
    messages.error(request, f"{what}{' '.join(error.messages)}")


def waiting_text(proposal: ChangeRequest) -> SafeString:
    """That a change waits, with the way to where it is decided."""
    return format_html(
        "Nothing has changed yet: a second person must approve it. {}", proposal_link(proposal, "See the proposal")
    )


def to_page(tool: Tool, name: str = "change") -> HttpResponse:
    """To a page of the tool, after something was done."""
    return HttpResponseRedirect(page_address(tool, name))


# --- pieces of HTML


def badge(text: str, colour: str, title: str = "") -> SafeString:
    """A coloured label: success, danger, warning, info or default."""
    context = {"text": text, "type": colour, "label_title": title}
    return SafeString(render_to_string("unfold/helpers/label.html", context))


def proposal_link(proposal: ChangeRequest, text: str) -> str:
    """The text, as a link to the page where the proposal is decided."""
    return linked("change", str(proposal.pk), text)


def who(actor_id: str) -> str:
    """An actor, as a link to the console's user or to what the audit trail has of it."""
    prefix, colon, key = actor_id.partition(":")
    return linked("auth.user" if colon and prefix == "console" else "user", key or actor_id, actor_id, "actor")


def audit_link(search: str, text: str) -> SafeString:
    """A link to a search of the audit trail."""
    address = f"{reverse('admin:audit_auditevent_changelist')}?{urlencode({'q': search})}"
    return format_html('<a class="console-link" href="{}">{}</a>', address, text)


def event_link(event_id: UUID, text: str) -> SafeString:
    """A link to an event of the audit trail."""
    return format_html(
        '<a class="console-link" href="{}">{}</a>', reverse("admin:audit_auditevent_change", args=[event_id]), text
    )


def milliseconds(value: float | None) -> str:
    """A duration, as short as it can be read; empty when there is none."""
    if value is None:
        return ""
    return f"{value:,.0f} ms" if value < 10_000 else f"{value / 1000:,.1f} s"


# --- states


_SOURCE_BADGES: Mapping[CredentialSource, tuple[str, str]] = {
    CredentialSource.VAULT: ("in the vault", "success"),
    CredentialSource.ENVIRONMENT: ("in the environment", "success"),
    CredentialSource.NOWHERE: ("missing", "danger"),
}


def credential_badges(names: list[str]) -> SafeString:
    """The credentials with where their values come from, each a link where it is stored; the values are not shown."""
    rows = ((_credential(state), badge(*_SOURCE_BADGES[state.source], state.problem)) for state in _states(names))
    return format_html_join("", '<p class="console-row"><code>{}</code>{}</p>', rows)


def missing_credentials(names: list[str]) -> list[str]:
    """Those without a value that can be used: calls fail for everybody."""
    return [state.name for state in _states(names) if state.source is CredentialSource.NOWHERE]


def _states(names: list[str]) -> list[CredentialState]:
    return credential_states(names) if names else []


def _credential(state: CredentialState) -> str:
    return linked("tools.storedcredential", str(state.stored.pk), state.name) if state.stored else state.name


def remote_state(remote: RemoteTool | None, health: RemoteServerHealth | None) -> SafeString:
    """How the server of a remote tool is, and whether it has changed what it says of the tool; empty for other tools."""
    if remote is None:
        return SafeString("")
    if remote.state in (RemoteTool.State.CHANGED, RemoteTool.State.GONE):
        return badge(remote.state, "warning", remote.get_state_display())
    if health is not None and health.failures_in_a_row:
        return badge("failing", "danger", f"{health.failures_in_a_row} failures in a row: {health.last_failure}")
    if health is None or health.last_ok_at is None:
        return badge("not asked yet", "default")
    return badge("reachable", "success", f"{health.last_ok_at:%Y-%m-%d %H:%M:%S} UTC")
