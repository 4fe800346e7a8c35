"""`manage.py create_audit_partitions`: make the months ahead."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand
from django.db import connections

from audit.partitions import MONTHS_AHEAD, create_partitions


class Command(BaseCommand):
    help = "Make the partitions of the audit tables for this month and the months ahead."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--months-ahead", type=int, default=MONTHS_AHEAD)
        parser.add_argument("--database", default="owner", help="alias of the tables' owner")

    def handle(self, *args: Any, **options: Any) -> None:
        created = create_partitions(connections[options["database"]], options["months_ahead"])
        self.stdout.write("\n".join(f"made {name}" for name in created) or "nothing to make")
