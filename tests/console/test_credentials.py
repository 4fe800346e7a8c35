"""Credentials in the console: written and never read, by those who may, with a second person where that is asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.messages import get_messages
from django.contrib.sessions.models import Session
from django.test import Client

from audit.models import AuditEvent, AuditPayload
from tests.console.support import client_of, console_user, member_of, text_of
from tools.models import ChangeRequest, StoredCredential
from tools.vault import CREDENTIAL, Sealed, open_sealed

CREDENTIALS = "/admin/tools/storedcredential/"
VALUE = "s3cr3t-value-that-nobody-may-read"


@pytest.fixture
def name() -> Iterator[str]:
    made = f"CONSOLE_{uuid4().hex[:12].upper()}_KEY"
    yield made
    StoredCredential.objects.filter(name=made).delete()
    ChangeRequest.objects.filter(name=made).delete()


def add(client: Client, name: str, value: str = VALUE, **changes: Any) -> Any:
    given = {"name": name, "value": value, "description": "For tests", "reason": "it is needed", **changes}
    return client.post(f"{CREDENTIALS}add/", given)


def page(stored: StoredCredential, action: str = "change") -> str:
    return f"{CREDENTIALS}{stored.pk}/{action}/"


def opened(name: str) -> str:
    stored = StoredCredential.objects.get(name=name)
    return open_sealed(Sealed(stored.kid, bytes(stored.sealed)), purpose=CREDENTIAL, name=name)


def test_a_value_is_stored_replaced_and_removed(name: str):
    user = console_user("Administrators")
    client = client_of(user)
    response = add(client, name)
    assert response.status_code == 302, text_of(response)
    assert opened(name) == VALUE
    stored = StoredCredential.objects.get(name=name)
    assert stored.set_by == f"console:{user.pk}"

    client.post(page(stored), {"value": "", "description": "Other words", "reason": ""})
    stored.refresh_from_db()
    assert (stored.description, opened(name)) == ("Other words", VALUE), "an empty field leaves the value"

    client.post(page(stored), {"value": "another", "description": "Other words", "reason": ""})
    assert opened(name) == "another"

    client.post(page(stored, "remove"), {"_form_submitted": "on"})
    assert not StoredCredential.objects.filter(name=name).exists()
    found = AuditEvent.objects.filter(target_kind="tools.storedcredential", target_id=str(stored.pk)).order_by("id")
    assert [event.action for event in found] == ["credential.set"] * 3 + ["credential.removed"]


def test_the_value_is_nowhere_but_sealed(name: str, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    client = client_of(console_user("Administrators"))
    pages = [
        add(client, name, description="x" * 400),  # refused: the form comes back
        add(client, "lower_case"),
        add(client, name),
    ]
    stored = StoredCredential.objects.get(name=name)
    pages += [client.get(page(stored)), client.get(CREDENTIALS), client.get(page(stored, "history"))]
    for response in pages:
        assert VALUE not in response.content.decode()
        assert all(VALUE not in str(message) for message in get_messages(response.wsgi_request))
    assert VALUE not in caplog.text
    assert all(VALUE not in str(entry.__dict__) for entry in LogEntry.objects.all())
    assert all(VALUE not in str(session.get_decoded()) for session in Session.objects.all())
    recorded = AuditPayload.objects.filter(
        event_id__in=AuditEvent.objects.filter(target_id=str(stored.pk)).values("id")
    )
    assert recorded.exists()
    for payload in recorded:
        assert VALUE.encode() not in bytes(payload.body)
        assert b"vault:v1" not in bytes(payload.body)
    assert VALUE.encode() not in bytes(stored.sealed)


def test_what_tools_require_and_nobody_has_set_is_listed():
    text = text_of(member_of("Administrators").get(CREDENTIALS))
    assert "From the environment: MOCK_WEATHER_TOOL_API_KEY (get_weather_tool)" in text


@pytest.mark.parametrize("group", ["Operators", "Compliance"])
def test_who_may_only_look_changes_nothing(name: str, group: str):
    add(member_of("Administrators"), name)
    stored = StoredCredential.objects.get(name=name)
    client = member_of(group)
    assert client.get(page(stored)).status_code == 200
    assert add(client, f"{name}_2").status_code == 403
    client.post(page(stored), {"value": "another", "description": "", "reason": ""})
    client.post(page(stored, "remove"), {"_form_submitted": "on"})
    assert opened(name) == VALUE


def test_with_a_second_person_a_value_waits_sealed(name: str, settings: Any):
    settings.FOUR_EYES = ["credentials"]
    response = add(member_of("Administrators"), name)
    assert response.status_code == 302
    assert not StoredCredential.objects.filter(name=name).exists()
    [proposal] = ChangeRequest.objects.filter(name=name)
    assert VALUE not in str(proposal.after)
    assert "waits for a second person" in text_of(add(member_of("Administrators"), name))
