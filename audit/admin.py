"""The audit trail in the console: found, read, never changed; and reading it is recorded, too."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar, cast

import orjson
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.utils import quote
from django.core.paginator import Paginator
from django.db import OperationalError, connection, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import display
from unfold.views import ChangeList

from agentbackend.foundation.identifiers import uuid7_floor
from audit import actions
from audit.admin_recording import record_console
from audit.entry import Outcome, Target, envelope_time
from audit.models import AuditEvent, AuditPayload
from audit.search import SearchError, condition

MAX_ROWS_PAGED = 10_000
LIST_TIMEOUT_MS = 5_000
ENVELOPE_UNREADABLE = "ENVELOPE UNREADABLE"
COLUMNS_DIFFER = "COLUMNS DO NOT MATCH THE ENVELOPE"
PAYLOAD_DIFFERS = "PAYLOAD DOES NOT MATCH ITS COMMITMENT"
_ALARMING = frozenset({ENVELOPE_UNREADABLE, COLUMNS_DIFFER, PAYLOAD_DIFFERS})
_OUTCOME_LABELS = {
    Outcome.SUCCESS.value: "success",
    Outcome.DENIED.value: "warning",
    Outcome.FAILURE.value: "danger",
}


class OutcomeFilter(admin.SimpleListFilter):
    """How did it end?"""

    title = "outcome"
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(outcome.value, outcome.value) for outcome in Outcome]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        return queryset.filter(outcome=self.value()) if self.value() else queryset


class ActionFilter(admin.SimpleListFilter):
    """What happened?"""

    title = "action"
    parameter_name = "action"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(action, action) for action in actions.ALL]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        return queryset.filter(action=self.value()) if self.value() else queryset


class PeriodFilter(admin.SimpleListFilter):
    """How long ago?"""

    title = "time"
    parameter_name = "period"
    periods: ClassVar = {
        "1h": ("last hour", timedelta(hours=1)),
        "24h": ("last 24 hours", timedelta(hours=24)),
        "7d": ("last 7 days", timedelta(days=7)),
        "30d": ("last 30 days", timedelta(days=30)),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(key, label) for key, (label, _) in self.periods.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        value = self.value()
        if value not in self.periods:
            return queryset
        _, length = self.periods[value]
        return queryset.filter(id__gte=uuid7_floor(timezone.now() - length))


class BoundedPaginator(Paginator):
    """Counts no further than what can be paged through: counting millions of rows takes longer than reading
    fifty.
    """

    @cached_property
    def counted(self) -> int:
        """How many rows there are, or one more than MAX_ROWS_PAGED."""
        events = cast("QuerySet[AuditEvent]", self.object_list)
        return events[: MAX_ROWS_PAGED + 1].count()

    @property
    def count(self) -> int:
        """How many rows can be paged through."""
        return min(self.counted, MAX_ROWS_PAGED)

    @property
    def truncated(self) -> bool:
        """Whether there are more rows than that."""
        return self.counted > MAX_ROWS_PAGED


class AuditChangeList(ChangeList):
    """A page of events, read within a time limit."""

    queryset: QuerySet[AuditEvent]

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[AuditEvent]:
        """The events of this list, without the bytes that it does not show."""
        events: QuerySet[AuditEvent] = super().get_queryset(request, exclude_parameters)
        return events.defer("envelope")

    def get_results(self, request: HttpRequest) -> None:
        """Read the page here, not while it is rendered: only here can a slow search be answered."""
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(f"SET LOCAL statement_timeout = {LIST_TIMEOUT_MS}")
                super().get_results(request)
                len(self.result_list)  # evaluates and keeps the page
        except OperationalError:
            messages.error(request, "This search takes too long. Narrow it: after:, before:, action:, actor:, run:.")
            self.queryset = self.queryset.none()
            super().get_results(request)
            return
        self._offer_older(request)

    def _offer_older(self, request: HttpRequest) -> None:
        last_page = self.page_num * self.list_per_page >= MAX_ROWS_PAGED
        if not (self.paginator.truncated and last_page and self.result_list):
            return
        query = " ".join(term for term in self.query.split() if not term.startswith("before:"))
        oldest = self.result_list[len(self.result_list) - 1].pk
        parameters = {**self.get_filters_params(), "q": f"{query} before:{oldest}".strip()}
        messages.info(
            request, format_html('<a href="?{}">Continue with older events</a>', urlencode(parameters, doseq=True))
        )


@admin.register(AuditEvent)
class AuditEventAdmin(ModelAdmin):
    """The list of events and the page of one."""

    list_display = ("time", "actor", "action", "target", "labelled_outcome", "reason", "run")
    list_filter = (PeriodFilter, OutcomeFilter, ActionFilter)
    search_fields = ("id",)  # makes the search box appear; what is searched says `audit.search`
    list_before_template = "audit/search_help.html"
    ordering = ("-id",)
    sortable_by = ()
    list_per_page = 50
    list_max_show_all = 0
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = BoundedPaginator
    actions = None
    fieldsets = (
        (None, {"fields": ("time", "action", "labelled_outcome", "reason", "actor", "target", "run")}),
        ("Details", {"fields": ("integrity", "payload_text")}),
        ("Envelope", {"fields": ("envelope_text",)}),
    )
    readonly_fields = (
        "time", "action", "labelled_outcome", "reason", "actor", "target", "run", "integrity", "payload_text",
        "envelope_text",
    )  # fmt: skip

    # --- nothing is changed here

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: AuditEvent | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: AuditEvent | None = None) -> bool:
        return False

    # --- finding

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[AuditChangeList]:
        return AuditChangeList

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Only the filters above: any other column in the address would be a search without an index."""
        return lookup in {PeriodFilter.parameter_name, OutcomeFilter.parameter_name, ActionFilter.parameter_name}

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[AuditEvent], search_term: str
    ) -> tuple[QuerySet[AuditEvent], bool]:
        try:
            found = queryset.filter(condition(search_term))
            if search_term and not found.exists():
                messages.info(
                    request, "Nothing was found. Identifiers, actions and reasons are searched, whole; texts are not."
                )
            return found, False
        except SearchError as error:
            messages.error(request, str(error))
            return queryset.none(), False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list. A search is recorded before it is answered."""
        if request.GET and self.has_view_permission(request):
            with transaction.atomic():
                record_console(
                    request,
                    actions.CONSOLE_VIEWED,
                    target=Target("audit.auditevent", ""),
                    details={"search": request.GET.dict()},
                )
        response: HttpResponse = super().changelist_view(request, extra_context)
        return response

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The page of one event. That it was read, and whether with its payload, is recorded."""
        response: HttpResponse = super().change_view(request, object_id, form_url, extra_context)
        if response.status_code == 200:
            reason = "with_payload" if _may_see_payload(request) else "without_payload"
            with transaction.atomic():
                record_console(
                    request, actions.CONSOLE_VIEWED, target=Target("audit.auditevent", object_id), reason=reason
                )
        return response

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> AuditEvent | None:
        event: AuditEvent | None = super().get_object(request, object_id, from_field)
        if event is not None:
            event.payload_shown = _may_see_payload(request)  # type: ignore[attr-defined]
            event.kept_payload = AuditPayload.objects.filter(pk=event.pk).first()  # type: ignore[attr-defined]
        return event

    # --- showing

    @display(description="Time (UTC)")
    def time(self, event: AuditEvent) -> str:
        return f"{event.recorded_at:%Y-%m-%d %H:%M:%S}.{event.recorded_at.microsecond // 1000:03d}"

    @display(description="Actor")
    def actor(self, event: AuditEvent) -> str:
        return linked(*_console_target(event.actor_id), event.actor_id, "actor")

    @display(description="Target")
    def target(self, event: AuditEvent) -> str:
        if not event.target_kind:
            return ""
        text = f"{event.target_kind} {event.target_id}".strip()
        return linked(event.target_kind, event.target_id, text, "target")

    @display(description="Outcome", label=_OUTCOME_LABELS)
    def labelled_outcome(self, event: AuditEvent) -> str:
        return event.outcome

    @display(description="Run")
    def run(self, event: AuditEvent) -> str:
        return linked("run", str(event.run_id), str(event.run_id), "run") if event.run_id else ""

    @display(description="Integrity")
    def integrity(self, event: AuditEvent) -> SafeString:
        said = integrity(event, event.kept_payload)  # type: ignore[attr-defined]
        colours = "bg-red-100 text-red-700" if said in _ALARMING else "bg-green-100 text-green-700"
        return format_html('<span class="{} rounded-default px-2 py-1 font-semibold">{}</span>', colours, said)

    @display(description="Payload")
    def payload_text(self, event: AuditEvent) -> str:
        payload: AuditPayload | None = event.kept_payload  # type: ignore[attr-defined]
        if payload is None:
            return "none"
        if not event.payload_shown:  # type: ignore[attr-defined]
            return "hidden: your account may not see payloads"
        return pretty(bytes(payload.body))

    @display(description="Envelope")
    def envelope_text(self, event: AuditEvent) -> SafeString:
        return pretty(bytes(event.envelope))


