"""Bringing the functions in code into the registry: after each `migrate`, and as often as one likes.

What an administrator has changed stays. A field of the definition follows the code only while it still says
what the code said before; the schema of the arguments always follows, because the function must understand it.
Tools are never switched on again, and never removed: a function that is gone makes its tool unusable, which
its calls say.
"""

from __future__ import annotations

from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.migrations.executor import MigrationExecutor

from audit.actor import SYSTEM
from tools.governance.policies import seed_policies
from tools.governance.roles import ADMIN, USER
from tools.models import CallerRole, Tool
from tools.python_functions import PythonFunction, registered_functions
from tools.versions import Definition, publish_version

FOLLOWS_THE_CODE = frozenset({"input_schema", "output_schema", "handler_type", "handler", "side_effects"})
"""Fields that say what the function is, not how it is governed."""


def seed_tools(using: str = DEFAULT_DB_ALIAS) -> list[str]:
    """Make or update the registry's rows of all registered functions; returns the names of those that changed."""
    changed: list[str] = []
    with transaction.atomic(using=using):
        seed_roles(using)
        seed_policies(using)
        for function in registered_functions():
            if _seed(function, using):
                changed.append(function.name)
    return changed


def seed_after_migrate(*, using: str, **_: Any) -> None:
    """A fresh database has the tools after `migrate` alone; nothing is done to tables of another time."""
    executor = MigrationExecutor(connections[using])
    newest = executor.loader.graph.leaf_nodes("tools") + executor.loader.graph.leaf_nodes("audit")
    if not executor.migration_plan(newest):
        seed_tools(using)


def seed_roles(using: str = DEFAULT_DB_ALIAS) -> None:
    """Make the two roles that the rules themselves know."""
    for name, description in (
        (USER, "Any authenticated person: what the gateway's callers are when it names no other role."),
        (ADMIN, "Passes every required role, and alone may use what requires 'admin'."),
    ):
        CallerRole.objects.using(using).get_or_create(name=name, defaults={"description": description})


def _seed(function: PythonFunction, using: str) -> bool:
    in_code = definition_in_code(function)
    tool, is_new = Tool.objects.using(using).get_or_create(name=function.name)
    if tool.code_definition == in_code.as_dict():
        return False
    before = tool.current_version_id
    served = Definition.of(tool.current_version) if tool.current_version else None
    version = publish_version(
        tool, _merged(in_code, tool.code_definition, served), by=SYSTEM, note="From the code.", using=using
    )
    tool.code_definition = in_code.as_dict()
    tool.enabled = tool.enabled or is_new
    tool.save(using=using, update_fields=["code_definition", "enabled", "updated_at"])
    return version.pk != before


def definition_in_code(function: PythonFunction) -> Definition:
    """What a version says of a function, as the code has it."""
    return Definition(**function.definition.as_dict(), handler={"function": function.name})


def _merged(in_code: Definition, base: dict[str, Any] | None, served: Definition | None) -> Definition:
    """The code's definition with what an administrator has set since: what differs from `base` in `served`."""
    if base is None or served is None:
        return in_code
    merged = in_code.as_dict()
    for name, value in served.as_dict().items():
        if name not in FOLLOWS_THE_CODE and name in base and value != base[name]:
            merged[name] = value
    return Definition(**merged)
