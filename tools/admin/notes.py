"""Notes in the console: that they are there and whose they are. What stands in them belongs to their owners."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from audit.admin import BoundedPaginator
from tools.models import Note


@admin.register(Note)
class NoteAdmin(ModelAdmin):
    """The list of notes and the page of one, without the text."""

    list_display = ("title", "owner_id", "created_at", "updated_at")
    search_fields = ("owner_id__exact",)
    search_help_text = "An owner's id, whole"
    ordering = ("-id",)
    sortable_by = ()
    list_per_page = 50
    list_max_show_all = 0
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = BoundedPaginator
    actions = None
    fields = ("title", "owner_id", "tenant", "created_at", "updated_at")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Note]:
        """Without the text."""
        notes: QuerySet[Note] = super().get_queryset(request).defer("content")
        return notes

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """No conditions in the address: one on the text would tell what stands in it."""
        return False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
