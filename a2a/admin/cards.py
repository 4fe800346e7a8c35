"""The page of an agent's card: what it says, what was accepted, and the decision about it.

The button carries the digest of what stood on the page, so nothing else is accepted.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.views.generic import TemplateView
from unfold.views import UnfoldModelAdminViewMixin

from a2a import remote_cards
from a2a.discovery import accept
from a2a.models import RemoteAgent, RemoteAgentHealth
from audit.console_actor import request_actor
from tools.line_differences import Line, line_differences


class CardPage(UnfoldModelAdminViewMixin, TemplateView):
    """Shows the card of one agent, and accepts it."""

    template_name = "admin/a2a/card.html"
    permission_required = "a2a.view_remoteagent"
    title = "Card of a remote agent"

    def get_context_data(self, **options: Any) -> dict[str, Any]:
        agent = get_object_or_404(RemoteAgent.objects.select_related("health"), pk=self.kwargs["agent_id"])
        health: RemoteAgentHealth | None = getattr(agent, "health", None)
        shown = health.card if health is not None else None
        card = shown or agent.accepted_card or {}
        context: dict[str, Any] = super().get_context_data()
        is_acceptable = (
            health is not None and bool(shown) and not health.problem and health.card_digest != agent.accepted_digest
        )
        return {
            **context,
            "title": f"Card of {agent.name}",
            "agent": agent,
            "health": health,
            "state": RemoteAgent.State(agent.state),
            "card": card,
            "skills": remote_cards.skills_of(card),
            "interfaces": remote_cards.interfaces_of(card),
            "changes": _changes(agent.accepted_card, shown),
            "blocking": sorted(remote_cards.BLOCKING.intersection(_changed(agent.accepted_card, shown))),
            "whole": _written(card),
            "may_accept": is_acceptable and self.request.user.has_perm("a2a.change_remoteagent"),
        }

    def post(self, request: HttpRequest, agent_id: UUID, **options: Any) -> HttpResponse:
        """Accept the card that was looked at; then the page again."""
        if not request.user.has_perm("a2a.change_remoteagent"):
            raise PermissionDenied
        agent = get_object_or_404(RemoteAgent, pk=agent_id)
        try:
            is_done = accept(agent, request.POST.get("accept", ""), by=request_actor(request))
        except ValidationError as error:
            messages.error(request, " ".join(error.messages))
        else:
            if is_done:
                messages.success(request, f"The card of {agent.name} is accepted.")
            else:
                messages.success(request, "Proposed. A second person must approve it before it counts.")
        return HttpResponseRedirect(request.get_full_path())


def _changed(accepted: Any, shown: Any) -> list[str]:
    return remote_cards.changed_fields(accepted, shown) if accepted and shown else []


def _changes(accepted: Any, shown: Any) -> dict[str, list[Line]]:
    """What was accepted against what the agent says, by field, line by line."""
    return {
        name: line_differences(_written(accepted.get(name)), _written(shown.get(name)))
        for name in _changed(accepted, shown)
    }


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)
