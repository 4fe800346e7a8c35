"""Threads and their turns in the console: whose they are, and for those who may read it, what was said."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.decorators import display

from audit import actions
from audit.admin import PeriodFilter
from audit.admin_recording import record_console
from audit.entry import Target
from orchestration.admin.lists import ReadOnlyAdmin
from orchestration.admin.presentation import (
    audit_link,
    conversation,
    identifier,
    json_block,
    link,
    moment,
    short,
    status_badge,
    unfolding,
)
from orchestration.admin.runs import HIDDEN, AgentFilter, may_read_content
from orchestration.models import ConversationSummary, ConversationTurn, Run, Thread

LAST_TURNS = 20
LAST_RUNS = 20
LAST_SUMMARIES = 5


@admin.register(Thread)
class ThreadAdmin(ReadOnlyAdmin):
    """The list of threads and the page of one."""

    list_display = ("name", "short_owner", "agent", "kind", "created", "updated")
    list_filter = (AgentFilter, PeriodFilter)
    list_select_related = ("agent",)
    identifiers = ("public_id", "owner_id")
    search_help_text = "A thread's id or an owner's id, whole"
    fieldsets = (
        (None, {"fields": (("public_id", "owner"), ("agent", "kind"), ("created", "updated"), "audit")}),
        (f"Last {LAST_RUNS} runs", {"fields": ("runs",), "classes": ("tab",)}),
        (f"Last {LAST_TURNS} turns", {"fields": ("turns",), "classes": ("tab",)}),
        ("Summaries", {"fields": ("summaries",), "classes": ("tab",)}),
        ("State", {"fields": ("shared_state",), "classes": ("tab",)}),
    )
    readonly_fields = ("owner", "kind", "created", "updated", "audit", "runs", "turns", "summaries", "shared_state")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Thread]:
        """Without the state that a list does not show."""
        threads: QuerySet[Thread] = super().get_queryset(request).select_related("agent")
        return threads.defer("state")

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Thread | None:
        thread: Thread | None = super().get_object(request, object_id, from_field)
        if thread is not None:
            thread.content_shown = may_read_content(request)  # type: ignore[attr-defined]
        return thread

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The page of one thread. That somebody read what was said is recorded."""
        response: HttpResponse = super().change_view(request, object_id, form_url, extra_context)
        if response.status_code == 200:
            reason = "with_content" if may_read_content(request) else "without_content"
            with transaction.atomic():
                record_console(request, actions.CONSOLE_VIEWED, target=Target("thread", object_id), reason=reason)
        return response

    @display(description="Thread")
    def name(self, thread: Thread) -> SafeString:
        return identifier(thread.public_id)

    @display(description="Owner")
    def owner(self, thread: Thread) -> SafeString:
        return audit_link(f"actor:{thread.owner_id}", thread.owner_id)

    @display(description="Owner")
    def short_owner(self, thread: Thread) -> SafeString:
        return audit_link(f"actor:{thread.owner_id}", identifier(thread.owner_id))

    @display(description="Kind")
    def kind(self, thread: Thread) -> str:
        if thread.standing_key is None:
            return "named by the client"
        return "standing" if thread.standing_key == "-" else f"standing, session {thread.standing_key}"

    @display(description="Created (UTC)")
    def created(self, thread: Thread) -> str:
        return moment(thread.created_at)

    @display(description="Updated (UTC)")
    def updated(self, thread: Thread) -> str:
        return moment(thread.updated_at)

    @display(description="Audit trail")
    def audit(self, thread: Thread) -> SafeString:
        return audit_link(f"thread:{thread.pk}", "All events of this thread")

    @display(description="Runs, newest first")
    def runs(self, thread: Thread) -> SafeString:
        runs = Run.objects.filter(thread=thread).defer("input", "outcome").order_by("-id")[:LAST_RUNS]
        rows = (
            (link("admin:orchestration_run_change", run.pk, run.public_id), status_badge(run), moment(run.created_at))
            for run in runs
        )
        return format_html_join("", '<p class="console-row">{}{}<span>{}</span></p>', rows) or SafeString("none yet")

    @display(description="Turns, newest first")
    def turns(self, thread: Thread) -> str:
        if not thread.content_shown:  # type: ignore[attr-defined]
            return HIDDEN
        turns = ConversationTurn.objects.filter(thread=thread).order_by("-position")[:LAST_TURNS]
        rows = ((turn.position, unfolding(short(turn.user_message), conversation(turn.messages))) for turn in turns)
        return format_html_join("", '<div class="console-turn"><span>{}</span>{}</div>', rows) or "none yet"

    @display(description="Summaries, newest first")
    def summaries(self, thread: Thread) -> str:
        if not thread.content_shown:  # type: ignore[attr-defined]
            return HIDDEN
        found = ConversationSummary.objects.filter(thread=thread).order_by("-up_to_position")[:LAST_SUMMARIES]
        rows = (
            (
                unfolding(
                    f"Turns 1 to {summary.up_to_position} as {summary.model} has summed them up for later turns",
                    format_html("<p>{}</p>", summary.text),
                ),
                moment(summary.created_at),
            )
            for summary in found
        )
        return format_html_join("", '<div class="console-turn">{}<span>{}</span></div>', rows) or "none yet"

    @display(description="AG-UI state after the last run")
    def shared_state(self, thread: Thread) -> str:
        if not thread.content_shown:  # type: ignore[attr-defined]
            return HIDDEN
        return json_block(thread.state) or "none"


