"""Credentials in the console: written and never read, by those who may, with a second person where that is asked for."""

from __future__ import annotations

import logging
import re
import secrets
import sys
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.messages import get_messages
from django.contrib.sessions.models import Session
from django.core.signals import got_request_exception
from django.test import Client
from django.views.debug import ExceptionReporter

from agentbackend.foundation.keyring import Key, KeyRing
from audit.models import AuditEvent, AuditPayload
from tests.console.support import client_of, console_user, member_of, seen_on, text_of
from tools.models import ChangeRequest, StoredCredential
from tools.vault import CREDENTIAL, Sealed, open_sealed

CREDENTIALS = "/admin/tools/storedcredential/"
CHANGES = "/admin/tools/changerequest/"
VALUE = "s3cr3t-value-that-nobody-may-read"


@pytest.fixture
def name() -> Iterator[str]:
    made = f"CONSOLE_{uuid4().hex[:12].upper()}_KEY"
    yield made
    StoredCredential.objects.filter(name=made).delete()
    ChangeRequest.objects.filter(name=made).delete()


def add(client: Client, name: str, value: str = VALUE, **changes: Any) -> Any:
    given = {"name": name, "secret": value, "description": "For tests", "change_reason": "it is needed", **changes}
    return client.post(f"{CREDENTIALS}add/", given)


def page(stored: StoredCredential, action: str = "change") -> str:
    return f"{CREDENTIALS}{stored.pk}/{action}/"


def change(client: Client, stored: StoredCredential, value: str, **changes: Any) -> Any:
    """Open the page and post it, as somebody does who has seen what it says."""
    given = {"secret": value, "description": "For tests", **seen_on(client, page(stored)), **changes}
    return client.post(page(stored), given)


def remove(client: Client, stored: StoredCredential) -> Any:
    return client.post(page(stored, "remove"), {"_form_submitted": "on", "reason": "no longer used"})


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

    change(client, stored, "", description="Other words")
    stored.refresh_from_db()
    assert (stored.description, opened(name)) == ("Other words", VALUE), "an empty field leaves the value"

    change(client, stored, "another")
    assert opened(name) == "another"

    remove(client, stored)
    assert not StoredCredential.objects.filter(name=name).exists()
    found = AuditEvent.objects.filter(target_kind="tools.storedcredential", target_id=str(stored.pk)).order_by("id")
    assert [event.action for event in found] == ["credential.set"] * 3 + ["credential.removed"]


def test_a_value_that_somebody_else_set_meanwhile_is_not_overwritten(name: str):
    mine, theirs = member_of("Administrators"), member_of("Administrators")
    add(mine, name)
    stored = StoredCredential.objects.get(name=name)
    older = seen_on(mine, page(stored))
    change(theirs, stored, "set by the other")
    response = change(mine, stored, "set by me", **older)
    assert "Somebody has changed this meanwhile" in text_of(response)
    assert opened(name) == "set by the other"


def test_a_name_that_is_taken_is_refused(name: str):
    client = member_of("Administrators")
    add(client, name)
    assert "already exists" in text_of(add(client, name, "another"))
    assert opened(name) == VALUE


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "lower_case"}, "'lower_case' is not a credential's name"),
        ({"name": "DJANGO_SECRET_KEY"}, "a setting of the service itself"),
        ({"value": ""}, "This field is required."),
        ({"value": " \t"}, "The value is empty."),
        ({"value": "short"}, "At least 6 characters"),
        ({"value": "x" * 20_000}, "At most 16384 bytes"),
    ],
)
def test_what_cannot_be_stored_is_refused_at_its_field(name: str, changes: dict[str, Any], told: str):
    response = add(member_of("Administrators"), **{"name": name, **changes})
    assert response.status_code == 200
    assert told in text_of(response)
    assert not StoredCredential.objects.filter(name__in=[name, "lower_case", "DJANGO_SECRET_KEY"]).exists()


