"""`manage.py rotate_credentials`: seal stored credentials again under the first key of VAULT_KEYS."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from audit.actor import SYSTEM
from tools.stored_credentials import rotate_credentials
from tools.vault import VaultError, active_kid


class Command(BaseCommand):
    help = "Seal all stored credentials again under the first key of VAULT_KEYS; can be interrupted and repeated."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only say what would be done")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            done = rotate_credentials(by=SYSTEM, dry_run=options["dry_run"])
        except VaultError as error:
            raise CommandError(str(error)) from error
        verb = "would be sealed" if options["dry_run"] else "is sealed"
        for name in done.resealed:
            self.stdout.write(f"{name} {verb} under {active_kid()}")
        if done.unreadable:
            raise CommandError(f"These cannot be opened with any key of VAULT_KEYS: {', '.join(done.unreadable)}.")
        if not done.resealed:
            self.stdout.write(f"everything is sealed under {active_kid()} already")
