"""The console's first page: how many runs there are and how they end, what tools did, the last runs.

Everything is counted within the last day and never further than `COUNT_LIMIT`, and only what the reader may see.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode

from agentbackend.foundation.identifiers import uuid7_floor
from audit import actions
from audit.models import AuditEvent
from orchestration.admin.presentation import duration, identifier, link, moment, status_badge
from orchestration.console_decisions import waiting
from orchestration.models import Interrupt, Run
from tools.models import ChangeRequest

COUNT_LIMIT = 10_000
LAST_RUNS = 10
PERIOD = timedelta(hours=24)


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Add the dashboard's parts to the context; named in UNFOLD."""
    since = timezone.now() - PERIOD
    sees_runs = request.user.has_perm("orchestration.view_run")
    sees_audit = request.user.has_perm("audit.view_auditevent")
    cards = [
        *(_change_cards() if request.user.has_perm("tools.view_changerequest") else []),
        *(_approval_cards() if request.user.has_perm("orchestration.view_interrupt") else []),
        *(_run_cards(since) if sees_runs else []),
        *(_audit_cards(since) if sees_audit else []),
    ]
    context.update(
        title="Dashboard",
        cards=cards,
        last_runs=_last_runs() if sees_runs else None,
        model_is_demo=settings.MODEL_IS_DEMO,
    )
    return context


# --- cards


def _change_cards() -> list[dict[str, str]]:
    """What waits for a second person, where anything needs one."""
    waiting = _count(ChangeRequest.objects.filter(status=ChangeRequest.Status.PENDING))
    if not settings.FOUR_EYES and waiting == "0":
        return []
    changes = reverse("admin:tools_changerequest_changelist")
    return [
        _card(
            "Proposed changes", waiting, "waiting for a second person", f"{changes}?{urlencode({'status': 'pending'})}"
        )
    ]


def _approval_cards() -> list[dict[str, str]]:
    """Calls that wait for a person, where any does."""
    waits = _count(Interrupt.objects.filter(waiting()))
    if waits == "0":
        return []
    questions = reverse("admin:orchestration_interrupt_changelist")
    return [_card("Approvals", waits, "calls waiting for a person", f"{questions}?{urlencode({'status': 'open'})}")]


def _run_cards(since: datetime) -> list[dict[str, str]]:
    recent = Run.objects.filter(id__gte=uuid7_floor(since))
    active = Run.objects.filter(status__in=Run.ACTIVE)
    runs = reverse("admin:orchestration_run_changelist")
    return [
        _card("Runs", _count(recent), "in the last 24 hours", f"{runs}?{urlencode({'period': '24h'})}"),
        _card("Active", _count(active), "going on at the moment", f"{runs}?{urlencode({'status': 'active'})}"),
        _card(
            "Failed",
            _count(recent.filter(status=Run.Status.FAILED)),
            "in the last 24 hours",
            f"{runs}?{urlencode({'status': 'failed', 'period': '24h'})}",
        ),
    ]


def _audit_cards(since: datetime) -> list[dict[str, str]]:
    recent = AuditEvent.objects.filter(id__gte=uuid7_floor(since))
    return [
        _card("Tool calls", _count(recent.filter(action=actions.TOOL_CALLED)), *_audit_link(actions.TOOL_CALLED)),
        _card("Denied calls", _count(recent.filter(action=actions.TOOL_DENIED)), *_audit_link(actions.TOOL_DENIED)),
        _card(
            "Errors in streams", _count(recent.filter(action=actions.ERROR_SHOWN)), *_audit_link(actions.ERROR_SHOWN)
        ),
    ]


def _audit_link(action: str) -> tuple[str, str]:
    address = reverse("admin:audit_auditevent_changelist")
    return "in the last 24 hours", f"{address}?{urlencode({'action': action, 'period': '24h'})}"


def _card(title: str, figure: str, remark: str, address: str) -> dict[str, str]:
    return {"title": title, "figure": figure, "remark": remark, "link": address}


def _count(rows: QuerySet[Any]) -> str:
    """How many, as far as counting goes: `10,000+` says that there are more."""
    found = rows.order_by().values("pk")[: COUNT_LIMIT + 1].count()
    return f"{COUNT_LIMIT:,}+" if found > COUNT_LIMIT else f"{found:,}"


# --- the last runs


def _last_runs() -> dict[str, Any]:
    runs = Run.objects.select_related("agent").defer("input", "outcome").order_by("-id")[:LAST_RUNS]
    return {
        "headers": ["Run", "Status", "Agent", "Owner", "Tokens", "Duration", "Created (UTC)"],
        "rows": [_row(run) for run in runs],
    }


def _row(run: Run) -> list[Any]:
    return [
        link("admin:orchestration_run_change", run.pk, identifier(run.public_id)),
        status_badge(run),
        run.agent.name,
        identifier(run.owner_id),
        f"{run.input_tokens:,} / {run.output_tokens:,}",
        duration(run),
        moment(run.created_at),
    ]
