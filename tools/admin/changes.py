"""Proposed changes in the console: what each would change, and the decision of a second person.

Deciding is done by `tools.changes`, which checks everything again; here it is only asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import Case, IntegerField, QuerySet, Value, When
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.forms import BaseDialogForm
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from audit.admin import BoundedPaginator, PeriodFilter, linked
from audit.console_actor import request_actor
from tools.admin.documents import to_page
from tools.admin.people import usernames
from tools.admin.tool_pages import audit_link, badge
from tools.changes import NotYoursError, approve, changes_of, is_outdated, refuse, withdraw
from tools.documents import registered_kinds
from tools.models import ChangeRequest
from tools.shown_changes import shown_changes

Status = ChangeRequest.Status

DECIDE: Final = "tools.decide_changerequest"
_FIELDS_NAMED: Final = 3
_LABELS = {
    Status.PENDING: ("waits", "warning"),
    Status.APPROVED: ("approved", "success"),
    Status.REFUSED: ("refused", "danger"),
    Status.WITHDRAWN: ("withdrawn", "default"),
    Status.OUTDATED: ("outdated", "info"),
}


class ChangeStatusFilter(admin.SimpleListFilter):
    """Where does it stand?"""

    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(status.value, _LABELS[status][0]) for status in Status]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ChangeRequest]) -> QuerySet[ChangeRequest]:
        return queryset.filter(status=self.value()) if self.value() in Status.values else queryset


class KindFilter(admin.SimpleListFilter):
    """What would change?"""

    title = "kind"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(kind.name, kind.name) for kind in registered_kinds()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ChangeRequest]) -> QuerySet[ChangeRequest]:
        return queryset.filter(kind=self.value()) if self.value() else queryset


class ApprovalForm(BaseDialogForm):
    """May say why."""

    reason = forms.CharField(required=False, max_length=500, label="Remark", widget=UnfoldAdminTextInputWidget)


class RefusalForm(BaseDialogForm):
    """Says why not."""

    reason = forms.CharField(
        max_length=500,
        label="Why not",
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text="Who proposed it reads this.",
    )


@admin.register(ChangeRequest)
class ChangeRequestAdmin(ModelAdmin):
    """The list of proposals, those that wait first, and the page of one, where it is decided."""

    list_display = ("subject", "state", "what", "proposed", "reason", "decided")
    list_filter = (ChangeStatusFilter, KindFilter, PeriodFilter)
    search_fields = ("name", "reason")
    sortable_by = ()
    list_per_page = 50
    list_max_show_all = 0
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = BoundedPaginator
    list_fullwidth = True
    actions = None
    actions_detail = ("approve", "refuse", "withdraw")
    fieldsets = (
        (None, {"fields": (("subject", "state"), ("proposed", "reason"), ("decided", "decision_reason"), "audit")}),
        ("What changes", {"fields": ("difference",)}),
    )
    readonly_fields = ("subject", "state", "proposed", "decided", "difference", "audit")

    def get_ordering(self, request: HttpRequest) -> list[Any]:
        """What waits first, then the newest."""
        waits_first = Case(When(status=Status.PENDING, then=Value(0)), default=Value(1), output_field=IntegerField())
        return [waits_first.asc(), "-id"]

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """With the names of those who proposed and decided, found once for the whole page."""
        page = super().get_changelist_instance(request)
        names = _names_in(page.result_list)
        for proposal in page.result_list:
            proposal.names = names
        return page

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        proposal: Any = super().get_object(request, object_id, from_field)
        if proposal is not None:
            proposal.names = _names_in([proposal])
        return proposal

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Nothing but the filters: a condition on a spec would tell what the page leaves out."""
        return lookup in ("status", "kind", "period")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    # --- deciding

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """While there is something to decide. A button of a page that is older says what came of it."""
        return list(super().get_actions_detail(request, object_id)) if _is_pending(object_id) else []

    def has_approve_permission(self, request: HttpRequest, object_id: str = "") -> bool:
        """Who may decide, of what somebody else proposed."""
        return _may_decide(request, object_id)

    def has_refuse_permission(self, request: HttpRequest, object_id: str = "") -> bool:
        """The same."""
        return _may_decide(request, object_id)

    def has_withdraw_permission(self, request: HttpRequest, object_id: str = "") -> bool:
        """Who proposed it."""
        return _proposer(object_id) == request_actor(request).id

    @action(
        description="Approve",
        permissions=["approve"],
        url_path="approve",
        icon="check",
        variant=ActionVariant.SUCCESS,
        dialog={
            "title": "Approve this change?",
            "description": "It counts at once, in your name and that of who proposed it.",
            "form_class": ApprovalForm,
            "form_submit_text": "Approve",
        },
    )
    def approve(self, request: HttpRequest, form: ApprovalForm, object_id: str) -> HttpResponse:
        def decide(proposal: ChangeRequest) -> None:
            if approve(proposal, by=request_actor(request), reason=form.cleaned_data["reason"]):
                messages.success(request, f"Approved: the change of {proposal.name} is live.")
            else:
                messages.warning(request, _outdated_text(proposal))

        return self._decide(request, object_id, decide)

    @action(
        description="Refuse",
        permissions=["refuse"],
        url_path="refuse",
        icon="close",
        variant=ActionVariant.DANGER,
        dialog={
            "title": "Refuse this change?",
            "description": "Everything stays as it is.",
            "form_class": RefusalForm,
            "form_submit_text": "Refuse",
        },
    )
    def refuse(self, request: HttpRequest, form: RefusalForm, object_id: str) -> HttpResponse:
        def decide(proposal: ChangeRequest) -> None:
            refuse(proposal, by=request_actor(request), reason=form.cleaned_data["reason"])
            messages.success(request, f"Refused: {proposal.name} stays as it is.")

        return self._decide(request, object_id, decide)

    @action(
        description="Withdraw",
        permissions=["withdraw"],
        url_path="withdraw",
        icon="undo",
        dialog={
            "title": "Withdraw your proposal?",
            "description": "Everything stays as it is. You can propose it again.",
            "form_class": BaseDialogForm,
            "form_submit_text": "Withdraw",
        },
    )
    def withdraw(self, request: HttpRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        def decide(proposal: ChangeRequest) -> None:
            withdraw(proposal, by=request_actor(request))
            messages.success(request, f"Withdrawn: {proposal.name} stays as it is.")

        return self._decide(request, object_id, decide)

    def _decide(self, request: HttpRequest, object_id: str, decide: Callable[[ChangeRequest], None]) -> HttpResponse:
        """Carry it out, or say why it cannot be; then the page again."""
        proposal = get_object_or_404(ChangeRequest, pk=object_id)
        try:
            decide(proposal)
        except NotYoursError as error:
            messages.error(request, str(error))
        except ValidationError as error:
            messages.error(request, f"Nothing is decided. {' '.join(error.messages)}")
        return to_page(reverse("admin:tools_changerequest_change", args=[object_id]))

    # --- showing

    @display(description="Change of")
    def subject(self, proposal: ChangeRequest) -> str:
        return str(proposal)

    @display(description="Status")
    def state(self, proposal: ChangeRequest) -> SafeString:
        text, colour = _LABELS[Status(proposal.status)]
        return badge(text, colour)

    @display(description="What")
    def what(self, proposal: ChangeRequest) -> str:
        if proposal.before is None:
            return "new"
        if proposal.after is None:
            return "remove"
        names = list(changes_of(proposal))
        more = f" and {len(names) - _FIELDS_NAMED} more" if len(names) > _FIELDS_NAMED else ""
        return ", ".join(names[:_FIELDS_NAMED]) + more

    @display(description="Proposed (UTC)")
    def proposed(self, proposal: ChangeRequest) -> SafeString:
        return _by(proposal.proposed_at, proposal.proposed_by, proposal.names)  # type: ignore[attr-defined]

    @display(description="Decided (UTC)")
    def decided(self, proposal: ChangeRequest) -> SafeString | str:
        if proposal.decided_at is None:
            return "-"
        return _by(proposal.decided_at, proposal.decided_by, proposal.names)  # type: ignore[attr-defined]

    @display(description="Difference")
    def difference(self, proposal: ChangeRequest) -> SafeString:
        context = {
            "before": proposal.before,
            "after": proposal.after,
            "changes": shown_changes(proposal.before, proposal.after),
            "outdated": proposal.status == Status.PENDING and is_outdated(proposal),
        }
        return SafeString(render_to_string("admin/tools/changes/difference.html", context))

    @display(description="Audit trail")
    def audit(self, proposal: ChangeRequest) -> str:
        return audit_link(f"target:change/{proposal.pk}", "All events of this proposal")


def _may_decide(request: HttpRequest, object_id: str) -> bool:
    return bool(request.user.has_perm(DECIDE)) and _proposer(object_id) not in ("", request_actor(request).id)


def _proposer(object_id: str) -> str:
    """Who proposed it; empty when there is no such proposal."""
    try:
        found = ChangeRequest.objects.filter(pk=UUID(str(object_id)))
    except ValueError:
        return ""
    return found.values_list("proposed_by", flat=True).first() or ""


def _names_in(proposals: Iterable[ChangeRequest]) -> dict[str, str]:
    """Of those who proposed and decided."""
    return usernames(actor for proposal in proposals for actor in (proposal.proposed_by, proposal.decided_by))


def _by(at: datetime, actor_id: str, names: Mapping[str, str]) -> SafeString:
    prefix, _, key = actor_id.partition(":")
    kind, identifier = ("auth.user", key) if prefix == "console" else ("user", actor_id)
    person = linked(kind, identifier, names.get(actor_id, actor_id), "actor")
    return format_html("{} by {}", f"{at.astimezone(UTC):%Y-%m-%d %H:%M}", person)


def _outdated_text(proposal: ChangeRequest) -> str:
    return (
        f"Nothing is written: {proposal.name} has changed since this was proposed. The proposal is marked as outdated; "
        "who still wants it proposes it again."
    )


def _is_pending(object_id: Any) -> bool:
    try:
        return ChangeRequest.objects.filter(pk=object_id, status=Status.PENDING).exists()
    except ValidationError:  # no identifier of ours
        return False
