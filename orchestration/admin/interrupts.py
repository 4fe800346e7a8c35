"""What runs have asked: an operator decides in the place of the user, and the thread goes on.

A decision here is a request: any process's sweep begins the run that carries it out, once all open questions of the thread are decided.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.forms import BaseDialogForm

from audit import actions
from audit.admin import PeriodFilter
from audit.admin_recording import record_console
from audit.console_actor import request_actor
from audit.entry import Target
from orchestration.admin.lists import ReadOnlyAdmin
from orchestration.admin.presentation import audit_link, identifier, json_block, link, moment, status_badge
from orchestration.admin.runs import HIDDEN, may_read_content
from orchestration.models import Interrupt


class InterruptStatusFilter(admin.SimpleListFilter):
    """Where does it stand?"""

    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(status.value, status.value) for status in Interrupt.Status]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Interrupt]) -> QuerySet[Interrupt]:
        return queryset.filter(status=self.value()) if self.value() in Interrupt.Status.values else queryset


@admin.register(Interrupt)
class InterruptAdmin(ReadOnlyAdmin):
    """The list of questions and the page of one, where it is decided."""

    list_display = ("asked", "state", "tool", "run_link", "owner", "decided")
    list_filter = (InterruptStatusFilter, PeriodFilter)
    list_select_related = ("run", "thread")
    identifiers = ("thread__owner_id", "run__public_id", "tool_call_id")
    uuid_identifiers = ("id", "run_id", "thread_id")
    search_help_text = "A question's, run's, thread's or owner's id, whole"
    fieldsets = (
        (None, {"fields": ("message", ("state", "tool"), ("run_link", "thread_link"), ("asked", "decided"), "audit")}),
        ("Call", {"fields": ("tool_call_id", "arguments")}),
    )
    readonly_fields = ("asked", "state", "tool", "run_link", "thread_link", "decided", "arguments", "audit")
    actions_detail = ("make_call", "decline")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Interrupt]:
        """Without the bodies of run and thread."""
        found: QuerySet[Interrupt] = super().get_queryset(request).select_related("run", "thread")
        return found.defer("run__input", "run__outcome", "thread__state")

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Interrupt | None:
        interrupt: Interrupt | None = super().get_object(request, object_id, from_field)
        if interrupt is not None:
            interrupt.content_shown = may_read_content(request)  # type: ignore[attr-defined]
        return interrupt

    # --- deciding

    def has_make_call_permission(self, request: HttpRequest, object_id: str = "") -> bool:
        """Who may decide, while there is something to decide."""
        return _may_decide(request, object_id)

    def has_decline_permission(self, request: HttpRequest, object_id: str = "") -> bool:
        """The same."""
        return _may_decide(request, object_id)

    @action(
        description="Make the call",
        permissions=["make_call"],
        url_path="make-call",
        icon="play_arrow",
        variant=ActionVariant.WARNING,
        dialog={
            "title": "Make this call?",
            "description": "The thread goes on with its result. A call that was cut off may have taken effect already.",
            "form_class": BaseDialogForm,
            "form_submit_text": "Make the call",
        },
    )
    def make_call(self, request: HttpRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        return self._decide(request, object_id, approved=True)

    @action(
        description="Decline",
        permissions=["decline"],
        url_path="decline",
        icon="block",
        dialog={
            "title": "Go on without this call?",
            "description": "The agent is told that the call is not made.",
            "form_class": BaseDialogForm,
            "form_submit_text": "Decline",
        },
    )
    def decline(self, request: HttpRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        return self._decide(request, object_id, approved=False)

    def _decide(self, request: HttpRequest, object_id: str, *, approved: bool) -> HttpResponse:
        if decide_in_console(request, object_id, approved=approved):
            messages.success(request, "Decided. The thread goes on within some seconds.")
        else:
            messages.error(request, "This was decided already.")
        return HttpResponseRedirect(reverse("admin:orchestration_interrupt_change", args=[object_id]))

    # --- showing

    @display(description="Asked (UTC)")
    def asked(self, interrupt: Interrupt) -> str:
        return moment(interrupt.created_at)

    @display(description="Status")
    def state(self, interrupt: Interrupt) -> SafeString:
        return status_badge(interrupt)

    @display(description="Tool")
    def tool(self, interrupt: Interrupt) -> str:
        return str(interrupt.detail.get("call", {}).get("name", ""))

    @display(description="Run")
    def run_link(self, interrupt: Interrupt) -> SafeString:
        return link("admin:orchestration_run_change", interrupt.run_id, identifier(interrupt.run.public_id))

    @display(description="Thread")
    def thread_link(self, interrupt: Interrupt) -> SafeString:
        return link("admin:orchestration_thread_change", interrupt.thread_id, identifier(interrupt.thread.public_id))

    @display(description="Owner")
    def owner(self, interrupt: Interrupt) -> SafeString:
        return audit_link(f"actor:{interrupt.thread.owner_id}", identifier(interrupt.thread.owner_id))

    @display(description="Decided (UTC)")
    def decided(self, interrupt: Interrupt) -> str:
        if interrupt.decided_at is None:
            return ""
        answer = "make the call" if (interrupt.decision or {}).get("approved") else "declined"
        return f"{moment(interrupt.decided_at)}: {answer}, by {interrupt.decided_by}"

    @display(description="Arguments")
    def arguments(self, interrupt: Interrupt) -> str:
        if not interrupt.content_shown:  # type: ignore[attr-defined]
            return HIDDEN
        return json_block(interrupt.detail.get("call", {}).get("arguments", ""))

    @display(description="Audit trail")
    def audit(self, interrupt: Interrupt) -> SafeString:
        return audit_link(f"interrupt:{interrupt.pk}", "All events of this question")


def decide_in_console(request: HttpRequest, interrupt_id: str, *, approved: bool) -> bool:
    """Store and record an operator's decision; returns False when the question has its answer already."""
    with transaction.atomic():
        changed = Interrupt.objects.filter(
            pk=interrupt_id, status=Interrupt.Status.OPEN, decided_at__isnull=True
        ).update(decision={"approved": approved}, decided_by=request_actor(request).id, decided_at=timezone.now())
        if changed:
            reason = "approved" if approved else "declined"
            record_console(request, actions.INTERRUPT_DECIDED, target=Target("interrupt", interrupt_id), reason=reason)
    return changed > 0


def _may_decide(request: HttpRequest, object_id: str) -> bool:
    if not request.user.has_perm("orchestration.decide_interrupt"):
        return False
    if not object_id:
        return True
    return Interrupt.objects.filter(pk=object_id, status=Interrupt.Status.OPEN, decided_at__isnull=True).exists()
