"""The filters of the list of tools, each named for the question that it answers."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Func, QuerySet
from django.http import HttpRequest

from tools.calls import SideEffects
from tools.models import HandlerType, Tool

MOST_CHOICES = 100
ANY_ROLE = "*"


class EnabledFilter(admin.SimpleListFilter):
    """Is it on?"""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("on", "on"), ("off", "off")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Tool]) -> QuerySet[Tool]:
        return queryset.filter(enabled=self.value() == "on") if self.value() in ("on", "off") else queryset


class HandlerTypeFilter(admin.SimpleListFilter):
    """What carries out its calls?"""

    title = "type"
    parameter_name = "type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return list(HandlerType.choices)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Tool]) -> QuerySet[Tool]:
        return queryset.filter(current_version__handler_type=self.value()) if self.value() else queryset


class RoleFilter(admin.SimpleListFilter):
    """Which role does it require?"""

    title = "required role"
    parameter_name = "role"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        served = Tool.objects.filter(current_version__isnull=False)
        roles = served.order_by("current_version__required_role").values_list(
            "current_version__required_role", flat=True
        )
        return [(role or ANY_ROLE, role or "any") for role in roles.distinct()[:MOST_CHOICES]]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Tool]) -> QuerySet[Tool]:
        value = self.value()
        if not value:
            return queryset
        return queryset.filter(current_version__required_role="" if value == ANY_ROLE else value)


class TagFilter(admin.SimpleListFilter):
    """Which tag does it carry?"""

    title = "tag"
    parameter_name = "tag"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        tags = Tool.objects.annotate(tag=Func("tags", function="unnest")).order_by("tag").values_list("tag", flat=True)
        return [(tag, tag) for tag in tags.distinct()[:MOST_CHOICES]]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Tool]) -> QuerySet[Tool]:
        tag = self.value()
        if tag and "\0" in tag:
            return queryset.none()
        return queryset.filter(tags__contains=[tag]) if tag else queryset


class SideEffectsFilter(admin.SimpleListFilter):
    """What does an interrupted call mean?"""

    title = "side effects"
    parameter_name = "side_effects"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(kind.value, kind.value) for kind in SideEffects]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Tool]) -> QuerySet[Tool]:
        return queryset.filter(current_version__side_effects=self.value()) if self.value() else queryset
