"""What remote servers offer: found, judged, imported switched off, pinned; what changes is quarantined until somebody has looked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ValidationError

from agentbackend.foundation.outbound import OutboundPolicy
from audit.actor import SYSTEM, Actor
from audit.models import AuditEvent
from tests.tools.remote_mcp import HANDSHAKE, HANG, RemoteMcp, Reply, as_json, remote_mcp, tool
from tests.tools.remote_servers import imported, register, remove, row
from tools import process
from tools.changes import approve
from tools.handlers import HANDLERS, UnusableHandlerError
from tools.mcp_client.contract import OfferedTool
from tools.mcp_client.discovery import Discovery, discover, discover_all
from tools.mcp_client.imports import accept_change, changes_of, import_tool, keep_pinned
from tools.mcp_client.offers import digest_of
from tools.models import ChangeRequest, RemoteServer, RemoteServerHealth, RemoteTool, Tool
from tools.versions import roll_back

State = RemoteTool.State
OBJECT = {"type": "object"}


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


def somebody() -> Actor:
    return Actor(id=f"console:{uuid4()}", kind="console")


def states(server: RemoteServer) -> dict[str, str]:
    return dict(RemoteTool.objects.filter(server=server).values_list("remote_name", "state"))


def ask(server: RemoteServer) -> Discovery:
    return discover(server, by=SYSTEM)


def take(server: RemoteServer, name: str, **options: Any) -> Tool:
    found = row(server, name)
    return Tool.objects.get(name=import_tool(found, found.digest, by=SYSTEM, **options).name)


# --- finding them


@pytest.mark.parametrize("era", ["2026-07-28", HANDSHAKE])
def test_what_a_server_offers_is_kept_and_nothing_of_it_can_be_called(
    remote: RemoteMcp, server: RemoteServer, era: str
):
    remote.era = era
    remote.tools = [tool("one", title="The first"), tool("two", annotations={"readOnlyHint": True})]
    told = ask(server)
    assert (told.summary, told.new) == ("2 tools, 2 new.", ["one", "two"])
    assert states(server) == {"one": State.OFFERED, "two": State.OFFERED}
    assert row(server, "one").title == "The first"
    assert row(server, "two").annotations == {"readOnlyHint": True}
    assert not Tool.objects.filter(current_version__handler__server=server.name).exists()
    health = RemoteServerHealth.objects.get(server=server)
    assert (health.protocol_version, health.failures_in_a_row) == (era, 0)
    assert health.discovered_at is not None


def test_pages_are_followed_to_the_end(remote: RemoteMcp, server: RemoteServer):
    remote.tools = [tool(f"tool-{number:03}") for number in range(250)]
    remote.page_size = 100
    assert ask(server).offered == 250
    assert [asked.params.get("cursor") for asked in remote.asked if asked.rpc == "tools/list"] == [None, "100", "200"]


def test_of_thousands_of_tools_the_first_are_taken_and_nothing_is_called_gone(remote: RemoteMcp, server: RemoteServer):
    remote.tools = [tool(f"tool-{number:04}") for number in range(3000)]
    told = ask(server)
    assert (told.offered, told.is_complete) == (1000, False)
    assert "more than is taken" in told.summary
    remote.tools.reverse()
    assert ask(server).gone == []
    assert len(states(server)) == 2000


def test_a_cursor_that_leads_in_circles_ends(remote: RemoteMcp, server: RemoteServer):
    def circle(asked: Any) -> Reply | None:
        if asked.rpc != "tools/list":
            return None
        page = {
            "resultType": "complete",
            "ttlMs": 0,
            "cacheScope": "private",
            "tools": [tool("one")],
            "nextCursor": "on",
        }
        return as_json(remote.result(asked, page))

    remote.before = circle
    told = ask(server)
    assert (told.offered, told.is_complete) == (1, False)
    assert remote.calls.count("tools/list") == 2


def test_a_person_who_asks_is_recorded_and_the_schedule_only_with_news(remote: RemoteMcp, server: RemoteServer):
    def recorded(actor: str) -> int:
        return AuditEvent.objects.filter(
            action="remote_server.discovered", target_id=str(server.pk), actor_id=actor
        ).count()

    ask(server)
    ask(server)
    assert recorded(SYSTEM.id) == 1
    by = somebody()
    discover(server, by=by)
    assert recorded(by.id) == 1


@pytest.mark.parametrize(
    ("reply", "told", "failures"),
    [
        (Reply(401), "refuses the credential", 0),
        (Reply(302, headers={"location": "http://169.254.169.254/"}), "sends to another address", 0),
        (Reply(200, b"\0\1\2", {"content-type": "application/octet-stream"}), "not MCP", 0),
        (Reply(200, b"[", {"content-type": "application/json"}, then="flood"), "more than 2048 KiB", 0),
        (Reply(200, b"{", {"content-type": "application/json"}, declared=99), "broke off the connection", 1),
        (Reply(503), "is in trouble (HTTP 503)", 1),
        (HANG, "did not answer within 0.3 seconds", 1),
    ],
)
def test_a_server_that_cannot_be_asked_is_named_with_the_reason_and_keeps_its_tools(
    remote: RemoteMcp, server: RemoteServer, reply: Reply, told: str, failures: int
):
    ask(server)
    RemoteServer.objects.filter(pk=server.pk).update(timeout_seconds=5 if reply is not HANG else 0.3)
    server.refresh_from_db()
    remote.before = lambda asked: reply
    assert told in ask(server).summary
    health = RemoteServerHealth.objects.get(server=server)
    assert (told in health.last_failure, health.failures_in_a_row) == (True, failures)
    assert states(server) == {"echo": State.OFFERED}


@pytest.mark.parametrize(
    "broken", [{"name": "a"}, {"name": "a", "inputSchema": {"type": "array"}}, {"inputSchema": OBJECT}]
)
def test_a_listing_that_breaks_the_protocol_is_refused_whole_and_where_is_said(
    remote: RemoteMcp, server: RemoteServer, broken: dict[str, Any]
):
    remote.tools = [tool("one"), broken]
    told = ask(server).failure
    assert "not MCP as it should be (see tools.1." in told
    assert states(server) == {}


def test_a_credential_that_a_server_repeats_in_its_listing_is_not_kept(remote: RemoteMcp, settings: Any):
    secret = 'the "server" secret'
    settings.TOOL_CREDENTIALS_FROM_ENVIRONMENT = {"REMOTE_TOOL_KEY": secret}
    found = register(remote, credential="REMOTE_TOOL_KEY")
    schema = {"type": "object", "properties": {"a": {"const": secret}}}
    remote.tools = [tool("echo", title=secret, description=f"Send {secret}.", inputSchema=schema)]
    ask(found)
    kept = row(found, "echo")
    assert secret not in repr([kept.title, kept.description, kept.input_schema])
    assert kept.description == "Send [redacted]."
    remove(found)


async def test_the_schedule_asks_every_server_that_is_on_and_one_that_fails_harms_no_other():
    with remote_mcp() as good, remote_mcp() as bad, remote_mcp() as off:
        servers = [await sync_to_async(register)(good), await sync_to_async(register)(bad)]
        servers.append(await sync_to_async(register)(off, enabled=False))
        bad.before = lambda asked: Reply(500)
        await discover_all()
        assert await sync_to_async(states)(servers[0]) == {"echo": State.OFFERED}
        assert (await RemoteServerHealth.objects.aget(server=servers[1])).failures_in_a_row == 1
        assert off.asked == []
        for found in servers:
            await sync_to_async(remove)(found)


# --- what cannot be used


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"p": schema}}
    return schema


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"inputSchema": {"type": "object", "properties": 7}}, "The schema of its arguments"),
        ({"inputSchema": {**OBJECT, "properties": {"a": {"$ref": "http://example.org/s.json"}}}}, "not followed"),
        ({"inputSchema": {**OBJECT, "$schema": "http://json-schema.org/draft-04/schema#"}}, "$schema must be"),
        ({"inputSchema": {**OBJECT, "description": "x" * 70_000}}, "larger than 65536 bytes"),
        ({"inputSchema": {**OBJECT, "properties": {"a": {"const": "\0"}}}}, "cannot be kept"),
        ({"inputSchema": {**OBJECT, "properties": {"a": {"const": 10**30}}}}, "cannot be kept"),
        ({"inputSchema": deep(90)}, ""),
        ({"outputSchema": {"type": "no such type"}}, "The schema of its result"),
        ({"description": "x" * 10_001}, "10001 characters"),
        ({"description": "Harmless.\U000e0041\U000e0042"}, "cannot see"),
        ({"title": "evil\u202egnp.exe"}, "cannot see"),
        ({"description": "a\0b"}, "NUL"),
        (
            {"inputSchema": {
                **OBJECT, "$schema": "http://json-schema.org/draft-07/schema#",
                "properties": {"a": {"type": "array", "items": [{"type": "string"}]}},
            }},
            "a list of items",
        ),
    ],
)  # fmt: skip
def test_a_tool_that_cannot_be_used_is_shown_with_the_reason_and_not_imported(
    remote: RemoteMcp, server: RemoteServer, fields: dict[str, Any], told: str
):
    remote.tools = [tool("bad", **fields), tool("good")]
    ask(server)
    found = row(server, "bad")
    assert told in found.problem
    assert row(server, "good").problem == ""
    if told:
        with pytest.raises(ValidationError, match="cannot be used"):
            import_tool(found, found.digest, by=SYSTEM)


def test_a_name_that_stands_for_two_tools_can_be_used_by_neither(remote: RemoteMcp, server: RemoteServer):
    remote.tools = [tool("twin"), tool("twin", description="Does another thing."), tool("same"), tool("same")]
    ask(server)
    assert row(server, "twin").problem == "The server offers more than one tool of this name."
    assert row(server, "same").problem == ""


def test_names_that_cannot_be_kept_are_left_out(remote: RemoteMcp, server: RemoteServer):
    remote.tools = [tool("x" * 201), tool("nul\0"), tool("good")]
    assert ask(server).new == ["good"]


def test_an_older_dialect_that_means_the_same_is_taken_over(remote: RemoteMcp, server: RemoteServer):
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#", "type": "object",
        "properties": {"items": {"type": "string"}, "of": {"$ref": "#/definitions/name", "description": "Whose"}},
        "definitions": {"name": {"type": "string", "default": {"items": []}}},
    }  # fmt: skip
    remote.tools = [tool("old", inputSchema=schema)]
    ask(server)
    version = take(server, "old").current_version
    assert version is not None
    assert version.input_schema == {name: value for name, value in schema.items() if name != "$schema"}


# --- importing


def test_an_imported_tool_is_off_unsafe_and_pinned(remote: RemoteMcp, server: RemoteServer):
    remote.tools = [tool("say/hello", annotations={"readOnlyHint": True, "idempotentHint": True})]
    ask(server)
    made = take(server, "say/hello")
    version = made.current_version
    assert version is not None
    assert made.name == f"{server.name}_say_hello"
    assert (made.enabled, version.side_effects, version.timeout_seconds) == (False, "unsafe", 10.0)
    found = row(server, "say/hello")
    assert version.handler == {"server": server.name, "tool": "say/hello", "pinned": found.digest}
    assert (found.state, found.tool) == (State.IMPORTED, made)
    assert AuditEvent.objects.filter(action="remote_tool.imported", target_id=str(found.pk)).count() == 1
    assert ask(server).is_news is False


def test_what_is_imported_is_imported_once(server: RemoteServer):
    ask(server)
    take(server, "echo")
    with pytest.raises(ValidationError, match="is imported already"):
        take(server, "echo")


def test_names_that_are_taken_or_too_long_get_another(remote: RemoteMcp, server: RemoteServer):
    remote.tools = [tool("a b"), tool("a.b"), tool("long" * 40)]
    ask(server)
    names = [take(server, name).name for name in ("a b", "a.b", "long" * 40)]
    assert names[:2] == [f"{server.name}_a_b", f"{server.name}_a_b_2"]
    assert len(names[2]) == 64


def test_what_changed_since_it_was_looked_at_is_not_imported(remote: RemoteMcp, server: RemoteServer):
    ask(server)
    seen = row(server, "echo")
    remote.tools = [tool("echo", description="Sends everything elsewhere.")]
    ask(server)
    with pytest.raises(ValidationError, match="look at it again"):
        import_tool(seen, seen.digest, by=SYSTEM)


def test_an_import_that_needs_a_second_person_is_linked_when_it_is_approved(server: RemoteServer, settings: Any):
    settings.FOUR_EYES = ["tools"]
    ask(server)
    found = row(server, "echo")
    first, second = somebody(), somebody()
    taken = import_tool(found, found.digest, by=first)
    assert taken.is_proposed
    assert states(server) == {"echo": State.OFFERED}
    with pytest.raises(ValidationError, match="waits for a second person"):
        import_tool(found, found.digest, by=second)
    approve(ChangeRequest.objects.get(name=taken.name), by=second)
    ask(server)
    assert (row(server, "echo").state, row(server, "echo").tool) == (State.IMPORTED, Tool.objects.get(name=taken.name))


@pytest.mark.parametrize(
    "settings_",
    [
        {},
        {"server": "a", "tool": "b"},
        {"server": "a", "tool": "b", "pinned": "0" * 63},
        {"server": "A b", "tool": "b", "pinned": "0" * 64},
        {"server": "a", "tool": "", "pinned": "0" * 64},
        {"server": "a", "tool": "b", "pinned": "0" * 64, "url": "http://example.org"},
        {"server": "a", "tool": 7, "pinned": "0" * 64},
    ],
)
def test_settings_of_the_handler_that_name_no_tool_are_refused(settings_: dict[str, Any]):
    with pytest.raises(UnusableHandlerError):
        HANDLERS["mcp_tool"].check(settings_)


# --- changes


def change(remote: RemoteMcp, server: RemoteServer, **fields: Any) -> RemoteTool:
    """Import the server's tool, then let the server describe it in another way and ask again."""
    imported(server)
    remote.tools = [tool("echo", **fields)]
    assert ask(server).changed == ["echo"]
    return row(server, "echo")


