"""`manage.py development_ca DIR`: certificates for trying out TLS with client certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from agentbackend.development_ca import DAYS, HOSTS, make_authority


class Command(BaseCommand):
    help = "Makes a certificate authority for development, a server's and a client's certificate. Not for production."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("folder", metavar="DIR", help="where the files go; none is replaced")
        parser.add_argument(
            "--host",
            action="append",
            default=[],
            help=f"a name or address that the server has beside {', '.join(HOSTS)}",
        )
        parser.add_argument("--days", type=int, default=DAYS, help=f"how long they are valid ({DAYS})")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            made = make_authority(Path(options["folder"]), hosts=options["host"], days=options["days"])
        except OSError as error:
            raise CommandError(f"{error.strerror}: {error.filename}") from error
        for file in made:
            self.stdout.write(str(file))
