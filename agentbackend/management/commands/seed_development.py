"""`manage.py seed_development`: what `make run` needs in the database before the service starts."""

from __future__ import annotations

from typing import Any, Final

from django.conf import settings
from django.contrib.auth.models import Group, User
from django.core.management.base import BaseCommand
from django.db import connection, transaction

from a2a.contract import FoundCard, SignatureCheck
from a2a.discovery import take_over
from a2a.models import RemoteAgent
from a2a.remote_cards import digest_of
from agentbackend.console_groups import ensure_console_groups
from agentbackend.development import LOGINS, kept_values, make_passwords
from agentbackend.schema import migrate_now
from audit.actions import AGENT_CHANGED, CONSOLE_ADDED
from audit.actor import SYSTEM
from audit.admin_recording import target_of
from audit.models import AuditEvent
from audit.recording import record
from mock_a2a_server.card import CARD_PATH, card
from orchestration.models import Agent
from tools.calls import SideEffects
from tools.changes import submit
from tools.documents import Document, kind_named

SAMPLE_AGENT: Final = "sample"
_SEED_LOCK = 0x73656564  # any number, the same in all processes


class Command(BaseCommand):
    """Migrate, make the console's first logins, register the sample agent, and say where everything is.

    May be repeated: what is there stays.
    """

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
        _ensure_sample_agent()
        _expose_default_agent()
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
        self.stdout.write(
            f"  The sample agent is at http://localhost:{settings.A2A_MOCK_PORT}: ask the sample agent about tea."
        )
        if settings.MODEL_IS_DEMO:
            self.stdout.write("  The model is a scripted demo: OPENAI_API_KEY or OPENAI_BASE_URL sets a real one.")
        self.stdout.write("")


def _ensure_sample_agent() -> None:
    """The agent that `make run` starts, registered as `sample`, its card accepted, and switched on; it follows A2A_MOCK_PORT."""
    url = f"http://127.0.0.1:{settings.A2A_MOCK_PORT}"
    described = card(url)
    known = kind_named("RemoteAgent").read(SAMPLE_AGENT)
    if known is not None and known["card_url"] == url + CARD_PATH and known["accepted_digest"]:
        return
    if known is not None and not known["card_url"].startswith("http://127.0.0.1:"):
        return  # somebody has made it another agent
    spec = {
        **(known or {"enabled": True, "side_effects": SideEffects.IDEMPOTENT.value, "title": "Sample agent"}),
        "card_url": url + CARD_PATH,
        "accepted_digest": digest_of(described),
    }
    if submit(Document("RemoteAgent", SAMPLE_AGENT, spec), by=SYSTEM, reason="The sample agent of make run.") is None:
        agent = RemoteAgent.objects.get(name=SAMPLE_AGENT)
        take_over(agent.pk, FoundCard(described, SignatureCheck("unsigned")), by=SYSTEM)


def _expose_default_agent() -> None:
    """The agent that is seeded is exposed over A2A, unless somebody has changed it: then that person decides."""
    agent = Agent.objects.filter(is_default=True, exposed_over_a2a=False).first()
    if agent is None or "agents" in settings.FOUR_EYES:
        return
    if AuditEvent.objects.filter(action=AGENT_CHANGED, target_id=str(agent.pk)).exists():
        return
    spec = kind_named("Agent").read(agent.slug) or {}
    reason = "The default agent of make run can be asked over A2A."
    submit(Document("Agent", agent.slug, {**spec, "exposed_over_a2a": True}), by=SYSTEM, reason=reason)


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
