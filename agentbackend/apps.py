"""Django's description of the composition root."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import Tags, register
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.models.signals import post_migrate
from django.utils.module_loading import import_string

from agentbackend import checks


class AgentbackendConfig(AppConfig):
    """The composition root: it joins the rooms and holds what belongs to none of them."""

    name = "agentbackend"
    verbose_name = "Service"

    def ready(self) -> None:
        """Set the search path and the role on each of the ORM's connections (poolers drop such start-up parameters).

        After each `migrate` the console's groups get the permissions that the migrations brought.
        """
        connection_created.connect(_begin_session, dispatch_uid="agentbackend.begin_session")
        # by name: it needs the models, which this module is too early for
        ensure_groups = import_string("agentbackend.console_groups.ensure_after_migrate")
        post_migrate.connect(ensure_groups, sender=self, dispatch_uid="agentbackend.console_groups")
        register(checks.check_actions_name_permissions, Tags.admin)
        register(checks.check_database_settings, Tags.compatibility)
        register(checks.check_runtime_role, Tags.database)


def _begin_session(connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
    statements = settings.DATABASE_PLAN.session_statements
    with connection.cursor() as cursor:
        for statement in statements if connection.alias == "default" else statements[:1]:
            cursor.execute(statement)
