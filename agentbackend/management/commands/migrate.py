"""`manage.py migrate`: Django's, as the owner of the tables, with the schema and the roles made first."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser
from django.core.management.commands.migrate import Command as MigrateCommand
from django.db import connections

from agentbackend.schema import OWNER_ALIAS, complete_rights, migration_lock, prepare_schema
from audit.partitions import create_partitions


class Command(MigrateCommand):
    """Migrates as the owner; replicas that do it at once wait for each other."""

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.set_defaults(database=OWNER_ALIAS)

    def handle(self, *args: Any, **options: Any) -> None:
        connection = connections[options["database"]]
        if options["plan"] or options["check_unapplied"]:  # these only look
            super().handle(*args, **options)
            return
        with migration_lock(connection):
            prepare_schema(connection)
            super().handle(*args, **options)
            complete_rights(connection)
            if "audit_events" in connection.introspection.table_names():
                create_partitions(connection)