def test_without_keys_nothing_is_stored_and_the_pages_say_so(name: str, settings: Any):
    settings.VAULT_KEYS = KeyRing()
    client = member_of("Administrators")
    assert "VAULT_KEYS is not set" in text_of(client.get(CREDENTIALS))
    response = add(client, name)
    assert "VAULT_KEYS is not set: nothing can be kept encrypted." in text_of(response)
    assert VALUE not in response.content.decode()
    assert not StoredCredential.objects.filter(name=name).exists()


def test_a_value_under_a_former_key_is_pointed_out_and_one_without_a_key_too(name: str, settings: Any):
    client = member_of("Administrators")
    add(client, name)
    stored, former = StoredCredential.objects.get(name=name), settings.VAULT_KEYS.active
    new = Key("another", secrets.token_bytes(32))
    settings.VAULT_KEYS = KeyRing((new, former))
    text = text_of(client.get(CREDENTIALS))
    assert re.search(rf"no longer the first: [^.]*{name}[^.]*\. manage.py rotate_credentials", text)
    settings.VAULT_KEYS = KeyRing((new,))
    assert re.search(rf"Cannot be opened: [^.]*{name}", text_of(client.get(CREDENTIALS)))
    assert "cannot be opened" in text_of(client.get(page(stored)))
    response = change(client, stored, "", description="Other words")
    assert "Enter the value again." in text_of(response)
    assert change(client, stored, "a new value").status_code == 302
    assert opened(name) == "a new value"


def test_the_value_is_nowhere_but_sealed(name: str, settings: Any, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.INFO, "django.template")  # a traceback for each variable that is not set
    user = console_user("Administrators")
    client = client_of(user)
    responses = [
        add(client, name, description="x" * 400),  # refused: the form comes back
        add(client, "lower_case"),
        add(client, name, change_reason=f"the key is {VALUE}"),
        add(client, name, description=f"{VALUE} for tests"),
        add(client, name),
    ]
    stored = StoredCredential.objects.get(name=name)
    responses += [change(client, stored, f"{VALUE}-2"), change(client, stored, f"{VALUE}-3", seen="something else")]
    settings.FOUR_EYES = ["credentials"]
    responses.append(change(client, stored, f"{VALUE}-4"))
    [proposal] = ChangeRequest.objects.filter(name=name)
    responses += [client.get(page(stored)), client.get(CREDENTIALS), client.get(page(stored, "history"))]
    responses += [client.get(f"{CHANGES}{proposal.pk}/change/"), client.get(CHANGES)]
    for response in responses:
        assert VALUE not in response.content.decode()
        assert "vault:v1" not in response.content.decode()
        assert all(VALUE not in str(message) for message in get_messages(response.wsgi_request))
    assert opened(name) == f"{VALUE}-2"
    assert VALUE not in caplog.text
    entries = list(LogEntry.objects.filter(user=user))
    assert [entry.object_repr for entry in entries] == [name, name], "it was added and changed; the rest is proposed"
    assert all(VALUE not in str(entry.__dict__) for entry in entries)
    assert all(VALUE not in str(session.get_decoded()) for session in Session.objects.all())
    recorded = AuditPayload.objects.filter(
        event_id__in=AuditEvent.objects.filter(actor_id=f"console:{user.pk}").values("id")
    )
    assert {"credential.set", "change.proposed"} <= set(
        AuditEvent.objects.filter(actor_id=f"console:{user.pk}").values_list("action", flat=True)
    )
    for payload in recorded:
        assert VALUE.encode() not in bytes(payload.body)
        assert b"vault:v1" not in bytes(payload.body)
    proposal.refresh_from_db()
    stored.refresh_from_db()
    assert VALUE not in str(proposal.__dict__)
    assert VALUE.encode() not in bytes(stored.sealed)


def test_a_report_of_an_error_leaves_the_value_out(name: str, monkeypatch: pytest.MonkeyPatch, settings: Any):
    """As it would be mailed or logged by whoever configures that."""
    settings.DEBUG = False
    reports = []

    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("the disk is full")

    def keep(request: Any, **options: Any) -> None:
        reports.append(ExceptionReporter(request, *sys.exc_info()).get_traceback_text())

    monkeypatch.setattr("tools.admin.documents.submit", fail)
    got_request_exception.connect(lambda sender, request, **_: keep(request), weak=False, dispatch_uid=name)
    client = member_of("Administrators")
    client.raise_request_exception = False
    assert add(client, name).status_code == 500
    got_request_exception.disconnect(dispatch_uid=name)
    [report] = reports
    assert "the disk is full" in report
    assert VALUE not in report