CHANGES: list[dict[str, Any]] = [
    {"description": "Reads your mail first."},
    {"title": "Another"},
    {"inputSchema": {"type": "object", "properties": {"mail": {"type": "string"}}}},
    {"outputSchema": {"type": "object"}},
]


@pytest.mark.parametrize("fields", CHANGES)
def test_a_tool_that_changes_is_quarantined_and_served_as_it_was_imported(
    remote: RemoteMcp, server: RemoteServer, fields: dict[str, Any]
):
    found = change(remote, server, **fields)
    assert found.state == State.CHANGED
    assert found.changed_at is not None
    assert found.tool is not None and found.tool.current_version is not None
    assert (found.tool.enabled, found.tool.current_version.number) == (True, 1)
    [(field, sides)] = changes_of(found, found.tool).items()
    assert sides["before"] == getattr(found.tool.current_version, field)
    assert sides["after"] in fields.values()
    quarantined = AuditEvent.objects.filter(action="remote_tool.quarantined", target_id=str(found.pk))
    assert quarantined.count() == 1
    assert ask(server).changed == []
    assert quarantined.count() == 1


def test_an_accepted_change_is_a_new_version(remote: RemoteMcp, server: RemoteServer):
    found = change(remote, server, description="Says it twice.")
    by = somebody()
    accept_change(found, found.digest, by=by, reason="looked at it")
    served = row(server, "echo").tool
    assert served is not None and served.current_version is not None
    assert (served.current_version.number, served.current_version.description) == (2, "Says it twice.")
    assert served.current_version.handler["pinned"] == found.digest
    assert served.enabled
    assert states(server) == {"echo": State.IMPORTED}
    assert AuditEvent.objects.filter(action="remote_tool.accepted", actor_id=by.id).count() == 1
    assert ask(server).is_news is False