@admin.register(ConversationTurn)
class ConversationTurnAdmin(ReadOnlyAdmin):
    """The list of turns and the page of one: who may see the list may read what was said."""

    list_display = ("created", "conversation_link", "position", "question", "answer", "run_link")
    list_filter = (PeriodFilter,)
    list_select_related = ("thread", "run")
    identifiers = ("thread__owner_id",)
    uuid_identifiers = ("id", "thread_id", "run_id")
    search_help_text = "A run's, thread's or owner's id, whole"
    fieldsets = (
        (
            None,
            {"fields": (("conversation_link", "run_link"), ("position", "token_estimate"), ("created", "finished"))},
        ),
        ("Messages", {"fields": ("said",)}),
    )
    readonly_fields = ("created", "finished", "conversation_link", "run_link", "said")

    def get_queryset(self, request: HttpRequest) -> QuerySet[ConversationTurn]:
        """Without the bodies of the run."""
        turns: QuerySet[ConversationTurn] = super().get_queryset(request).select_related("thread", "run")
        return turns.defer("run__input", "run__outcome", "thread__state")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list shows what was said, so that it was read is recorded."""
        response: HttpResponse = super().changelist_view(request, extra_context)
        if response.status_code == 200:
            self._record_view(request, "")
        return response

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The page of one turn; that it was read is recorded."""
        response: HttpResponse = super().change_view(request, object_id, form_url, extra_context)
        if response.status_code == 200:
            self._record_view(request, object_id)
        return response

    def _record_view(self, request: HttpRequest, object_id: str) -> None:
        target = Target("orchestration.conversationturn", object_id)
        details = {"search": request.GET.dict()} if request.GET else None
        with transaction.atomic():
            record_console(request, actions.CONSOLE_VIEWED, target=target, reason="with_content", details=details)

    @display(description="Created (UTC)")
    def created(self, turn: ConversationTurn) -> str:
        return moment(turn.created_at)

    @display(description="Finished (UTC)")
    def finished(self, turn: ConversationTurn) -> str:
        return moment(turn.finished_at)

    @display(description="Thread")
    def conversation_link(self, turn: ConversationTurn) -> SafeString:
        return link("admin:orchestration_thread_change", turn.thread_id, identifier(turn.thread.public_id))

    @display(description="Run")
    def run_link(self, turn: ConversationTurn) -> SafeString:
        return link("admin:orchestration_run_change", turn.run_id, identifier(turn.run.public_id))

    @display(description="Question")
    def question(self, turn: ConversationTurn) -> str:
        return short(turn.user_message)

    @display(description="Answer")
    def answer(self, turn: ConversationTurn) -> str:
        return short(turn.agent_response)

    @display(description="Messages")
    def said(self, turn: ConversationTurn) -> SafeString:
        return format_html("{}", conversation(turn.messages))
