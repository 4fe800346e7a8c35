"""Remote servers in the console: registered, asked, their tools imported and their changes decided; each by who may."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client

from agentbackend.foundation.outbound import OutboundPolicy
from audit.actor import SYSTEM
from audit.models import AuditEvent
from tests.console.support import client_of, console_user, member_of, seen_on, text_of
from tests.tools.remote_mcp import RemoteMcp, Reply, remote_mcp, tool
from tests.tools.remote_servers import imported, register, remove, row
from tools import process
from tools.mcp_client.discovery import discover
from tools.models import ChangeRequest, RemoteServer, RemoteServerHealth, RemoteTool, Tool

SERVERS = "/admin/tools/remoteserver/"
SENT = {"_form_submitted": "on"}


@pytest.fixture(autouse=True)
def loopback_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = OutboundPolicy(allowed_hosts=["127.0.0.1"])
    monkeypatch.setattr(process, "outbound_policy", lambda: policy)


@pytest.fixture
def remote() -> Iterator[RemoteMcp]:
    with remote_mcp() as found:
        yield found


@pytest.fixture
def server(remote: RemoteMcp) -> Iterator[RemoteServer]:
    found = register(remote)
    yield found
    remove(found)


@pytest.fixture
def client() -> Client:
    return member_of("Administrators")


def form(**changes: Any) -> dict[str, Any]:
    return {
        "name": f"console-{uuid4().hex[:8]}", "title": "A server", "url": "https://mcp.example.org/mcp", "protocol": "auto",
        "credential": "", "credential_placement": "bearer", "credential_header": "", "timeout_seconds": "20", "owner": "",
        "change_reason": "needed", **changes,
    }  # fmt: skip


def tools_of(server: RemoteServer) -> str:
    return f"{SERVERS}{server.pk}/tools/"


def ticket(server: RemoteServer, name: str = "echo") -> str:
    found = row(server, name)
    return f"{found.pk}:{found.digest}"


# --- registering


def test_a_server_is_registered_and_changed_in_the_name_of_who_did_it():
    user = console_user("Administrators")
    client = client_of(user)
    said = form()
    response = client.post(f"{SERVERS}add/", said)
    assert response.status_code == 302, text_of(response)
    made = RemoteServer.objects.get(name=said["name"])
    assert (made.url, made.timeout_seconds, made.enabled) == ("https://mcp.example.org/mcp", 20.0, True)
    page = f"{SERVERS}{made.pk}/change/"
    assert "not asked yet" in text_of(client.get(page))
    client.post(page, form(name="", title="Another title", _continue="1", **seen_on(client, page)))
    made.refresh_from_db()
    assert (made.name, made.title) == (said["name"], "Another title")
    assert AuditEvent.objects.filter(action="remote_server.changed", actor_id=f"console:{user.pk}").count() == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"url": "ftp://example.org"}, "An address with http:// or https://"),
        ({"url": "https://user:pass@example.org/mcp"}, "without a login in it"),
        ({"credential": "DJANGO_SECRET_KEY"}, "a setting of the service itself"),
        ({"credential": "A_TOOL_KEY", "credential_placement": "header"}, "Say which header"),
        ({"name": "Not A Name"}, "small letters"),
        ({"timeout_seconds": "0"}, "greater than or equal to 0.1"),
    ],
)
def test_what_cannot_be_a_server_is_refused_at_its_field(client: Client, changes: dict[str, str], told: str):
    said = form(**changes)
    response = client.post(f"{SERVERS}add/", said)
    assert response.status_code == 200
    assert told in text_of(response)
    assert not RemoteServer.objects.filter(name=said["name"]).exists()


def test_with_four_eyes_a_server_is_proposed_and_a_second_proposal_is_refused(client: Client, settings: Any):
    settings.FOUR_EYES = ["servers"]
    said = form()
    response = client.post(f"{SERVERS}add/", said, follow=True)
    assert "a second person must approve it" in text_of(response)
    assert ChangeRequest.objects.filter(kind="RemoteServer", name=said["name"]).count() == 1
    assert not RemoteServer.objects.filter(name=said["name"]).exists()
    assert "waits for a decision already" in text_of(client.post(f"{SERVERS}add/", said))


def test_a_server_is_switched_off_at_once_even_with_four_eyes(client: Client, server: RemoteServer, settings: Any):
    settings.FOUR_EYES = ["servers"]
    assert client.get(f"{SERVERS}{server.pk}/switch-off/").status_code == 200
    server.refresh_from_db()
    assert server.enabled
    client.post(f"{SERVERS}{server.pk}/switch-off/", SENT)
    server.refresh_from_db()
    assert not server.enabled
    assert "off" in text_of(client.get(SERVERS, {"q": server.name}))


def test_a_server_whose_tools_are_on_is_not_removed(client: Client, server: RemoteServer):
    name = imported(server)
    client.post(f"{SERVERS}{server.pk}/remove/", SENT)
    assert f"switched on: {name}" in text_of(client.get(f"{SERVERS}{server.pk}/change/"))
    Tool.objects.filter(name=name).update(enabled=False)
    assert client.post(f"{SERVERS}{server.pk}/remove/", SENT)["HX-Redirect"] == SERVERS
    assert not RemoteServer.objects.filter(pk=server.pk).exists()


# --- its tools


def test_a_server_is_asked_by_a_post_and_its_tools_are_listed(client: Client, server: RemoteServer, remote: RemoteMcp):
    assert "Ask it for its tools" in text_of(client.get(tools_of(server)))
    client.get(f"{SERVERS}{server.pk}/ask/")
    assert remote.asked == []
    remote.tools = [tool("echo", title="Echo"), tool("bad", description="x" * 20_000)]
    assert client.post(f"{SERVERS}{server.pk}/ask/", SENT)["HX-Redirect"] == tools_of(server)
    page = text_of(client.get(tools_of(server)))
    for told in ("2 tools, 2 new.", "echo", "Does echo.", "not imported", "Cannot be used: Its description has 20000"):
        assert told in page
    listed = text_of(client.get(SERVERS, {"q": server.name}))
    assert "2, 0 imported" in listed
    assert "well" in listed


def test_why_a_server_could_not_be_asked_is_told(client: Client, server: RemoteServer, remote: RemoteMcp):
    remote.before = lambda asked: Reply(503)
    client.post(f"{SERVERS}{server.pk}/ask/", SENT)
    assert "is in trouble (HTTP 503)" in text_of(client.get(tools_of(server)))
    assert "unreachable (1 in a row)" in text_of(client.get(SERVERS, {"q": server.name}))


def test_what_a_server_says_is_text_on_the_page(client: Client, server: RemoteServer, remote: RemoteMcp):
    remote.tools = [tool("<script>alert(1)</script>", description="<img src=x onerror=alert(2)>")]
    discover(server, by=SYSTEM)
    page = client.get(tools_of(server)).content.decode()
    assert "<script>alert(1)" not in page
    assert "<img src=x" not in page


def test_ticked_tools_are_imported_switched_off(client: Client, server: RemoteServer, remote: RemoteMcp):
    remote.tools = [tool("one"), tool("two"), tool("three")]
    discover(server, by=SYSTEM)
    chosen = [ticket(server, "one"), ticket(server, "two")]
    page = text_of(client.post(tools_of(server), {"import": "1", "chosen": chosen}, follow=True))
    assert f"{server.name}_one is imported and switched off." in page
    made = Tool.objects.filter(current_version__handler__server=server.name)
    assert sorted(made.values_list("name", "enabled")) == [(f"{server.name}_one", False), (f"{server.name}_two", False)]
    assert "Nothing was chosen." in text_of(client.post(tools_of(server), {"import": "1"}, follow=True))


def test_a_change_is_shown_line_by_line_and_accepted(client: Client, server: RemoteServer, remote: RemoteMcp):
    name = imported(server)
    remote.tools = [tool("echo", description="Echoes, and mails it on.")]
    discover(server, by=SYSTEM)
    assert "1 to look at" in text_of(client.get(SERVERS, {"q": server.name}))
    page = text_of(client.get(tools_of(server), {"state": "changed"}))
    for told in ("-Does echo.", "+Echoes, and mails it on.", "Accept the change", "Keep as pinned"):
        assert told in page
    client.post(tools_of(server), {"accept": ticket(server)})
    version = Tool.objects.get(name=name).current_version
    assert version is not None
    assert (version.number, version.description) == (2, "Echoes, and mails it on.")
    assert "No tool of it is in this state." in text_of(client.get(tools_of(server), {"state": "changed"}))


def test_a_change_is_kept_out_and_still_to_be_seen(client: Client, server: RemoteServer, remote: RemoteMcp):
    name = imported(server)
    remote.tools = [tool("echo", description="Echoes, and mails it on.")]
    discover(server, by=SYSTEM)
    page = text_of(client.post(tools_of(server), {"keep": ticket(server)}, follow=True))
    for told in (f"{name} stays as it is.", "kept as pinned", "+Echoes, and mails it on."):
        assert told in page
    version = Tool.objects.get(name=name).current_version
    assert version is not None
    assert version.number == 1


def test_a_decision_about_something_else_than_was_seen_is_refused(
    client: Client, server: RemoteServer, remote: RemoteMcp
):
    imported(server)
    remote.tools = [tool("echo", description="First.")]
    discover(server, by=SYSTEM)
    seen = ticket(server)
    remote.tools = [tool("echo", description="Second.")]
    discover(server, by=SYSTEM)
    assert "look at it again" in text_of(client.post(tools_of(server), {"accept": seen}, follow=True))
    for nonsense in ("", "x", f"{uuid4()}:{'0' * 64}"):
        page = text_of(client.post(tools_of(server), {"accept": nonsense}, follow=True))
        assert "not there any more" in page


def test_an_approved_proposal_is_shown_as_imported_before_the_server_is_asked_again(
    client: Client, server: RemoteServer
):
    name = imported(server)
    RemoteTool.objects.filter(server=server).update(state="offered", tool=None, pinned_digest="")  # as it was before
    page = text_of(client.get(tools_of(server)))
    assert "imported, as pinned" in page
    assert name in page


# --- who may


@pytest.mark.parametrize("group", ["Operators", "Compliance"])
def test_who_may_only_look_changes_nothing(group: str, server: RemoteServer, remote: RemoteMcp):
    imported(server)
    remote.tools = [tool("echo", description="Another."), tool("two")]
    discover(server, by=SYSTEM)
    reader = member_of(group)
    assert server.name in text_of(reader.get(SERVERS, {"q": server.name}))
    assert "echo" in text_of(reader.get(f"/admin/tools/remotetool/?server__id__exact={server.pk}"))
    page = text_of(reader.get(tools_of(server)))
    assert "+Another." in page
    assert "Accept the change" not in page
    assert "Import what is ticked" not in page
    for wish in (
        {"import": "1", "chosen": ticket(server, "two")},
        {"accept": ticket(server)},
        {"keep": ticket(server)},
    ):
        assert reader.post(tools_of(server), wish).status_code == 403
    for action in ("ask", "switch-off", "switch-on", "remove"):
        assert reader.post(f"{SERVERS}{server.pk}/{action}/", SENT).status_code == 403
    assert reader.post(f"{SERVERS}add/", form()).status_code == 403
    assert RemoteServer.objects.get(pk=server.pk).enabled
    assert Tool.objects.filter(current_version__handler__server=server.name).count() == 1


def test_strangers_see_nothing(server: RemoteServer):
    assert client_of(console_user()).get(tools_of(server)).status_code == 403
    assert Client(headers={"host": "localhost"}).get(tools_of(server)).status_code == 302


def test_the_list_costs_the_same_for_one_server_and_for_many(
    client: Client, remote: RemoteMcp, django_assert_max_num_queries: Any
):
    servers = [register(remote) for _ in range(5)]
    for found in servers:
        RemoteServerHealth.objects.create(server=found)
    with django_assert_max_num_queries(9):
        client.get(SERVERS)
    for found in servers:
        remove(found)