def integrity(event: AuditEvent, payload: AuditPayload | None) -> str:
    """What can be said of one event by itself: does the payload match, do the columns repeat the envelope?"""
    try:
        fields = event.fields()
    except orjson.JSONDecodeError:
        return ENVELOPE_UNREADABLE
    if any(fields.get(name) != value for name, value in _repeated(event).items()):
        return COLUMNS_DIFFER
    if payload is None:
        return "payload deleted" if fields["commitment"] else "no payload"
    return "payload matches its commitment" if payload.unpacked().matches(fields["commitment"]) else PAYLOAD_DIFFERS


def _repeated(event: AuditEvent) -> dict[str, str]:
    """The columns, as the envelope writes them."""
    columns = {name: str(getattr(event, name) or "") for name in _REPEATED_COLUMNS}
    return {**columns, "time": envelope_time(event.recorded_at)}


_REPEATED_COLUMNS = (
    "id", "tenant", "actor_id", "subject_id", "action", "target_kind", "target_id", "outcome", "reason", "run_id",
    "thread_id", "request_id",
)  # fmt: skip


def pretty(document: bytes) -> SafeString:
    """A JSON document for reading; what is none is shown as it is."""
    try:
        text = orjson.dumps(orjson.loads(document), option=orjson.OPT_INDENT_2).decode()
    except orjson.JSONDecodeError:
        text = repr(document)
    return format_html('<pre class="console-code">{}</pre>', text)


def linked(kind: str, identifier: str, text: str, field: str = "") -> str:
    """The text, as a link to the page that AUDIT_LINKS knows for this kind of thing, or to a search by `field`."""
    url_name = getattr(settings, "AUDIT_LINKS", {}).get(kind)
    address = _address(url_name, identifier) if url_name and identifier else ""
    if not address and field and identifier:
        address = f"{reverse('admin:audit_auditevent_changelist')}?{urlencode({'q': f'{field}:{identifier}'})}"
    if not address:
        return text
    return format_html('<a class="console-link console-id" title="{1}" href="{0}">{1}</a>', address, text)


def _address(url_name: str, identifier: str) -> str:
    try:
        return reverse(url_name, args=[quote(identifier)])  # the admin reads `_40` in an address as `@`
    except NoReverseMatch:
        return ""


def _console_target(actor_id: str) -> tuple[str, str]:
    """A console user as what AUDIT_LINKS may link to (`auth.user`); other actors are no rows of ours."""
    prefix, colon, key = actor_id.partition(":")
    return ("auth.user", key) if colon and prefix == "console" else ("user", actor_id)


def _may_see_payload(request: HttpRequest) -> bool:
    return request.user.has_perm("audit.view_auditpayload")
