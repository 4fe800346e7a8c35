"""System checks of the whole: the console's actions name their permissions, and the database is one that guards the audit trail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.contrib import admin
from django.core.checks import CheckMessage, Error, Warning
from django.db import DEFAULT_DB_ALIAS, OperationalError, connections

from agentbackend.databases import RUNTIME_ROLE, SCHEMA

# Django gives "delete selected" its permission itself.
_UNFOLD_ACTIONS = ("actions_list", "actions_row", "actions_detail", "actions_submit_line")


def check_actions_name_permissions(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """Without permissions an action is for everybody who sees the list."""
    return [
        Error(
            f"The console action {name!r} names no permissions: whoever may see the page could run it.",
            hint="@action(permissions=[...])",
            obj=type(model_admin),
            id="agentbackend.E001",
        )
        for model_admin in admin.site._registry.values()
        for name, function in _actions(model_admin)
        if not getattr(function, "allowed_permissions", None)
    ]


def _actions(model_admin: admin.ModelAdmin[Any]) -> Iterator[tuple[str, Any]]:
    """Django's actions of a list, and those that Unfold puts on lists, rows and pages."""
    for entry in model_admin.actions or ():
        found = model_admin.get_action(entry)
        if found is not None:
            yield found[1], found[0]
    for attribute in _UNFOLD_ACTIONS:
        for name in _names(getattr(model_admin, attribute, ())):
            yield name, getattr(model_admin, name, None)


def _names(entries: Sequence[Any]) -> Iterator[str]:
    """Names of methods; Unfold groups some under a title: `{"title": ..., "items": [...]}`."""
    for entry in entries:
        if isinstance(entry, dict):
            yield from _names(entry.get("items", ()))
        else:
            yield str(entry)


def check_database_settings(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """What an operator should know about the database's address."""
    return [Warning(text, id="agentbackend.W001") for text in settings.DATABASE_PLAN.warnings]


def check_runtime_role(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **_: Any
) -> list[CheckMessage]:
    """Asked by `serve`, and with `check --database default`: whether the service runs as the owner of its tables."""
    if DEFAULT_DB_ALIAS not in (databases or ()) or not _owns_tables():
        return []
    return [
        Warning(
            "The service's database role owns its tables: the audit trail is then guarded by triggers only.",
            hint=f"Let the login make the role {RUNTIME_ROLE}, or give migrations a login of their own with DATABASE_OWNER_URL.",
            id="agentbackend.W002",
        )
    ]


def _owns_tables() -> bool:
    """Whether the runtime's role has the rights of the tables' owner; False when the database cannot be asked."""
    try:
        with connections[DEFAULT_DB_ALIAS].cursor() as cursor:
            cursor.execute(
                "SELECT EXISTS (SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = %s "
                "AND relkind IN ('r', 'p') AND pg_has_role(current_user, relowner, 'USAGE'))",
                [SCHEMA],
            )
            row = cursor.fetchone()
    except OperationalError:
        return False
    return row is not None and bool(row[0])
