"""Runs in the console: what was asked, how it went, each step, each event. Read-only: only the service writes runs."""

from __future__ import annotations

from itertools import islice
from typing import Any

from django.contrib import admin
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import TabularInline
from unfold.decorators import display

from audit import actions
from audit.admin import PeriodFilter
from audit.admin_recording import record_console
from audit.entry import Target
from orchestration.admin.lists import ReadOnlyAdmin
from orchestration.admin.presentation import (
    audit_link,
    conversation,
    duration,
    event_log,
    identifier,
    json_block,
    link,
    moment,
    status_badge,
    unfolding,
)
from orchestration.models import Agent, ConversationTurn, Run, RunEvents, Step

MOST_EVENTS = 1_000
MOST_EVENT_ROWS = 500
MOST_AGENTS = 100
CONTENT_PERMISSION = "orchestration.view_conversationturn"
HIDDEN = "hidden: your account may not read conversations"


def may_read_content(request: HttpRequest) -> bool:
    """Whether the reader may see what was said, beside that it was said."""
    return bool(request.user.has_perm(CONTENT_PERMISSION))


class StatusFilter(admin.SimpleListFilter):
    """Where does it stand?"""

    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("active", "active"), *((status.value, status.value) for status in Run.Status)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Run]) -> QuerySet[Run]:
        if self.value() == "active":
            return queryset.filter(status__in=Run.ACTIVE)
        return queryset.filter(status=self.value()) if self.value() in Run.Status.values else queryset


class AgentFilter(admin.SimpleListFilter):
    """Which agent?"""

    title = "agent"
    parameter_name = "agent"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(Agent.objects.values_list("slug", "name")[:MOST_AGENTS])

    def queryset(self, request: HttpRequest, queryset: QuerySet[Run]) -> QuerySet[Run]:
        return queryset.filter(agent__slug=self.value()) if self.value() else queryset


class StepInline(TabularInline):
    """The steps of a run: model turns, tool calls, delegations."""

    model = Step
    tab = True
    extra = 0
    can_delete = False
    show_change_link = False
    hide_title = True
    ordering = ("number",)
    fields = readonly_fields = ("number", "kind", "title", "state", "took", "content")
    per_page = 100

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """What was said in a step is shown to those who may read conversations."""
        return self.fields if may_read_content(request) else self.fields[:-1]

    @display(description="Name")
    def title(self, step: Step) -> str:
        return str(step.detail.get("name") or step.name)

    @display(description="Status")
    def state(self, step: Step) -> SafeString:
        return status_badge(step)

    @display(description="Duration")
    def took(self, step: Step) -> str:
        return duration(step)

    @display(description="Details")
    def content(self, step: Step) -> SafeString:
        return unfolding("show", json_block(step.detail)) if step.detail else SafeString("")


