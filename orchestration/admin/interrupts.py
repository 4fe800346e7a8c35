"""The inbox of approvals: what runs have asked, those that wait first, and the page of one, where a person decides.

Deciding is done by `orchestration.console_decisions`; here it is asked for, and shown.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Case, IntegerField, Q, QuerySet, Value, When
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.forms import BaseDialogForm
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from agentbackend.foundation.problems import Problem
from audit import actions
from audit.admin import PeriodFilter
from audit.admin_recording import record_console
from audit.console_actor import request_id
from audit.entry import Target
from orchestration.admin.lists import ReadOnlyAdmin
from orchestration.admin.presentation import audit_link, code_block, identifier, json_block, link, moment
from orchestration.admin.runs import HIDDEN, may_read_content
from orchestration.answers import MAX_REASON, Answer, screened
from orchestration.console_decisions import (
    asker_of,
    decide,
    expired,
    is_own,
    may_decide,
    require_usable_edit,
    waiting,
    with_asker,
)
from orchestration.interrupts import QuestionKind
from orchestration.models import Interrupt
from tools.admin.documents import to_page
from tools.admin.forms import IndentedJSONField
from tools.governance.approvals import Decider

_DECIDED = Q(status__in=[Interrupt.Status.RESOLVED, Interrupt.Status.CANCELLED]) | Q(
    status=Interrupt.Status.OPEN, decided_at__isnull=False
)
_YOURS = "yours: someone else must decide"


def waiting_badge(request: HttpRequest) -> str:
    """How many questions wait, for the navigation; nothing when none does."""
    found = Interrupt.objects.filter(waiting())[:100].count()
    return "99+" if found > 99 else str(found or "")


class InterruptStatusFilter(admin.SimpleListFilter):
    """Where does it stand?"""

    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "waits"), ("decided", "decided"), ("expired", "expired")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Interrupt]) -> QuerySet[Interrupt]:
        found = {"open": waiting, "decided": lambda: _DECIDED, "expired": expired}.get(self.value() or "")
        return queryset.filter(found()) if found else queryset


class DeciderFilter(admin.SimpleListFilter):
    """Who decides?"""

    title = "decider"
    parameter_name = "decider"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(Decider.SOMEONE_ELSE.value, "someone else"), (Decider.ASKER.value, "the asker")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Interrupt]) -> QuerySet[Interrupt]:
        return queryset.filter(decider=self.value()) if self.value() in list(Decider) else queryset


class ApproveForm(BaseDialogForm):
    """May say why."""

    reason = forms.CharField(
        required=False,
        max_length=MAX_REASON,
        label="Remark",
        widget=UnfoldAdminTextInputWidget,
        help_text="Kept with it.",
    )


class DenyForm(BaseDialogForm):
    """Says why not."""

    reason = forms.CharField(
        required=False,
        max_length=MAX_REASON,
        label="Why not",
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text="The agent is told this, and may tell the user.",
    )


class EditForm(BaseDialogForm):
    """Other arguments, as the tool's schema and the rules for the asker's role allow them."""

    arguments = IndentedJSONField(
        rows=12, label="Arguments", help_text="The whole JSON object, as the call shall be made."
    )
    reason = forms.CharField(
        required=False,
        max_length=MAX_REASON,
        label="Remark",
        widget=UnfoldAdminTextInputWidget,
        help_text="Kept with it.",
    )

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        question = Interrupt.objects.filter(pk=self.object_id).first()
        self.fields["arguments"].initial = _arguments_of(question) if question else {}

    def clean_arguments(self) -> dict[str, Any]:
        """What the door would refuse is said here, and nothing is decided."""
        edited = self.cleaned_data["arguments"]
        if not isinstance(edited, dict):
            raise ValidationError("Expected a JSON object.")
        try:
            require_usable_edit(self.object_id, Answer(True, edited))
        except Problem as problem:
            raise ValidationError(problem.detail) from problem
        return edited


@admin.register(Interrupt)
class InterruptAdmin(ReadOnlyAdmin):
    """The list of questions and the page of one, where it is decided."""

    list_display = ("age", "state", "tool", "agent", "asker", "left", "run_link", "decided_when")
    list_filter = (InterruptStatusFilter, DeciderFilter, PeriodFilter)
    identifiers = ("thread__owner_id", "run__public_id", "tool_call_id")
    uuid_identifiers = ("id", "run_id", "thread_id")
    search_help_text = "A question's, run's, thread's or asker's id, whole"
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "message", ("state", "who_decides"), ("asker", "agent"), ("asked", "expires"), ("decided", "said"),
                    ("run_link", "thread_link"), ("carried_out", "audit"),
                )
            },
        ),
        ("Call", {"fields": ("tool", "arguments", "edited", "tool_call_id")}),
        ("What an approval is bound to", {"fields": ("binding",)}),
    )  # fmt: skip
    readonly_fields = (
        "asked", "state", "who_decides", "asker", "agent", "expires", "decided", "said", "tool", "run_link", "thread_link",
        "carried_out", "arguments", "edited", "binding", "audit",
    )  # fmt: skip
    actions_detail = ("approve", "approve_edited", "deny")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Interrupt]:
        """Without the bodies of run and thread."""
        found: QuerySet[Interrupt] = super().get_queryset(request)
        return with_asker(found).select_related("carried_out_in").defer("carried_out_in__input")

    def get_ordering(self, request: HttpRequest) -> list[Any]:
        """What waits first, then the newest."""
        waits_first = Case(When(waiting(), then=Value(0)), default=Value(1), output_field=IntegerField())
        return [waits_first.asc(), "-id"]

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """Each row knows whether it is the reader's own."""
        page = super().get_changelist_instance(request)
        for question in page.result_list:
            question.is_own = is_own(question, request.user)
        return page

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Interrupt | None:
        question: Interrupt | None = super().get_object(request, object_id, from_field)
        if question is not None:
            question.is_own = is_own(question, request.user)  # type: ignore[attr-defined]
            question.content_shown = _may_see_call(request, question)  # type: ignore[attr-defined]
        return question

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The page of one question. That somebody read a call's arguments is recorded."""
        response: HttpResponse = super().change_view(request, object_id, form_url, extra_context)
        question = self.get_object(request, object_id) if response.status_code == 200 else None
        if question is not None:
            shown = question.content_shown  # type: ignore[attr-defined]
            with transaction.atomic():
                reason = "with_content" if shown else "without_content"
                target = Target("interrupt", str(question.pk))
                record_console(request, actions.CONSOLE_VIEWED, target=target, reason=reason)
        return response

    # --- deciding

    def has_approve_permission(self, request: HttpRequest, object_id: str = "") -> bool:
        """Who may decide, while there is something to decide."""
        return _may_decide(request, object_id)

    def has_approve_edited_permission(self, request: HttpRequest, object_id: str = "") -> bool:
        """The same; a call that is to be made again is made as it was."""
        question = _waiting_question(object_id) if object_id else None
        is_repeat = question is not None and _kind(question) is QuestionKind.REPEAT
        return not is_repeat and _may_decide(request, object_id)

    def has_deny_permission(self, request: HttpRequest, object_id: str = "") -> bool:
        """The same as for approving."""
        return _may_decide(request, object_id)

    @action(
        description="Approve",
        permissions=["approve"],
        url_path="approve",
        icon="check",
        variant=ActionVariant.SUCCESS,
        dialog={
            "title": "Make this call?",
            "description": "It is made as it stands here, in the name of who asked, and the thread goes on with its result. A call "
            "that was cut off may have taken effect already.",
            "form_class": ApproveForm,
            "form_submit_text": "Approve",
        },
    )
    def approve(self, request: HttpRequest, form: ApproveForm, object_id: str) -> HttpResponse:
        return _decided(request, object_id, Answer(True, reason=screened(form.cleaned_data["reason"])))

    @action(
        description="Approve with changes",
        permissions=["approve_edited"],
        url_path="approve-edited",
        icon="edit",
        dialog={
            "title": "Make this call with other arguments?",
            "description": "They are checked as if who asked had sent them. The agent is told that a person changed them, and how.",
            "form_class": EditForm,
            "form_submit_text": "Approve with these",
        },
    )
    def approve_edited(self, request: HttpRequest, form: EditForm, object_id: str) -> HttpResponse:
        given = form.cleaned_data
        return _decided(request, object_id, Answer(True, given["arguments"], screened(given["reason"])))

    @action(
        description="Deny",
        permissions=["deny"],
        url_path="deny",
        icon="block",
        variant=ActionVariant.DANGER,
        dialog={
            "title": "Go on without this call?",
            "description": "The agent is told that the call is not made, and why.",
            "form_class": DenyForm,
            "form_submit_text": "Deny",
        },
    )
    def deny(self, request: HttpRequest, form: DenyForm, object_id: str) -> HttpResponse:
        return _decided(request, object_id, Answer(False, reason=screened(form.cleaned_data["reason"])))

    # --- showing

    @display(description="Asked (UTC)")
    def age(self, question: Interrupt) -> str:
        return f"{_span(timezone.now() - question.created_at)} ago" if _waits(question) else moment(question.created_at)

    @display(description="Expires (UTC)")
    def left(self, question: Interrupt) -> str:
        if not _waits(question) or question.expires_at is None:
            return moment(question.expires_at) or "never"
        return f"in {_span(question.expires_at - timezone.now())}"

    @display(description="Asked (UTC)")
    def asked(self, question: Interrupt) -> str:
        age = f", {_span(timezone.now() - question.created_at)} ago" if _waits(question) else ""
        return f"{moment(question.created_at)}{age}"

    @display(description="Status")
    def state(self, question: Interrupt) -> SafeString:
        text, colour = _state(question)
        if _waits(question) and question.decider == Decider.SOMEONE_ELSE and question.is_own:  # type: ignore[attr-defined]
            text, colour = _YOURS, "info"
        return SafeString(render_to_string("unfold/helpers/label.html", {"text": text, "type": colour}))

    @display(description="Who decides")
    def who_decides(self, question: Interrupt) -> str:
        if question.decider != Decider.SOMEONE_ELSE:
            return "who asked, or somebody here in their place"
        role = f", or a caller of the role {question.approver_role}" if question.approver_role else ""
        return f"never who asked: somebody here{role}"

    @display(description="Expires (UTC)")
    def expires(self, question: Interrupt) -> str:
        if question.expires_at is None:
            return "never"
        left = f", in {_span(question.expires_at - timezone.now())}" if _waits(question) else ""
        return f"{moment(question.expires_at)}{left}"

    @display(description="Tool")
    def tool(self, question: Interrupt) -> str:
        return str(question.detail.get("call", {}).get("name", ""))

    @display(description="Agent")
    def agent(self, question: Interrupt) -> str:
        return question.run.agent.name

    @display(description="Run")
    def run_link(self, question: Interrupt) -> SafeString:
        return link("admin:orchestration_run_change", question.run_id, identifier(question.run.public_id))

    @display(description="Thread")
    def thread_link(self, question: Interrupt) -> SafeString:
        return link("admin:orchestration_thread_change", question.thread_id, identifier(question.thread.public_id))

    @display(description="Carried out by the run")
    def carried_out(self, question: Interrupt) -> SafeString | str:
        run = question.carried_out_in
        return link("admin:orchestration_run_change", run.pk, identifier(run.public_id)) if run else "not yet"

    @display(description="Asked by")
    def asker(self, question: Interrupt) -> SafeString:
        found = asker_of(question)
        who = audit_link(f"actor:{found.id}", identifier(found.id))
        return format_html("{} {}", who, found.email) if found.email else who

    @display(description="Decided (UTC)")
    def decided(self, question: Interrupt) -> str:
        if question.decided_at is None:
            return ""
        return f"{moment(question.decided_at)}: {_state(question)[0]}, by {question.decided_by}"

    @display(description="Decided (UTC)")
    def decided_when(self, question: Interrupt) -> str:
        return moment(question.decided_at) if question.decided_at else ""

    @display(description="Reason given")
    def said(self, question: Interrupt) -> str:
        return str((question.decision or {}).get("reason", ""))

    @display(description="Arguments")
    def arguments(self, question: Interrupt) -> str:
        if not question.content_shown:  # type: ignore[attr-defined]
            return HIDDEN
        found = _arguments_of(question)
        return code_block(found) if isinstance(found, str) else json_block(found) or "none"

    @display(description="Edited arguments")
    def edited(self, question: Interrupt) -> str:
        found = (question.decision or {}).get("editedArgs")
        if found is None:
            return "-"
        return json_block(found) or "none" if question.content_shown else HIDDEN  # type: ignore[attr-defined]

    @display(description="Binding")
    def binding(self, question: Interrupt) -> SafeString | str:
        return (
            json_block(question.detail.get("binding")) or "nothing: it was asked by an earlier version of the service"
        )

    @display(description="Audit trail")
    def audit(self, question: Interrupt) -> SafeString:
        return audit_link(f"target:interrupt/{question.pk}", "All events of this question")