def test_what_tools_require_and_nobody_has_set_is_listed():
    text = text_of(member_of("Administrators").get(CREDENTIALS))
    assert "From the environment: MOCK_WEATHER_TOOL_API_KEY (get_weather_tool)" in text


@pytest.mark.parametrize("group", ["Operators", "Compliance"])
def test_who_may_only_look_changes_nothing(name: str, group: str):
    add(member_of("Administrators"), name)
    stored = StoredCredential.objects.get(name=name)
    client = member_of(group)
    shown = client.get(page(stored))
    assert shown.status_code == 200
    assert 'type="password"' not in shown.content.decode()
    assert add(client, f"{name}_2").status_code == 403
    client.post(page(stored), {"secret": "another", "description": ""})
    remove(client, stored)
    assert opened(name) == VALUE


def test_nothing_can_be_asked_about_the_sealed_value(name: str):
    client = member_of("Administrators")
    add(client, name)
    for address in (f"{CREDENTIALS}?sealed__startswith=a", f"{CHANGES}?after__secret__startswith=vault"):
        assert client.get(address).status_code == 400
    assert client.get(f"{CHANGES}?status=pending&kind=Credential&period=24h").status_code == 200


def test_the_field_of_the_value_is_empty_and_not_for_password_managers(name: str):
    client = member_of("Administrators")
    add(client, name)
    for address in (page(StoredCredential.objects.get(name=name)), f"{CREDENTIALS}add/?name={name}&secret={VALUE}"):
        response = client.get(address)
        assert VALUE not in response.content.decode()
        [field] = re.findall(r'<input[^>]*name="secret"[^>]*>', response.content.decode())
        assert 'type="password"' in field
        assert 'autocomplete="new-password"' in field
        assert "value=" not in field


def test_with_a_second_person_a_value_waits_sealed_until_it_is_approved(name: str, settings: Any):
    settings.FOUR_EYES = ["credentials"]
    proposer, second = member_of("Administrators"), member_of("Administrators")
    response = proposer.post(
        f"{CREDENTIALS}add/", {"name": name, "secret": VALUE, "description": "For tests"}, follow=True
    )
    [proposal] = ChangeRequest.objects.filter(name=name)
    assert f"{CHANGES}{proposal.pk}/change/" in response.content.decode(), "the way to the proposal is shown"
    assert not StoredCredential.objects.filter(name=name).exists()
    assert VALUE not in str(proposal.after)
    assert "waits for a decision" in text_of(add(member_of("Administrators"), name))
    second.post(f"{CHANGES}{proposal.pk}/approve/", {"_form_submitted": "on", "reason": ""})
    assert opened(name) == VALUE


@pytest.mark.parametrize("decision", ["approve", "refuse", "withdraw"])
def test_a_proposal_that_is_decided_keeps_no_value_and_still_tells_that_it_was_another(
    name: str, settings: Any, decision: str
):
    proposer, second = member_of("Administrators"), member_of("Administrators")
    add(proposer, name)
    stored = StoredCredential.objects.get(name=name)
    settings.FOUR_EYES = ["credentials"]
    change(proposer, stored, "another value")
    [proposal] = ChangeRequest.objects.filter(name=name)
    decider = proposer if decision == "withdraw" else second
    address = f"{CHANGES}{proposal.pk}/"
    decider.post(f"{address}{decision}/", {"_form_submitted": "on", "reason": "so it is"})
    proposal.refresh_from_db()
    assert proposal.status != "pending"
    assert "vault:v1" not in f"{proposal.before} {proposal.after}"
    assert proposal.before["secret"] != proposal.after["secret"]
    assert "another value]" in text_of(second.get(f"{address}change/"))
    assert opened(name) == ("another value" if decision == "approve" else VALUE)
