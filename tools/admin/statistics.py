"""How calls of a tool went lately, from the audit trail: figures, calls by day, the last ones. Looking at them is recorded."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from audit import actions
from audit.admin import linked
from audit.admin_recording import record_console
from audit.entry import Outcome, Target
from tools.admin.tool_pages import VIEW, ToolPage, audit_link, badge, event_link, milliseconds, who
from tools.call_history import (
    LAST_CALLS,
    MOST_COUNTED,
    MOST_FIGURED,
    CallHistory,
    Days,
    Figures,
    PastCall,
    TooSlowError,
    history_of,
)

PAYLOAD = "audit.view_auditpayload"
_COLOURS = {Outcome.SUCCESS.value: "success", Outcome.DENIED.value: "warning", Outcome.FAILURE.value: "danger"}


class CallsPage(ToolPage):
    """What was called, by whom, and how it went."""

    name = "calls"
    title = "Calls"
    template_name = "admin/tools/tool/calls.html"
    permission_required = (VIEW, "audit.view_auditevent")

    def get(self, request: HttpRequest, *arguments: Any, **options: Any) -> HttpResponse:
        """The page. That it was looked at is recorded, as for every page of the audit trail."""
        response = super().get(request, *arguments, **options)
        reason = "with_payload" if self._sees_details else "without_payload"
        with transaction.atomic():
            record_console(request, actions.CONSOLE_VIEWED, target=Target("tool", self.tool.name), reason=reason)
        return response

    def get_context_data(self, **options: Any) -> dict[str, Any]:
        context = {
            **super().get_context_data(**options),
            "sees_details": self._sees_details,
            "trail": audit_link(f"target:tool/{self.tool.name}", "All of them in the audit trail"),
            "most_figured": MOST_FIGURED,
            "most_counted": MOST_COUNTED,
            "last_calls": LAST_CALLS,
        }
        try:
            history = history_of(self.tool.name, with_details=self._sees_details)
        except TooSlowError as error:
            return {**context, "problem": str(error)}
        return {**context, **_shown(history)}

    @property
    def _sees_details(self) -> bool:
        return bool(self.request.user.has_perm(PAYLOAD))


def _shown(history: CallHistory) -> dict[str, Any]:
    return {
        "periods": [("Last 24 hours", _cards(history.last_day), history.last_day.limited),
                    ("Last 7 days", _cards(history.last_week), history.last_week.limited)],
        "days": _bars(history.by_day),
        "days_limited": history.by_day.limited,
        "rows": [_row(call) for call in history.last],
    }  # fmt: skip


def _cards(figures: Figures) -> list[tuple[str, str, str]]:
    """Title, figure, remark."""
    if not figures.calls:
        return [("Calls", "0", "")]
    percent = "none" if figures.error_percent is None else f"{figures.error_percent:.1f} %"
    return [
        ("Calls", f"{figures.calls:,}", ""),
        ("Errors", percent, f"{figures.failed:,} failed"),
        ("Denied", f"{figures.denied:,}", "refused by a rule"),
        ("Half within", milliseconds(figures.p50_ms) or "none", "p50"),
        ("95 % within", milliseconds(figures.p95_ms) or "none", "p95"),
    ]


def _bars(days: Days) -> list[dict[str, Any]]:
    most = max((day.calls for day in days.days), default=0) or 1
    return [{"day": day, "width": round(100 * day.calls / most)} for day in days.days]


def _row(call: PastCall) -> dict[str, Any]:
    return {
        "time": event_link(call.id, f"{call.at:%Y-%m-%d %H:%M:%S}"),
        "who": who(call.actor_id),
        "role": call.role,
        "run": linked("run", str(call.run_id), str(call.run_id), "run") if call.run_id else _without_run(call),
        "outcome": badge(_WORDS.get(call.action, call.action), _colour(call)),
        "duration": milliseconds(call.duration_ms),
        "version": call.version,
        "reason": call.reason if call.action != actions.TOOL_CALLED else "",
        "message": call.message,
    }


_WORDS = {
    actions.TOOL_CALLED: "done",
    actions.TOOL_FAILED: "failed",
    actions.TOOL_DENIED: "denied",
    actions.TOOL_APPROVAL_ASKED: "asked a person",
}


def _colour(call: PastCall) -> str:
    return "info" if call.action == actions.TOOL_APPROVAL_ASKED else _COLOURS.get(call.outcome, "default")


def _without_run(call: PastCall) -> SafeString:
    is_test = call.origin == "test" or call.actor_id.startswith("console:")
    return format_html("<span>{}</span>", "test in the console" if is_test else call.origin or "no run")