def _decided(request: HttpRequest, object_id: str, answer: Answer) -> HttpResponse:
    """Decide, or say why it cannot be; then the page again."""
    try:
        decide(object_id, answer, user=request.user, request_id=request_id(request))
        messages.success(request, "Decided. The thread goes on within some seconds.")
    except Problem as problem:
        messages.error(request, f"Nothing is decided. {problem.detail}")
    return to_page(reverse("admin:orchestration_interrupt_change", args=[object_id]))


def _may_decide(request: HttpRequest, object_id: str) -> bool:
    if not object_id:
        return bool(request.user.has_perm("orchestration.decide_interrupt"))
    question = _waiting_question(object_id)
    return question is not None and may_decide(question, request.user)


def _waiting_question(object_id: str) -> Interrupt | None:
    try:
        return with_asker(Interrupt.objects.filter(waiting(), pk=object_id)).first()
    except ValidationError:  # no identifier of ours
        return None


def _may_see_call(request: HttpRequest, question: Interrupt) -> bool:
    """Who may read conversations; and who is to decide, as long as that is: nobody can approve what they cannot see."""
    return may_read_content(request) or (_waits(question) and may_decide(question, request.user))


def _waits(question: Interrupt) -> bool:
    is_open = question.status == Interrupt.Status.OPEN and question.decided_at is None
    return is_open and (question.expires_at is None or question.expires_at > timezone.now())


def _state(question: Interrupt) -> tuple[str, str]:
    """Where it stands, and the colour of that."""
    if _waits(question):
        return "waits", "warning"
    decision = question.decision or {}
    if question.status == Interrupt.Status.EXPIRED or question.decided_at is None:
        return "expired", "default"
    if decision.get("approved"):
        return ("approved with changes" if "editedArgs" in decision else "approved"), "success"
    return ("withdrawn", "default") if decision.get("withdrawn") else ("denied", "danger")


def _kind(question: Interrupt) -> QuestionKind:
    return QuestionKind(question.detail.get("question", QuestionKind.REPEAT))


def _arguments_of(question: Interrupt) -> Any:
    """As a value where they are JSON, else as the text that the model wrote."""
    text = question.detail.get("call", {}).get("arguments", "")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _span(time: timedelta) -> str:
    minutes = max(0, int(time.total_seconds() // 60))
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // (24 * 60)} days"
