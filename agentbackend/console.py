"""How the console looks: names, navigation, colours, the badge.

The settings read it, so nothing here imports a model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse_lazy


def environment_badge(request: HttpRequest) -> list[str] | None:
    """The badge beside the title: `[text, colour]`, or nothing in an ordinary installation."""
    if settings.MODEL_IS_DEMO:
        return ["Demo model", "warning"]
    return ["Debug", "info"] if settings.DEBUG else None


def may(permission: str) -> Callable[[HttpRequest], bool]:
    """Whether the signed-in person has this permission: what an entry of the navigation asks."""

    def check(request: HttpRequest) -> bool:
        return bool(request.user.has_perm(permission))

    return check


def may_use_playground(request: HttpRequest) -> bool:
    """The playground is open to everybody in debug, else by permission."""
    return settings.DEBUG or request.user.has_perm("orchestration.use_playground")


def _entry(title: str, icon: str, model: str) -> dict[str, Any]:
    """A list of the console; `model` is `app.model`."""
    app, name = model.split(".")
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(f"admin:{app}_{name}_changelist"),
        "permission": may(f"{app}.view_{name}"),
    }


NAVIGATION: list[dict[str, Any]] = [
    {
        "items": [
            {"title": "Dashboard", "icon": "dashboard", "link": reverse_lazy("admin:index")},
            {
                "title": "Playground",
                "icon": "forum",
                "link": reverse_lazy("playground"),
                "permission": may_use_playground,
            },
        ]
    },
    {
        "title": "Orchestration",
        "separator": True,
        "items": [
            _entry("Runs", "play_circle", "orchestration.run"),
            {
                **_entry("Approvals", "approval", "orchestration.interrupt"),
                "badge": "orchestration.admin.interrupts.waiting_badge",
            },
            _entry("Threads", "chat", "orchestration.thread"),
            _entry("Turns", "question_answer", "orchestration.conversationturn"),
            _entry("Agents", "smart_toy", "orchestration.agent"),
            _entry("A2A tasks", "swap_horiz", "a2a.task"),
            _entry("Model providers", "hub", "orchestration.modelprovider"),
            _entry("Model prices", "payments", "orchestration.modelprice"),
            _entry("Jobs", "pending_actions", "procrastinate.procrastinatejob"),
        ],
    },
    {
        "title": "Tools",
        "separator": True,
        "items": [
            _entry("Tools", "build", "tools.tool"),
            _entry("Remote servers", "dns", "tools.remoteserver"),
            _entry("Remote tools", "travel_explore", "tools.remotetool"),
            _entry("Remote agents", "hub", "a2a.remoteagent"),
            _entry("Credentials", "key", "tools.storedcredential"),
            _entry("Caller roles", "badge", "tools.callerrole"),
            _entry("Deny rules", "block", "tools.denyrule"),
            _entry("Argument rules", "rule", "tools.argumentrule"),
            _entry("Guardrails", "shield", "tools.guardrailpolicy"),
            _entry("Budgets", "savings", "tools.budget"),
            _entry("Changes", "difference", "tools.changerequest"),
            _entry("Notes", "sticky_note_2", "tools.note"),
        ],
    },
    {
        "title": "Audit",
        "separator": True,
        "items": [_entry("Audit events", "policy", "audit.auditevent")],
    },
    {
        "title": "Console",
        "separator": True,
        "items": [
            _entry("Users", "person", "auth.user"),
            _entry("Groups", "group", "auth.group"),
        ],
    },
]

# indigo, as in the playground
_PRIMARY = {
    "50": "#eef2ff", "100": "#e0e7ff", "200": "#c7d2fe", "300": "#a5b4fc", "400": "#818cf8", "500": "#6366f1",
    "600": "#4f46e5", "700": "#4338ca", "800": "#3730a3", "900": "#312e81", "950": "#1e1b4b",
}  # fmt: skip

UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "agentbackend",
    "SITE_HEADER": "agentbackend",
    "SITE_SUBHEADER": "Console",
    "SITE_URL": None,
    "SITE_ICON": lambda request: static("playground/icon.svg"),
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("playground/icon.svg")},
    ],
    "SHOW_HISTORY": True,
    "SHOW_VIEW_ON_SITE": False,
    "SHOW_BACK_BUTTON": True,
    "ENVIRONMENT": "agentbackend.console.environment_badge",
    "DASHBOARD_CALLBACK": "agentbackend.console_dashboard.dashboard",
    "STYLES": [lambda request: static("console/console.css")],
    "COLORS": {"primary": _PRIMARY},
    "SIDEBAR": {
        "show_search": False,
        "command_search": True,
        "show_all_applications": False,
        "navigation": NAVIGATION,
    },
    "COMMAND": {"search_models": False, "show_history": False},
}
