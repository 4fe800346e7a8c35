"""`manage.py seed_development`: what `make run` needs in the database before the service starts."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group, User
from django.core.management.base import BaseCommand
from django.db import connection, transaction

from agentbackend.console_groups import ensure_console_groups
from agentbackend.development import LOGINS, kept_values, make_passwords
from agentbackend.schema import migrate_now
from audit.actions import CONSOLE_ADDED
from audit.actor import SYSTEM
from audit.admin_recording import target_of
from audit.recording import record

_SEED_LOCK = 0x73656564  # any number, the same in all processes


class Command(BaseCommand):
    """Migrate, make the console's first logins, and say where everything is. May be repeated: what is there stays."""

    help = "Migrates, makes the console's first logins, and prints them with the service's addresses."

    def handle(self, *args: Any, **options: Any) -> None:
        migrate_now()
        kept = kept_values(embedded=settings.DATABASE_PLAN.embedded, data_dir=settings.AGENTBACKEND_DATA_DIR)
        passwords = make_passwords(kept)
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_SEED_LOCK])
            ensure_console_groups()
            for name, password in passwords.items():
                _ensure_login(name, password)
        self._print(passwords)

    def _print(self, passwords: dict[str, str]) -> None:
        address = f"http://localhost:{settings.PORT}"
        self.stdout.write(f"\n  playground  {address}/playground/")
        self.stdout.write(f"  console     {address}/admin/\n")
        for name, password in passwords.items():
            user = User.objects.get(username=name)
            shown = password if user.check_password(password) else f"(changed: manage.py changepassword {name})"
            self.stdout.write(f"    {name:<11} {shown}")
        self.stdout.write("  The logins are kept in .local/logins.txt.")
        if settings.MODEL_IS_DEMO:
            self.stdout.write("  The model is a scripted demo: OPENAI_API_KEY or OPENAI_BASE_URL sets a real one.")
        self.stdout.write("")


def _ensure_login(name: str, password: str) -> None:
    """A login with its group, unless somebody has made or changed one of this name already."""
    user, is_new = User.objects.get_or_create(
        username=name, defaults={"is_staff": True, "is_superuser": name == "admin"}
    )
    if is_new:
        user.set_password(password)
        user.save()
        user.groups.add(Group.objects.get(name=LOGINS[name]))
        record(
            CONSOLE_ADDED, actor=SYSTEM, target=target_of(user), reason="first_login", details={"group": LOGINS[name]}
        )
