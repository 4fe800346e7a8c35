"""The page of a server's tools: what is new can be imported, what changed is shown beside what is served, and decided.

Each button carries the digest of what was looked at, so nothing else is taken than what stood on the page.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.paginator import Paginator
from django.db.models import Case, IntegerField, QuerySet, Value, When
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.views.generic import TemplateView
from unfold.views import UnfoldModelAdminViewMixin

from audit.actor import Actor
from audit.console_actor import request_actor
from tools.line_differences import Line, line_differences
from tools.mcp_client.discovery import state_of
from tools.mcp_client.imports import Import, Taken, accept_change, changes_of, import_tool, imports_of, keep_pinned
from tools.models import RemoteServer, RemoteTool, Tool

State = RemoteTool.State

TOOLS_A_PAGE: Final = 50
_ORDER = (State.CHANGED, State.OFFERED, State.IMPORTED, State.GONE)
_COLOURS = {State.CHANGED: "warning", State.OFFERED: "info", State.IMPORTED: "success", State.GONE: "danger"}
_HINTS = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")


@dataclass(frozen=True, slots=True)
class Row:
    """A tool on the page."""

    remote: RemoteTool
    state: str
    label: str
    colour: str
    tool: Tool | None
    hints: str
    changes: dict[str, list[Line]]
    schemas: str

    @property
    def ticket(self) -> str:
        """What a button about it carries: which tool, and what was looked at."""
        return f"{self.remote.pk}:{self.remote.digest}"

    @property
    def can_be_imported(self) -> bool:
        """Whether it is new and usable."""
        return self.state == State.OFFERED and not self.remote.problem


class RemoteToolsPage(UnfoldModelAdminViewMixin, TemplateView):
    """Shows the tools of one server, and carries out what is decided about them."""

    template_name = "admin/tools/remote_servers/tools.html"
    permission_required = "tools.view_remoteserver"
    title = "Tools of a remote server"

    def get_context_data(self, **options: Any) -> dict[str, Any]:
        server = get_object_or_404(RemoteServer, pk=self.kwargs["server_id"])
        chosen = self.request.GET.get("state", "")
        found = _listed(server, chosen)
        page = Paginator(found, TOOLS_A_PAGE).get_page(self.request.GET.get("p"))
        imports = imports_of(server.name)
        user = self.request.user
        context: dict[str, Any] = super().get_context_data()
        rows = [_row(remote, imports.get(remote.remote_name)) for remote in page]
        return {
            **context,
            "title": f"Tools of {server.name}",
            "server": server,
            "health": getattr(server, "health", None),
            "page": page,
            "rows": rows,
            "chosen": chosen,
            "states": [(state.value, state.label) for state in _ORDER],
            "may_import": user.has_perm("tools.add_tool") and any(row.can_be_imported for row in rows),
            "may_accept": _may_accept(self.request),
            "may_keep": user.has_perm("tools.change_remoteserver"),
        }

    def post(self, request: HttpRequest, server_id: UUID, **options: Any) -> HttpResponse:
        """Import what was ticked, or accept or keep out one change; then the page again."""
        server = get_object_or_404(RemoteServer, pk=server_id)
        by = request_actor(request)
        if "import" in request.POST:
            _require(request.user.has_perm("tools.add_tool"))
            self._each(server, request.POST.getlist("chosen"), lambda remote, seen: _imported(remote, seen, by))
        elif "accept" in request.POST:
            _require(_may_accept(request))
            self._each(server, [request.POST["accept"]], lambda remote, seen: _accepted(remote, seen, by))
        elif "keep" in request.POST:
            _require(request.user.has_perm("tools.change_remoteserver"))
            self._each(server, [request.POST["keep"]], lambda remote, seen: _kept(remote, seen, by))
        return HttpResponseRedirect(request.get_full_path())

    def _each(self, server: RemoteServer, tickets: list[str], decide: Callable[[RemoteTool, str], str]) -> None:
        """Carry out a decision about each, and say what came of it."""
        if not tickets:
            messages.warning(self.request, "Nothing was chosen.")
        for ticket in tickets:
            remote, seen = _read(server, ticket)
            if remote is None:
                messages.error(self.request, "A tool of these is not there any more.")
                continue
            try:
                messages.success(self.request, decide(remote, seen))
            except ValidationError as error:
                messages.error(self.request, " ".join(error.messages))


def _imported(remote: RemoteTool, seen: str, by: Actor) -> str:
    taken = import_tool(remote, seen, by=by)
    return f"{taken.name} is imported and switched off." if not taken.is_proposed else _proposed(taken)


def _accepted(remote: RemoteTool, seen: str, by: Actor) -> str:
    taken = accept_change(remote, seen, by=by)
    return f"{taken.name} is served as its server describes it now." if not taken.is_proposed else _proposed(taken)


def _kept(remote: RemoteTool, seen: str, by: Actor) -> str:
    return f"{keep_pinned(remote, seen, by=by)} stays as it is."


def _proposed(taken: Taken) -> str:
    return f"{taken.name}: proposed. A second person must approve it before it counts."


def _may_accept(request: HttpRequest) -> bool:
    """To accept is to change a tool."""
    return bool(request.user.has_perms(["tools.change_remoteserver", "tools.change_tool"]))


def _require(allowed: bool) -> None:
    if not allowed:
        raise PermissionDenied


def _read(server: RemoteServer, ticket: str) -> tuple[RemoteTool | None, str]:
    identifier, _, digest = ticket.partition(":")
    try:
        return RemoteTool.objects.filter(server=server, pk=UUID(identifier)).first(), digest
    except ValueError:
        return None, digest


def _listed(server: RemoteServer, state: str) -> QuerySet[RemoteTool]:
    """What needs somebody's eye first."""
    ranks = [When(state=state, then=Value(rank)) for rank, state in enumerate(_ORDER)]
    found = RemoteTool.objects.filter(server=server).select_related("server")
    if state in State.values:
        found = found.filter(state=state)
    return found.order_by(Case(*ranks, output_field=IntegerField()), "remote_name")


def _row(remote: RemoteTool, imported: Import | None) -> Row:
    # as it is now: a second person may have approved it since the server was asked
    state = State(remote.state if remote.state == State.GONE else state_of(remote, remote.digest, imported))
    is_kept = imported is not None and state == State.IMPORTED and imported.pinned != remote.digest
    shown = imported is not None and (state == State.CHANGED or is_kept)
    return Row(
        remote=remote,
        state=state,
        label="kept as pinned" if is_kept else str(state.label),
        colour=_COLOURS[state],
        tool=imported.tool if imported else None,
        hints=", ".join(name for name in _HINTS if remote.annotations.get(name) is True),
        changes=_changes(remote, imported.tool) if shown and imported else {},
        schemas=_written({"arguments": remote.input_schema, "result": remote.output_schema}),
    )


def _changes(remote: RemoteTool, tool: Tool) -> dict[str, list[Line]]:
    """What is served against what the server says, by field, line by line."""
    return {
        field: line_differences(_written(sides["before"]), _written(sides["after"]))
        for field, sides in changes_of(remote, tool).items()
    }


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)
