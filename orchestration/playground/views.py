"""The playground's page: a chat with the agents, and the raw events beside it.

In debug it is open to the developer's machine and sends unsigned gateway headers of a random user. Otherwise it needs a
console login with the permission to use it, and posts with that session.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe

from orchestration.models import Agent
from tools.models import CallerRole

PERMISSION = "orchestration.use_playground"
SUGGESTIONS = (
    "What is the weather like in London?",
    "Compare the weather in Paris, Tokyo and Cairo.",
    "What is (17.5 * 12) / 0.35?",
    "Remember a note called Groceries: bread, olives, coffee.",
)
_MOST_CHOICES = 100
_EVERY_ROLE = ("user", "admin")  # known to every installation, whatever the table holds


@require_safe
def playground(request: HttpRequest) -> HttpResponse:
    """The page. Who may not see it is sent to the console's login, or refused when signed in already."""
    if not settings.DEBUG and not request.user.has_perm(PERMISSION):
        if request.user.is_authenticated:
            raise PermissionDenied
        return redirect_to_login(request.get_full_path(), reverse(settings.LOGIN_URL))
    agents = list(Agent.objects.filter(enabled=True).order_by("-is_default", "name")[:_MOST_CHOICES])
    response = render(request, "orchestration/playground.html", _context(agents))
    response["Cache-Control"] = "no-store"
    return response


def _context(agents: list[Agent]) -> dict[str, Any]:
    return {
        "agents": agents,
        "roles": _roles() if settings.DEBUG else [],
        "suggestions": SUGGESTIONS,
        "demo_model": settings.MODEL_IS_DEMO,
        "debug": settings.DEBUG,
        "configuration": _configuration(agents),
    }


def _configuration(agents: list[Agent]) -> dict[str, Any]:
    """What the page's script needs: addresses, and whether it may send headers of its own."""
    base = "/ag-ui" if settings.DEBUG else "/playground"
    return {
        "debug": settings.DEBUG,
        "baseUrl": base,
        "curlUrl": "/ag-ui/events",
        "agents": [{"slug": agent.slug, "runUrl": _run_address(agent, base)} for agent in agents],
    }


def _run_address(agent: Agent, base: str) -> str:
    return f"{base}/events" if agent.is_default else f"{base}/agent/{agent.slug}/run"


def _roles() -> list[str]:
    known = CallerRole.objects.values_list("name", flat=True)[:_MOST_CHOICES]
    return [*_EVERY_ROLE, *sorted(set(known) - set(_EVERY_ROLE))]
