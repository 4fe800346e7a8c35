"""Django's description of the composition root."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created


class AgentbackendConfig(AppConfig):
    """The composition root: it joins the rooms and holds what belongs to none of them."""

    name = "agentbackend"
    verbose_name = "Service"

    def ready(self) -> None:
        """Set the search path and the role on each of the ORM's connections (poolers drop such start-up parameters)."""
        connection_created.connect(_begin_session, dispatch_uid="agentbackend.begin_session")


def _begin_session(connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
    statements = settings.DATABASE_PLAN.session_statements
    with connection.cursor() as cursor:
        for statement in statements if connection.alias == "default" else statements[:1]:
            cursor.execute(statement)
