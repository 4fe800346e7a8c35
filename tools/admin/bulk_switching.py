"""Switching several tools of the list on or off: asked first, then each through `tools.changes`, and a summary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from django.contrib import messages
from django.contrib.admin import ModelAdmin, helpers
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from audit.actor import Actor
from audit.console_actor import request_actor
from tools.models import Tool
from tools.tool_changes import switch

MOST_AT_ONCE = 200
MOST_REASON = 300


@dataclass(slots=True)
class Switched:
    """What came of switching several tools."""

    done: list[str] = field(default_factory=list)
    proposed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def switch_several(tools: list[Tool], *, enabled: bool, by: Actor, reason: str = "") -> Switched:
    """Switch each in a transaction of its own: one that cannot be switched holds up no other."""
    found = Switched()
    for tool in tools:
        if tool.enabled == enabled:
            found.unchanged.append(tool.name)
            continue
        try:
            proposal = switch(tool.name, enabled=enabled, by=by, reason=reason)
        except ValidationError as error:
            found.refused.append(f"{tool.name}: {' '.join(error.messages)}")
        else:
            (found.done if proposal is None else found.proposed).append(tool.name)
    return found


def ask_or_switch(
    model_admin: ModelAdmin[Any], request: HttpRequest, chosen: QuerySet[Tool], *, enabled: bool
) -> HttpResponse | None:
    """An action of the list: the first POST is answered with a question, the second carries it out."""
    tools = list(chosen.order_by("name")[: MOST_AT_ONCE + 1])
    if len(tools) > MOST_AT_ONCE:
        messages.error(request, f"Choose at most {MOST_AT_ONCE} tools at once.")
        return None
    if request.POST.get("confirmed"):
        reason = request.POST.get("reason", "")[:MOST_REASON]
        _tell(
            request, switch_several(tools, enabled=enabled, by=request_actor(request), reason=reason), enabled=enabled
        )
        return None
    context = {
        **model_admin.admin_site.each_context(request),
        "title": f"Switch {'on' if enabled else 'off'} {len(tools)} {'tool' if len(tools) == 1 else 'tools'}?",
        "model_admin": model_admin,
        "tools": tools,
        "enabled": enabled,
        "action": request.POST.get("action", ""),
        "checkbox_name": helpers.ACTION_CHECKBOX_NAME,
        "most_reason": MOST_REASON,
    }
    return TemplateResponse(request, "admin/tools/tool/switch_several.html", context)


def _tell(request: HttpRequest, found: Switched, *, enabled: bool) -> None:
    state = "on" if enabled else "off"
    if found.done:
        messages.success(request, f"Switched {state}: {', '.join(found.done)}.")
    if found.proposed:
        messages.warning(request, f"Proposed, a second person must approve it: {', '.join(found.proposed)}.")
    if found.unchanged:
        messages.info(request, f"Already {state}: {', '.join(found.unchanged)}.")
    for line in found.refused:
        messages.error(request, f"Not switched {state}: {line}")