def test_what_changed_again_since_it_was_looked_at_is_not_accepted(remote: RemoteMcp, server: RemoteServer):
    found = change(remote, server, description="Says it twice.")
    remote.tools = [tool("echo", description="Sends everything elsewhere.")]
    ask(server)
    with pytest.raises(ValidationError, match="look at it again"):
        accept_change(found, found.digest, by=somebody())


def test_what_is_kept_as_pinned_is_asked_about_again_only_when_it_changes_again(
    remote: RemoteMcp, server: RemoteServer
):
    found = change(remote, server, description="Says it twice.")
    by = somebody()
    keep_pinned(found, found.digest, by=by)
    assert ask(server).changed == []
    assert states(server) == {"echo": State.IMPORTED}
    assert AuditEvent.objects.filter(action="remote_tool.kept", actor_id=by.id).count() == 1
    remote.tools = [tool("echo", description="Says it thrice.")]
    assert ask(server).changed == ["echo"]
    assert states(server) == {"echo": State.CHANGED}


def test_a_tool_that_is_as_it_was_again_is_out_of_quarantine(remote: RemoteMcp, server: RemoteServer):
    change(remote, server, description="Says it twice.")
    remote.tools = [tool("echo")]
    ask(server)
    assert states(server) == {"echo": State.IMPORTED}
    assert row(server, "echo").changed_at is None


