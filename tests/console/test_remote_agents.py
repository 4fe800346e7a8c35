"""Remote agents in the console: registered, found, their cards looked at and accepted; each by who may."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from a2a.models import RemoteAgent, RemoteAgentHealth
from agentbackend.foundation.outbound import OutboundPolicy
from audit.actor import SYSTEM
from audit.models import AuditEvent
from mock_a2a_server.card import CARD_PATH, card
from tests.console.support import client_of, console_user, member_of, seen_on, text_of
from tests.tools.remote_mcp import RemoteMcp, as_json, remote_mcp
from tools import process
from tools.changes import submit
from tools.documents import Document

AGENTS = "/admin/a2a/remoteagent/"
SENT = {"_form_submitted": "on"}


@pytest.fixture(autouse=True)
def loopback_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process._process, "policy", OutboundPolicy(allowed_hosts=["127.0.0.1"]))


@pytest.fixture
def remote() -> Iterator[RemoteMcp]:
    with remote_mcp() as found:
        shows(found)
        yield found


def shows(remote: RemoteMcp, **changes: Any) -> None:
    remote.before = lambda asked: as_json({**card(f"http://127.0.0.1:{remote.port}"), **changes})


@pytest.fixture
def agent(remote: RemoteMcp) -> Iterator[RemoteAgent]:
    name = f"console-{uuid4().hex[:8]}"
    url = f"http://127.0.0.1:{remote.port}{CARD_PATH}"
    submit(Document("RemoteAgent", name, {"card_url": url, "enabled": True}), by=SYSTEM)
    yield RemoteAgent.objects.get(name=name)
    RemoteAgent.objects.filter(name=name).delete()


@pytest.fixture
def client() -> Client:
    return member_of("Administrators")


def form(**changes: Any) -> dict[str, Any]:
    return {
        "name": f"console-{uuid4().hex[:8]}", "title": "An agent", "card_url": "https://agents.example.org/card",
        "key_set_url": "", "required_role": "", "credential": "", "credential_placement": "bearer", "credential_header": "",
        "client_certificate": "", "client_key": "", "trusted_ca": "", "timeout_seconds": "60", "side_effects": "unsafe",
        "owner": "", "change_reason": "needed", **changes,
    }  # fmt: skip


def test_an_agent_is_registered_switched_off_and_changed_in_the_name_of_who_did_it() -> None:
    user = console_user("Administrators")
    client = client_of(user)
    said = form()
    response = client.post(f"{AGENTS}add/", said)
    assert response.status_code == 302, text_of(response)
    made = RemoteAgent.objects.get(name=said["name"])
    assert (made.enabled, made.state, made.timeout_seconds) == (False, "", 60.0)
    page = f"{AGENTS}{made.pk}/change/"
    assert "no card yet" in text_of(client.get(page))
    response = client.post(page, form(name="", title="Another title", _continue="1", **seen_on(client, page)))
    made.refresh_from_db()
    assert made.title == "Another title", text_of(response)
    by = AuditEvent.objects.filter(action="remote_agent.changed", target_id=str(made.pk))
    assert set(by.values_list("actor_id", flat=True)) == {f"console:{user.pk}"}
    made.delete()


def test_a_wrong_field_says_so_at_the_field(client: Client) -> None:
    page = text_of(client.post(f"{AGENTS}add/", form(card_url="http://10.0.0.1/card", trusted_ca="x")))
    assert "not a public one" in page
    assert "holds no certificates" in page


def test_a_card_is_read_looked_at_and_accepted_and_its_change_is_shown(
    client: Client, remote: RemoteMcp, agent: RemoteAgent
) -> None:
    page = f"{AGENTS}{agent.pk}/card/"
    client.post(f"{AGENTS}{agent.pk}/read-again/", SENT)
    shown = text_of(client.get(page))
    assert "Nobody has accepted this card yet" in shown
    assert "Says a few words about whatever it is asked." in shown
    digest = RemoteAgentHealth.objects.get(agent=agent).card_digest

    assert "is accepted" in text_of(client.post(page, {"accept": digest}, follow=True))
    agent.refresh_from_db()
    assert agent.state == "accepted"
    assert "Accept this card" not in text_of(client.get(page))

    shows(remote, skills=[])
    client.post(f"{AGENTS}{agent.pk}/read-again/", SENT)
    shown = text_of(client.get(page))
    assert "Nothing is handed to it. What changed matters: skills." in shown
    assert "card changed: not called" in text_of(client.get(AGENTS))
    assert "meanwhile: look at it again" in text_of(client.post(page, {"accept": digest}, follow=True))


def test_an_agent_is_switched_off_and_on(client: Client, agent: RemoteAgent) -> None:
    client.post(f"{AGENTS}{agent.pk}/switch-off/", SENT)
    agent.refresh_from_db()
    assert not agent.enabled
    client.post(f"{AGENTS}{agent.pk}/switch-on/", SENT)
    agent.refresh_from_db()
    assert agent.enabled


def test_agents_are_found_and_registered(client: Client, remote: RemoteMcp) -> None:
    url = f"http://127.0.0.1:{remote.port}{CARD_PATH}"
    title = f"Found {uuid4().hex[:6]}"
    shows(remote, name=title)
    listed = SimpleUploadedFile("agents.json", json.dumps([url]).encode())
    looked = client.post(f"{AGENTS}discovery/", {"address": "", "directory": listed})
    assert title in text_of(looked)
    [found] = looked.context["search"].candidates

    done = client.post(f"{AGENTS}discovery/", {"import": "1", "chosen": [f"{found.digest} {url}"]}, follow=True)

    assert "registered, switched off" in text_of(done)
    made = RemoteAgent.objects.get(card_url=url)
    assert (made.title, made.enabled, made.state) == (title, False, "offered")
    made.delete()


def test_a_search_that_finds_nothing_says_why(client: Client) -> None:
    assert "Give either an address or a file" in text_of(client.post(f"{AGENTS}discovery/", {"address": ""}))
    assert "not a public one" in text_of(client.post(f"{AGENTS}discovery/", {"address": "http://10.0.0.1/"}))


def test_who_may_only_look_changes_nothing(agent: RemoteAgent) -> None:
    client = member_of("Operators")
    assert client.get(AGENTS).status_code == 200
    assert client.get(f"{AGENTS}{agent.pk}/card/").status_code == 200
    assert client.get(f"{AGENTS}discovery/").status_code == 403
    assert client.post(f"{AGENTS}{agent.pk}/card/", {"accept": "x"}).status_code == 403
    for action in ("switch-off", "read-again", "remove"):
        assert client.post(f"{AGENTS}{agent.pk}/{action}/", SENT).status_code in (403, 302)
    agent.refresh_from_db()
    assert agent.enabled
