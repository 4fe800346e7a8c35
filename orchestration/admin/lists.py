"""What the lists of runs, threads and turns share: read-only, counted only so far, searched by identifiers, within a time limit."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from django.contrib import admin, messages
from django.db import OperationalError, connection, transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.views import ChangeList

from audit.admin import BoundedPaginator

LIST_TIMEOUT_MS = 5_000


class TimedChangeList(ChangeList):
    """A page of a list, read within a time limit."""

    queryset: QuerySet[Any]

    def get_results(self, request: HttpRequest) -> None:
        """Read the page here, not while it is rendered: only here can a slow search be answered."""
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(f"SET LOCAL statement_timeout = {LIST_TIMEOUT_MS}")
                super().get_results(request)
                len(self.result_list)  # evaluates and keeps the page
        except OperationalError:
            messages.error(request, "This search takes too long. Search for one whole identifier, or narrow the time.")
            self.queryset = self.queryset.none()
            super().get_results(request)


class ReadOnlyAdmin(ModelAdmin):
    """A list and pages of rows that only the service writes."""

    identifiers: ClassVar[tuple[str, ...]] = ()  # text columns that a search compares with
    uuid_identifiers: ClassVar[tuple[str, ...]] = ("id",)
    search_fields = ("id",)  # makes the search box appear; what is searched says `get_search_results`
    ordering = ("-id",)
    sortable_by = ()
    list_per_page = 50
    list_max_show_all = 0
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = BoundedPaginator
    actions = None
    list_fullwidth = True

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[TimedChangeList]:
        return TimedChangeList

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Only the filters: a condition in the address on any other column would tell what that column holds."""
        return lookup in {entry.parameter_name for entry in self.list_filter}

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """A whole identifier, compared with each kind of identifier that the row has."""
        term = search_term.strip()
        if not term:
            return queryset, False
        found = Q(pk__in=[])
        for name in self.identifiers:
            found |= Q(**{name: term})
        if (identifier := _uuid_or_none(term)) is not None:
            for name in self.uuid_identifiers:
                found |= Q(**{name: identifier})
        return queryset.filter(found), False


def _uuid_or_none(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