@admin.register(Run)
class RunAdmin(ReadOnlyAdmin):
    """The list of runs and the page of one."""

    list_display = ("name", "state", "short_owner", "agent", "model", "tokens", "price", "took", "created")
    list_filter = (StatusFilter, AgentFilter, PeriodFilter)
    list_select_related = ("agent",)
    identifiers = ("public_id", "owner_id")
    uuid_identifiers = ("id", "thread_id")
    search_help_text = "A run id, an owner's id or a thread's id, whole"
    inlines = (StepInline,)
    fieldsets = (
        (None, {"fields": (("public_id", "state"), ("owner", "actor_role"), ("agent", "model"), ("conversation_link", "audit"))}),
        ("Messages", {"fields": ("said",), "classes": ("tab",)}),
        ("Events", {"fields": ("log",), "classes": ("tab",)}),
        ("Outcome", {"fields": (("error_code", "error_message"), "result"), "classes": ("tab",)}),
        (
            "Figures",
            {
                "fields": (
                    ("model_turns", "took"),
                    ("tokens", "price"),
                    ("created", "started"),
                    ("finished", "last_seq"),
                    ("event_bytes", "parent_public_id"),
                    ("request_id", "trace_id"),
                    ("id", "idempotency_key"),
                ),
                "classes": ("tab",),
            },
        ),
        (
            "Lease",
            {
                "fields": (("fence", "journal_version"), ("lease_owner", "lease_end"), ("cancelled_at", "cancel_requested_by")),
                "classes": ("tab",),
            },
        ),
    )  # fmt: skip
    readonly_fields = (
        "state", "owner", "tokens", "price", "took", "created", "started", "finished", "conversation_link", "audit", "result",
        "said", "log", "lease_end", "cancelled_at",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Run]:
        """Without the bodies that a list does not show."""
        runs: QuerySet[Run] = super().get_queryset(request).select_related("agent", "thread")
        return runs.defer("input", "outcome", "thread__state")

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Run | None:
        run: Run | None = super().get_object(request, object_id, from_field)
        if run is not None:
            run.content_shown = may_read_content(request)  # type: ignore[attr-defined]
        return run

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The page of one run. That somebody read what was said is recorded."""
        response: HttpResponse = super().change_view(request, object_id, form_url, extra_context)
        if response.status_code == 200:
            reason = "with_content" if may_read_content(request) else "without_content"
            with transaction.atomic():
                record_console(request, actions.CONSOLE_VIEWED, target=Target("run", object_id), reason=reason)
        return response

    # --- showing

    @display(description="Run")
    def name(self, run: Run) -> SafeString:
        return identifier(run.public_id)

    @display(description="Status")
    def state(self, run: Run) -> SafeString:
        return status_badge(run)

    @display(description="Owner")
    def owner(self, run: Run) -> SafeString:
        return audit_link(f"actor:{run.owner_id}", run.owner_id)

    @display(description="Owner")
    def short_owner(self, run: Run) -> SafeString:
        return audit_link(f"actor:{run.owner_id}", identifier(run.owner_id))

    @display(description="Tokens in / out")
    def tokens(self, run: Run) -> str:
        return f"{run.input_tokens:,} / {run.output_tokens:,}"

    @display(description="Cost (USD)")
    def price(self, run: Run) -> str:
        if run.cost is not None:
            return f"{run.cost.normalize():f}"
        return "not known" if run.is_terminal and run.model_turns else ""

    @display(description="Duration")
    def took(self, run: Run) -> str:
        return duration(run)

    @display(description="Created (UTC)")
    def created(self, run: Run) -> str:
        return moment(run.created_at)

    @display(description="Started (UTC)")
    def started(self, run: Run) -> str:
        return moment(run.started_at)

    @display(description="Finished (UTC)")
    def finished(self, run: Run) -> str:
        return moment(run.finished_at)

    @display(description="Lease ends (UTC)")
    def lease_end(self, run: Run) -> str:
        return moment(run.lease_expires_at)

    @display(description="Cancellation asked for (UTC)")
    def cancelled_at(self, run: Run) -> str:
        return moment(run.cancel_requested_at)

    @display(description="Thread")
    def conversation_link(self, run: Run) -> SafeString:
        return link("admin:orchestration_thread_change", run.thread_id, run.thread.public_id)

    @display(description="Audit trail")
    def audit(self, run: Run) -> SafeString:
        return audit_link(f"run:{run.pk}", "All events of this run")

    @display(description="Outcome")
    def result(self, run: Run) -> SafeString:
        return json_block(run.outcome)

    @display(description="Messages of this run")
    def said(self, run: Run) -> str:
        if not run.content_shown:  # type: ignore[attr-defined]
            return HIDDEN
        turn = ConversationTurn.objects.filter(run=run).first()
        return conversation(turn.messages) if turn and turn.messages else "none yet"

    @display(description="Event log")
    def log(self, run: Run) -> str:
        if not run.content_shown:  # type: ignore[attr-defined]
            return HIDDEN
        lines = list(islice(_numbered_events(run), MOST_EVENTS + 1))
        shown = event_log(lines[:MOST_EVENTS])
        if len(lines) <= MOST_EVENTS:
            return shown or "none yet"
        return format_html("{}<p>The first {} events are shown.</p>", shown, MOST_EVENTS)


def _numbered_events(run: Run) -> Any:
    """The stored events in order, each with its number."""
    rows = RunEvents.objects.filter(run_id=run.pk).order_by("seq_from")[:MOST_EVENT_ROWS]
    for row in rows.iterator(chunk_size=50):
        yield from enumerate(bytes(row.events).split(b"\n"), row.seq_from)
