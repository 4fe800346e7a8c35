"""`manage.py serve`: the service on one port, with everything that Daphne has no lifespan for."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import Tags
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS

from agentbackend.foundation.outbound import OutboundPolicyError
from agentbackend.gateway.authentication import GatewaySettingsError
from agentbackend.schema import migrate_now


class Command(BaseCommand):
    """Start the service; SIGTERM and SIGINT drain it, a second one ends it at once."""

    help = "Runs the service under Daphne: migrations, pools, writer and runs, until SIGTERM."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=settings.BIND_ADDRESS, help="address to listen on (BIND_ADDRESS)")
        parser.add_argument("--port", type=int, default=settings.PORT, help="port to listen on (PORT)")

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.CONFIGURATION_PROBLEMS:
            raise CommandError("The service does not start:\n  " + "\n  ".join(settings.CONFIGURATION_PROBLEMS))
        self.check()
        if settings.MIGRATE_ON_START:
            migrate_now()
        self.check(tags=[Tags.database], databases=[DEFAULT_DB_ALIAS])
        try:
            from agentbackend.serving import ListenError, Serving, TlsFilesError  # noqa: PLC0415 - chooses the event loop, starts the rooms
        except (OutboundPolicyError, GatewaySettingsError) as error:  # the rooms read these settings when they are made
            raise CommandError(f"The service does not start:\n  {error}") from error
        try:
            Serving(options["host"], options["port"]).run()
        except TlsFilesError as error:
            raise CommandError(f"The service does not start:\n  {error}") from error
        except ListenError as error:
            raise CommandError(f"PORT: cannot listen on {options['host']}:{options['port']}: {error}") from error
