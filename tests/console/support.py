"""Console users and rows for the tests of the console."""

from __future__ import annotations

import html
import re
from typing import Any
from uuid import uuid4

from django.contrib.auth.models import Group, Permission, User
from django.test import Client

from agentbackend.console_groups import ensure_console_groups
from agentbackend.foundation.identifiers import uuid7
from audit.models import AuditEvent
from orchestration.models import Agent, ConversationTurn, Run, RunEvents, Step, Thread

SECRET = "the-launch-is-on-friday"


def console_user(*groups: str, superuser: bool = False, permissions: tuple[str, ...] = ()) -> User:
    ensure_console_groups()
    user = User.objects.create(username=f"console-{uuid4()}", is_staff=True, is_superuser=superuser)
    user.groups.set(Group.objects.filter(name__in=groups))
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return user


def client_of(user: User) -> Client:
    client = Client(headers={"host": "localhost"})
    client.force_login(user)
    return client


def member_of(*groups: str) -> Client:
    return client_of(console_user(*groups))


def superuser() -> Client:
    return client_of(console_user(superuser=True))


def text_of(response: Any) -> str:
    """What a person reads on the page."""
    without_code = re.sub(r"(?s)<(script|style)\b.*?</\1>", " ", response.content.decode())
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", without_code)))


def seen_on(client: Client, page: str) -> dict[str, str]:
    """What the form on this page carries of what the thing said when it was opened."""
    return {"seen": client.get(page).context["adminform"].form["seen"].value()}


def views_of(user: User) -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(actor_id=f"console:{user.pk}", action="console.viewed"))


def stored_run(*, status: str = "finished", events: int = 3) -> Run:
    """A run with a turn, a step and events; what was said in it contains SECRET."""
    agent = Agent.objects.get(is_default=True)
    owner = str(uuid4())
    thread = Thread.objects.create(public_id=str(uuid7()), owner_id=owner, agent=agent, title=SECRET)
    run = Run.objects.create(
        public_id=str(uuid7()), owner_id=owner, thread=thread, agent=agent, status=status, input={"messages": [SECRET]}
    )
    messages = [{"id": "1", "role": "user", "content": SECRET}, {"id": "2", "role": "assistant", "content": "I see."}]
    ConversationTurn.objects.create(thread=thread, run=run, position=1, user_message=SECRET, messages=messages)
    Step.objects.create(
        run=run, number=1, kind="tool_call", name="tool call a_tool x", status="finished", detail={"arguments": SECRET}
    )
    lines = [
        b'{"type":"TEXT_MESSAGE_CONTENT","messageId":"2","delta":"%s %d"}' % (SECRET.encode(), n) for n in range(events)
    ]
    RunEvents.objects.create(run=run, seq_from=1, seq_to=events, events=b"\n".join(lines))
    return run