def test_a_change_that_cannot_be_used_can_only_be_kept_out(remote: RemoteMcp, server: RemoteServer):
    found = change(remote, server, inputSchema={"type": "object", "required": 7})
    with pytest.raises(ValidationError, match="cannot be used"):
        accept_change(found, found.digest, by=SYSTEM)
    assert found.tool is not None
    assert changes_of(found, found.tool)["input_schema"]["after"] == {"type": "object", "required": 7}
    keep_pinned(found, found.digest, by=SYSTEM)
    assert states(server) == {"echo": State.IMPORTED}


def test_going_back_to_an_older_version_goes_back_to_what_it_was_pinned_to(remote: RemoteMcp, server: RemoteServer):
    found = change(remote, server, description="Says it twice.")
    accept_change(found, found.digest, by=SYSTEM)
    assert found.tool is not None
    roll_back(Tool.objects.get(pk=found.tool.pk), 1, by=SYSTEM)
    assert ask(server).changed == ["echo"]


def test_a_tool_that_vanishes_is_marked_where_it_is_imported_and_forgotten_where_not(
    remote: RemoteMcp, server: RemoteServer
):
    remote.tools = [tool("echo"), tool("other")]
    imported(server)
    remote.tools = []
    assert ask(server).gone == ["echo", "other"]
    assert states(server) == {"echo": State.GONE}
    assert ask(server).is_news is False
    remote.tools = [tool("echo")]
    ask(server)
    assert states(server) == {"echo": State.IMPORTED}


def test_the_digest_is_of_what_is_said_and_not_of_how_it_is_written():
    def said(**changes: Any) -> str:
        fields: dict[str, Any] = {
            "name": "a", "title": "", "description": "d", "input_schema": {"a": 1, "b": [1, 2]}, "output_schema": None,
            "annotations": {},
        }  # fmt: skip
        return digest_of(OfferedTool(**{**fields, **changes}))

    assert said() == said(input_schema={"b": [1, 2], "a": 1}) == said(annotations={"readOnlyHint": True})
    different = [said(), *(said(**change) for change in (
        {"title": "t"}, {"description": "e"}, {"input_schema": {"a": 1, "b": [2, 1]}}, {"output_schema": {}},
        {"input_schema": {"a": True, "b": [1, 2]}},
    ))]  # fmt: skip
    assert len(set(different)) == len(different)
