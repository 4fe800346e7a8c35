"""What `manage.py check` says about the console's actions and about the database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.conf import settings as project_settings
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.core.checks import run_checks
from django.db import connections
from pytest_django import Settings
from unfold.admin import ModelAdmin
from unfold.decorators import action


class WithoutPermissions(ModelAdmin):
    actions = ("on_the_list",)
    actions_list = ("above_the_list", {"title": "More", "items": ["in_a_menu"]})
    actions_row = ("on_a_row",)
    actions_detail = ("on_the_page",)
    actions_submit_line = ("when_saving",)

    @admin.action(description="On the list")
    def on_the_list(self, request: Any, queryset: Any) -> None: ...

    @action(description="Above the list")
    def above_the_list(self, request: Any) -> None: ...

    @action(description="In a menu")
    def in_a_menu(self, request: Any) -> None: ...

    @action(description="On a row")
    def on_a_row(self, request: Any, object_id: str) -> None: ...

    @action(description="On the page")
    def on_the_page(self, request: Any, object_id: str) -> None: ...

    @action(description="When saving")
    def when_saving(self, request: Any, obj: Any) -> None: ...


class WithPermissions(ModelAdmin):
    actions = ("on_the_list",)
    actions_detail = ("on_the_page",)

    @admin.action(permissions=["change"])
    def on_the_list(self, request: Any, queryset: Any) -> None: ...

    @action(permissions=["change"])
    def on_the_page(self, request: Any, object_id: str) -> None: ...


@pytest.fixture
def registered() -> Iterator[Any]:
    """Registers an admin class for a model that the console does not show."""

    def register(model_admin: type[admin.ModelAdmin]) -> None:
        admin.site.register(Permission, model_admin)

    yield register
    admin.site.unregister(Permission)


def errors() -> list[str]:
    return [message.msg for message in run_checks(tags=["admin"]) if message.id == "agentbackend.E001"]


@pytest.mark.parametrize(
    "name", ["on_the_list", "above_the_list", "in_a_menu", "on_a_row", "on_the_page", "when_saving"]
)
def test_an_action_that_names_no_permissions_is_an_error_wherever_it_is_offered(registered: Any, name: str) -> None:
    registered(WithoutPermissions)
    assert any(repr(name) in text for text in errors())


def test_actions_that_name_their_permissions_pass(registered: Any) -> None:
    registered(WithPermissions)
    assert errors() == []


def test_each_action_of_the_console_names_its_permissions() -> None:
    admin.autodiscover()
    assert errors() == []


def test_the_embedded_database_gives_no_warning() -> None:
    assert [message for message in run_checks(databases=["default"]) if message.id.startswith("agentbackend")] == []


def test_what_an_operator_should_know_about_the_database_is_a_warning(settings: Settings) -> None:
    settings.DATABASE_PLAN = replace(project_settings.DATABASE_PLAN, warnings=("sslmode=require checks nobody.",))
    assert [message.msg for message in run_checks() if message.id == "agentbackend.W001"] == [
        "sslmode=require checks nobody."
    ]


def test_a_service_that_owns_its_tables_is_warned_that_triggers_alone_guard_the_audit_trail() -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT current_user")
        (runtime,) = cursor.fetchone()
    owner = connections["owner"].settings_dict["USER"]
    as_runtime, connections["default"].settings_dict["USER"] = runtime, owner
    connections["default"].close()
    try:
        found = [message.id for message in run_checks(tags=["database"], databases=["default"])]
    finally:
        connections["default"].settings_dict["USER"] = as_runtime
        connections["default"].close()
    assert "agentbackend.W002" in found
