"""Calls of tools on remote MCP servers, through the door: what they give, and how servers that misbehave are survived."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import sync_to_async
from mcp_types import HEADER_MISMATCH

from agentbackend.foundation.database import Database
from agentbackend.foundation.identifiers import uuid7
from agentbackend.foundation.outbound import OutboundPolicy
from tests.running_service import ROOT
from tests.tools.remote_mcp import (
    HANDSHAKE,
    HANG,
    STATELESS,
    Asked,
    RemoteMcp,
    Reply,
    as_events,
    as_json,
    remote_mcp,
    text,
    tool,
)  # fmt: skip
from tests.tools.remote_servers import imported, register, remove
from tests.tools.support import Door, details, somebody
from tools import process
from tools.calls import CallContext, ToolCall, ToolOutcome, ToolResult
from tools.door import call_tool
from tools.mcp_client import health, loading
from tools.mcp_client.health import HealthBook
from tools.models import RemoteServer, RemoteServerHealth, Tool, ToolVersion
from tools.registry import registry

SECRET = "the-servers-own-secret"

Registered = Callable[..., Awaitable[str]]


@pytest.fixture(autouse=True)
def loopback_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = OutboundPolicy(allowed_hosts=["127.0.0.1"])
    monkeypatch.setattr(process, "outbound_policy", lambda: policy)


@pytest.fixture
def remote() -> Iterator[RemoteMcp]:
    with remote_mcp() as found:
        yield found


@pytest.fixture
async def tool_of(remote: RemoteMcp, door: Door) -> AsyncIterator[Registered]:
    """Registers the remote server and imports one of its tools, switched on; returns the tool's name."""
    servers: list[RemoteServer] = []

    def make(name: str, fields: dict[str, Any]) -> str:
        servers.append(register(remote, **fields))
        return imported(servers[-1], name)

    async def registered(name: str = "echo", **fields: Any) -> str:
        made = await sync_to_async(make)(name, fields)
        remote.asked.clear()
        registry.expire()
        return made

    yield registered
    await health.book.settled()
    await loading.close_connections()
    for server in servers:
        await sync_to_async(remove)(server)


@pytest.mark.parametrize("protocol", ["auto", STATELESS])
async def test_a_tool_of_a_stateless_server_is_called(
    remote: RemoteMcp, tool_of: Registered, door: Door, protocol: str
):
    result = await door.call(await tool_of(protocol=protocol), {"text": "hello"})
    assert (result.outcome, result.content) == (ToolOutcome.OK, "echo: hello")
    greeted = [] if protocol == STATELESS else ["server/discover"]
    assert remote.calls == [*greeted, "tools/call"]  # no listing: what is pinned is what counts
    assert remote.asked[-1].headers["mcp-protocol-version"] == STATELESS


@pytest.mark.parametrize("protocol", ["auto", "legacy"])
async def test_a_tool_of_a_server_with_sessions_is_called_and_the_session_ended(
    remote: RemoteMcp, tool_of: Registered, door: Door, protocol: str
):
    remote.era = HANDSHAKE
    result = await door.call(await tool_of(protocol=protocol), {"text": "hello"})
    assert result.content == "echo: hello"
    assert remote.sessions == set()
    assert "GET" not in remote.calls


async def test_two_calls_never_share_a_session(remote: RemoteMcp, tool_of: Registered, door: Door):
    remote.era = HANDSHAKE
    name = await tool_of(protocol="legacy")
    await door.call(name, actor=somebody())
    await door.call(name, actor=somebody())
    sessions = {asked.headers["mcp-session-id"] for asked in remote.asked if asked.rpc == "tools/call"}
    assert len(sessions) == 2


# --- credentials


@pytest.mark.parametrize("header", ["Host", "Mcp-Session-Id", "Content-Length", "two words", "X:"])
async def test_a_header_that_cannot_carry_a_credential_carries_none(
    remote: RemoteMcp, tool_of: Registered, door: Door, settings: Any, header: str
):
    settings.TOOL_CREDENTIALS_FROM_ENVIRONMENT = {"REMOTE_TOOL_KEY": SECRET}
    name = await tool_of(credential="REMOTE_TOOL_KEY")
    placed = {"credential_placement": "header", "credential_header": header}
    await RemoteServer.objects.filter(url=remote.url).aupdate(**placed)
    registry.expire()
    assert "header for the credential" in (await door.call(name)).error
    assert remote.asked == []


@pytest.mark.parametrize(
    ("fields", "header", "value"),
    [
        ({}, "authorization", f"Bearer {SECRET}"),
        ({"credential_placement": "header", "credential_header": "X-Api-Key"}, "x-api-key", SECRET),
    ],
)
async def test_the_servers_credential_goes_with_each_request(
    remote: RemoteMcp, tool_of: Registered, door: Door, settings: Any, fields: dict[str, str], header: str, value: str
):
    settings.TOOL_CREDENTIALS_FROM_ENVIRONMENT = {"REMOTE_TOOL_KEY": SECRET}
    remote.era = HANDSHAKE
    await door.call(await tool_of(credential="REMOTE_TOOL_KEY", **fields))
    assert {asked.headers.get(header) for asked in remote.asked} == {value}


async def test_a_credential_that_a_server_sends_back_is_shown_to_nobody(
    remote: RemoteMcp, tool_of: Registered, door: Door, settings: Any, caplog: pytest.LogCaptureFixture
):
    settings.TOOL_CREDENTIALS_FROM_ENVIRONMENT = {"REMOTE_TOOL_KEY": SECRET}
    name = await tool_of(credential="REMOTE_TOOL_KEY")
    answers: list[Callable[[Asked], dict[str, Any] | Reply]] = [
        lambda asked: text(f"you sent {SECRET}"),
        lambda asked: {"content": [], "structuredContent": {"headers": [SECRET]}},
        lambda asked: text(f"bad key {SECRET}", isError=True),
        lambda asked: Reply(200, f'{{"jsonrpc": {SECRET}'.encode(), {"content-type": "application/json"}),
        lambda asked: Reply(200, SECRET.encode(), {"content-type": SECRET}),
        lambda asked: as_json(remote.error(asked, -32000, SECRET)),
    ]
    for answer in answers:
        remote.call = answer
        result = await door.call(name)
        assert SECRET not in repr(result)
    assert SECRET not in caplog.text
    assert SECRET not in repr([details(entry) for entry in door.recorder.entries])


async def test_a_missing_credential_is_told_without_its_name_and_nothing_is_sent(
    remote: RemoteMcp, tool_of: Registered, door: Door, settings: Any, caplog: pytest.LogCaptureFixture
):
    settings.TOOL_CREDENTIALS_FROM_ENVIRONMENT = {"REMOTE_TOOL_KEY": SECRET}
    name = await tool_of(credential="REMOTE_TOOL_KEY")
    settings.TOOL_CREDENTIALS_FROM_ENVIRONMENT = {}
    result = await door.call(name)
    assert "An operator of this service can put that right." in result.error
    assert "REMOTE_TOOL_KEY" not in result.error
    assert remote.asked == []
    assert "the credential REMOTE_TOOL_KEY is not set" in caplog.text


async def test_a_credential_that_cannot_stand_in_a_header_is_not_told(
    remote: RemoteMcp, tool_of: Registered, door: Door, settings: Any, caplog: pytest.LogCaptureFixture
):
    settings.TOOL_CREDENTIALS_FROM_ENVIRONMENT = {"REMOTE_TOOL_KEY": SECRET}
    name = await tool_of(credential="REMOTE_TOOL_KEY")
    settings.TOOL_CREDENTIALS_FROM_ENVIRONMENT = {"REMOTE_TOOL_KEY": f"{SECRET}\r\nX-Evil: 1"}
    result = await door.call(name)
    assert not result.ok
    assert SECRET not in result.error + caplog.text
    assert remote.asked == []


# --- what a call gives

BLOB = base64.b64encode(bytes(300)).decode()


@pytest.mark.parametrize(
    ("given", "content"),
    [
        ({"content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}, "one\ntwo"),
        ({"content": [], "structuredContent": {"sum": 3}}, '{"sum":3}'),
        ({"content": []}, ""),
        (
            {"content": [{"type": "image", "data": BLOB, "mimeType": "image/png"}]},
            "[An image (image/png, about 300 bytes) was left out: only text is passed on.]",
        ),
        (
            {"content": [{"type": "audio", "data": BLOB, "mimeType": "audio/wav"}]},
            "[A sound (audio/wav, about 300 bytes) was left out: only text is passed on.]",
        ),
        (
            {"content": [{"type": "resource", "resource": {"uri": "file:///a", "blob": BLOB}}]},
            "[The resource file:///a (of no type, about 300 bytes) was left out: only text is passed on.]",
        ),
        ({"content": [{"type": "resource", "resource": {"uri": "file:///a", "text": "written"}}]}, "written"),
        (
            {"content": [{"type": "resource_link", "uri": "file:///a", "name": "A"}]},
            "[A link to a resource: A, file:///a.]",
        ),
    ],
)  # fmt: skip
async def test_content_becomes_text_and_what_is_no_text_is_named(
    remote: RemoteMcp, tool_of: Registered, door: Door, given: dict[str, Any], content: str
):
    remote.call = lambda asked: given
    result = await door.call(await tool_of())
    assert (result.outcome, result.content) == (ToolOutcome.OK, content)


async def test_an_error_of_the_tool_is_told_in_the_servers_words(remote: RemoteMcp, tool_of: Registered, door: Door):
    remote.call = lambda asked: text("there is no such city", isError=True)
    result = await door.call(await tool_of())
    assert (result.outcome, result.error, result.retryable) == (ToolOutcome.FAILED, "there is no such city", False)


async def test_words_of_a_server_are_bounded(remote: RemoteMcp, tool_of: Registered, door: Door):
    remote.call = lambda asked: text("no " * 100_000, isError=True)
    assert len((await door.call(await tool_of())).error) < 2100


@pytest.mark.parametrize(
    ("code", "status"), [(-32602, 400), (-32000, 200), (-32001, 404), (-32700, 200), (-32603, 200)]
)
async def test_an_error_of_the_protocol_is_told_in_the_servers_words(
    remote: RemoteMcp, tool_of: Registered, door: Door, code: int, status: int
):
    remote.call = lambda asked: as_json(remote.error(asked, code, "text is too short"), status=status)
    result = await door.call(await tool_of())
    assert "refused: text is too short" in result.error
    assert (await health_of(remote)).failures_in_a_row == 0


@pytest.mark.parametrize("era", [STATELESS, HANDSHAKE])
async def test_an_answer_may_come_as_events(remote: RemoteMcp, tool_of: Registered, door: Door, era: str):
    remote.era = era
    remote.call = lambda asked: as_events(remote.error(asked, -32000, "text is too short"))
    name = await tool_of()
    assert "refused: text is too short" in (await door.call(name)).error
    more = {"resultType": "complete"} if era == STATELESS else {}
    remote.call = lambda asked: as_events(remote.result(asked, {**more, **text("done")}))
    assert (await door.call(name)).content == "done"


async def test_an_answer_to_another_request_is_none(remote: RemoteMcp, tool_of: Registered, door: Door):
    name = await tool_of()
    await RemoteServer.objects.filter(url=remote.url).aupdate(timeout_seconds=0.3)
    registry.expire()
    remote.call = lambda asked: as_json({"jsonrpc": "2.0", "id": 4711, "result": text("for somebody else")})
    assert "did not answer within 0.3 seconds" in (await door.call(name)).error


async def test_arguments_are_checked_against_what_is_pinned_before_anything_is_sent(
    remote: RemoteMcp, tool_of: Registered, door: Door
):
    result = await door.call(await tool_of(), {"number": 1})
    assert result.outcome is ToolOutcome.INVALID_ARGUMENTS
    assert remote.asked == []


@pytest.mark.parametrize("given", [{"content": [], "structuredContent": {"sum": "three"}}, text("3")])
async def test_a_result_that_is_not_what_the_pinned_schema_promises_is_withheld(
    remote: RemoteMcp, tool_of: Registered, door: Door, given: dict[str, Any]
):
    promised = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
    remote.tools = [tool("add", outputSchema=promised)]
    name = await tool_of("add")
    remote.tools = [tool("add")]  # what it says now does not count
    remote.call = lambda asked: given
    result = await door.call(name)
    assert result.outcome is ToolOutcome.FAILED
    assert "not what it promises" in result.error
    remote.call = lambda asked: {"content": [], "structuredContent": {"sum": 3}}
    assert (await door.call(name)).value == {"sum": 3}


async def test_progress_of_the_server_is_passed_on(remote: RemoteMcp, tool_of: Registered, door: Door):
    def call(asked: Asked) -> Reply:
        token = asked.params["_meta"]["progressToken"]
        reports = [
            {"method": "notifications/progress", "params": {"progressToken": token, "progress": n, "total": 2, "message": "on"}}
            for n in (1, 2)
        ]  # fmt: skip
        done = remote.result(asked, {"resultType": "complete", **text("done")})
        return as_events(*({"jsonrpc": "2.0", **report} for report in reports), done)

    remote.call = call
    told: list[tuple[float, float | None, str]] = []
    result = await _call(door, await tool_of(), lambda done, total, message: told.append((done, total, message)))
    assert result.content == "done"
    assert told == [(1, 2, "on"), (2, 2, "on")]


async def _call(door: Door, name: str, progress: Any = None) -> ToolResult:
    context = CallContext(actor=somebody(), recorder=door.recorder, run_id=uuid7(), progress=progress)
    return await call_tool(ToolCall("call-1", name, "{}"), context, registry=door.registry)


async def test_a_call_that_polls_its_answer_is_resumed(remote: RemoteMcp, tool_of: Registered, door: Door):
    """The server ends the stream after an event with an id, and goes on where it is asked for what follows."""
    remote.era = HANDSHAKE
    answered: list[Asked] = []

    def call(asked: Asked) -> Reply:
        answered.append(asked)
        return Reply(200, b"id: 1\nretry: 1\ndata: \n\n", {"content-type": "text/event-stream"})

    remote.call = call
    name = await tool_of(protocol="legacy")
    remote.before = lambda asked: (
        as_events(remote.result(answered[0], text("later"))) if "last-event-id" in asked.headers else None
    )
    assert (await door.call(name)).content == "later"


# --- switched off


async def test_tools_of_a_server_that_is_off_are_refused_politely(remote: RemoteMcp, tool_of: Registered, door: Door):
    name = await tool_of()
    await RemoteServer.objects.filter(url=remote.url).aupdate(enabled=False)
    registry.expire()
    result = await door.call(name)
    assert "is switched off" in result.error
    assert remote.asked == []


async def test_a_tool_whose_server_is_gone_says_so(remote: RemoteMcp, tool_of: Registered, door: Door):
    name = await tool_of()
    await RemoteServer.objects.filter(url=remote.url).adelete()
    registry.expire()
    assert "is not registered any more" in (await door.call(name)).error


# --- servers that misbehave


async def change_version(name: str, **changes: Any) -> None:
    """Serve a version with these changes, as an administrator's would be."""

    def change() -> None:
        made = Tool.objects.get(name=name)
        served = made.current_version
        assert served is not None
        values = {field.attname: getattr(served, field.attname) for field in ToolVersion._meta.concrete_fields}
        values |= {"id": uuid7(), "number": served.number + 1, **changes}
        made.current_version = ToolVersion.objects.create(**values)
        made.save()

    await sync_to_async(change)()
    registry.expire()


def failing(reply: Reply | dict[str, Any]) -> Callable[[Asked], Reply | None]:
    """Answers messages with ids in this way, whatever they are."""
    answer = reply if isinstance(reply, Reply) else as_json(reply)
    return lambda asked: answer if "id" in asked.message else None


@pytest.mark.parametrize(
    ("reply", "told", "retryable"),
    [
        (Reply(401), "refuses the credential", False),
        (Reply(403), "refuses the credential", False),
        (Reply(404), "does not take the request (HTTP 404)", False),
        (Reply(429), "wants fewer calls", True),
        (Reply(302, headers={"location": "http://169.254.169.254/latest/"}), "sends to another address (302)", False),
        (Reply(307, headers={"location": "http://10.0.0.1/mcp"}), "sends to another address (307)", False),
        (Reply(200, b"\x89PNG\r\n\x1a\n\0\0", {"content-type": "image/png"}), "not MCP as it should be", False),
        (Reply(200, b"\xff\xfe\0\0", {"content-type": "application/json"}), "not MCP as it should be", False),
        (Reply(200, b"<html>hello</html>", {"content-type": "text/html"}), "not MCP as it should be", False),
        (as_json([1, 2, 3]), "not MCP as it should be", False),
        (as_json({"jsonrpc": "2.0", "id": 1, "result": {"content": "nonsense"}}), "not MCP as it should be", False),
        (Reply(202), "not MCP as it should be", False),
    ],
)
async def test_answers_that_are_none_are_named_and_say_nothing_of_the_servers_health(
    remote: RemoteMcp, tool_of: Registered, door: Door, reply: Reply, told: str, retryable: bool
):
    name = await tool_of(protocol=STATELESS)
    await change_version(name, side_effects="idempotent")
    remote.before = failing(reply)
    result = await door.call(name)
    assert (result.outcome, result.retryable) == (ToolOutcome.FAILED, retryable)
    assert told in result.error
    assert (await health_of(remote)).failures_in_a_row == 0
    remote.before = lambda asked: None
    assert (await door.call(name)).ok


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Reply(500), "is in trouble (HTTP 500)"),
        (Reply(503), "is in trouble (HTTP 503)"),
        (Reply(200, b'{"jsonrpc"', {"content-type": "application/json"}, declared=500), "broke off the connection"),
        (Reply(200, b"", {"content-type": "text/event-stream"}), "ended its answer before it was complete"),
        (Reply(0), "broke off the connection"),
    ],
)
async def test_a_server_whose_transport_fails_is_unwell_until_it_answers_again(
    remote: RemoteMcp, tool_of: Registered, door: Door, reply: Reply, told: str
):
    name = await tool_of(protocol=STATELESS)
    await change_version(name, side_effects="idempotent")
    remote.before = failing(reply)
    result = await door.call(name)
    assert told in result.error
    assert result.retryable
    found = await health_of(remote)
    assert (found.failures_in_a_row, told in found.last_failure) == (1, True)
    remote.before = lambda asked: None
    assert (await door.call(name)).ok
    assert (await health_of(remote)).failures_in_a_row == 0


async def health_of(remote: RemoteMcp) -> RemoteServerHealth:
    await health.book.settled()
    return await RemoteServerHealth.objects.aget(server__url=remote.url)


async def test_an_unsafe_call_that_broke_off_is_not_to_be_repeated(remote: RemoteMcp, tool_of: Registered, door: Door):
    name = await tool_of(protocol=STATELESS)
    remote.call = lambda asked: Reply(0)
    result = await door.call(name)
    assert not result.retryable
    assert "may have taken effect" in result.error


async def test_a_server_that_cannot_be_reached_may_be_tried_again(remote: RemoteMcp, tool_of: Registered, door: Door):
    name = await tool_of(protocol=STATELESS)
    await RemoteServer.objects.filter(url=remote.url).aupdate(url="http://127.0.0.1:1/mcp")
    registry.expire()
    result = await door.call(name)
    assert (result.retryable, "could not be reached" in result.error) == (True, True)
    assert "may have taken effect" not in result.error
    await RemoteServer.objects.filter(url="http://127.0.0.1:1/mcp").aupdate(url=remote.url)


@pytest.mark.parametrize("address", ["http://10.0.0.1/mcp", "http://169.254.169.254/mcp", "http://[::ffff:127.0.0.2]/mcp",
                                     "http://2130706434/mcp"])  # fmt: skip
async def test_private_addresses_are_not_reached(remote: RemoteMcp, tool_of: Registered, door: Door, address: str):
    name = await tool_of()
    await RemoteServer.objects.filter(url=remote.url).aupdate(url=address)
    registry.expire()
    assert "may not be reached from here" in (await door.call(name)).error
    await RemoteServer.objects.filter(url=address).aupdate(url=remote.url)


@pytest.mark.parametrize("era", [STATELESS, HANDSHAKE])
async def test_a_server_that_hangs_costs_no_more_than_its_time(
    remote: RemoteMcp, tool_of: Registered, door: Door, era: str
):
    remote.era = era
    name = await tool_of()
    await RemoteServer.objects.filter(url=remote.url).aupdate(timeout_seconds=0.3)
    registry.expire()
    remote.call = lambda asked: HANG
    result = await door.call(name)
    assert "did not answer within 0.3 seconds" in result.error
    assert await asyncio.to_thread(remote.left.wait, 5)  # the request was closed
    assert (await health_of(remote)).failures_in_a_row == 0  # a slow tool


async def test_a_server_that_does_not_even_greet_is_unwell(remote: RemoteMcp, tool_of: Registered, door: Door):
    name = await tool_of()
    await RemoteServer.objects.filter(url=remote.url).aupdate(timeout_seconds=0.3)
    registry.expire()
    remote.before = lambda asked: HANG
    assert not (await door.call(name)).ok
    assert (await health_of(remote)).failures_in_a_row == 1


async def test_the_tools_own_time_counts_where_it_is_shorter(remote: RemoteMcp, tool_of: Registered, door: Door):
    name = await tool_of()
    await change_version(name, timeout_seconds=0.3)
    remote.call = lambda asked: HANG
    assert (await door.call(name)).outcome is ToolOutcome.TIMED_OUT
    assert await asyncio.to_thread(remote.left.wait, 5)


@pytest.mark.parametrize("era", [STATELESS, HANDSHAKE])
async def test_a_cancelled_call_closes_its_request(remote: RemoteMcp, tool_of: Registered, door: Door, era: str):
    remote.era = era
    name = await tool_of()
    remote.call = lambda asked: HANG
    going = asyncio.create_task(door.call(name))
    assert await asyncio.to_thread(remote.waiting.wait, 5)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    assert await asyncio.to_thread(remote.left.wait, 5)
    remote.call = lambda asked: text("again")
    assert (await door.call(name)).content == "again"


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
async def test_a_server_that_floods_is_stopped(remote: RemoteMcp, tool_of: Registered, door: Door, content_type: str):
    name = await tool_of()
    remote.call = lambda asked: Reply(200, b"data: ", {"content-type": content_type}, then="flood")
    result = await door.call(name)
    assert "answered with more than 4096 KiB" in result.error
    remote.call = lambda asked: text("again")
    assert (await door.call(name)).content == "again"


async def test_a_server_that_does_not_take_leave_delays_nobody_for_long(
    remote: RemoteMcp, tool_of: Registered, door: Door, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tools.mcp_client.exchange.FAREWELL_SECONDS", 0.05)
    remote.era = HANDSHAKE
    name = await tool_of()
    remote.before = lambda asked: HANG if asked.method == "DELETE" else None
    assert (await door.call(name, {"text": "hello"})).content == "echo: hello"
    assert remote.waiting.is_set()


async def test_numbers_that_cannot_be_passed_on_are_named(remote: RemoteMcp, tool_of: Registered, door: Door):
    remote.call = lambda asked: {"content": [], "structuredContent": {"count": 10**40}}
    assert "a value that cannot be passed on" in (await door.call(await tool_of())).error


async def test_arguments_that_a_server_wants_in_headers_are_sent_there_once_it_says_so(
    remote: RemoteMcp, tool_of: Registered, door: Door
):
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    remote.tools = [tool("route", inputSchema=schema)]
    remote.call = lambda asked: (
        text(asked.headers["mcp-param-region"])
        if "mcp-param-region" in asked.headers
        else as_json(remote.error(asked, HEADER_MISMATCH, "a header is missing"), status=400)
    )
    name = await tool_of("route", protocol=STATELESS)
    assert (await door.call(name, {"region": "eu"})).content == "eu"
    assert remote.calls == ["tools/call", "tools/list", "tools/call"]


async def test_a_session_that_the_server_ended_may_be_tried_again(remote: RemoteMcp, tool_of: Registered, door: Door):
    remote.era = HANDSHAKE
    name = await tool_of()
    remote.call = lambda asked: Reply(404)
    result = await door.call(name)
    assert (result.retryable, "ended the session" in result.error) == (True, True)


async def test_a_server_that_wants_input_in_between_is_told_no(remote: RemoteMcp, tool_of: Registered, door: Door):
    remote.call = lambda asked: as_json(remote.result(asked, {"resultType": "input_required", "requestState": "x"}))
    assert "asks for more input" in (await door.call(await tool_of())).error


async def test_many_calls_share_connections_and_not_sessions(remote: RemoteMcp, tool_of: Registered, door: Door):
    name = await tool_of(protocol=STATELESS)
    results = await asyncio.gather(*(door.call(name, {"text": str(n)}) for n in range(20)))
    assert [result.content for result in results] == [f"echo: {n}" for n in range(20)]


# --- health


class CountingDatabase(Database):
    """Counts what it is told to write, and fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[dict[str, Any]] = []
        self.error: Exception | None = None

    async def execute(self, query: Any, parameters: Any = ()) -> int:
        if self.error is not None:
            raise self.error
        self.written.append(parameters)
        return 1


async def test_health_is_written_when_it_changes_and_else_once_a_minute():
    database, now, server = CountingDatabase(), [0.0], uuid7()
    book = HealthBook(database, clock=lambda: now[0])
    for _ in range(100):
        book.note_ok(server)
    assert await written(book, database) == 1
    now[0] = 61.0
    book.note_ok(server)
    assert await written(book, database) == 2
    for _ in range(7):
        book.note_failure(server, "broken")
    assert await written(book, database) == 3
    now[0] = 122.0
    book.note_failure(server, "broken")
    await book.settled()
    assert database.written[-1]["failures"] == 7
    book.note_ok(server)
    assert await written(book, database) == 5


async def written(book: HealthBook, database: CountingDatabase) -> int:
    await book.settled()
    return len(database.written)


def test_nobody_pays_for_the_sdk_before_it_is_used():
    code = (
        "import django, sys; django.setup(); import agentbackend.service, agentbackend.urls, tools.admin, tools.handlers; "
        "assert not {'mcp', 'mcp_types'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


async def test_a_note_that_cannot_be_written_fails_nothing(caplog: pytest.LogCaptureFixture):
    database = CountingDatabase()
    database.error = OSError("gone")
    book = HealthBook(database)
    book.note_failure(UUID(int=1), "broken")
    await book.settled()
    assert "health could not be written" in caplog.text
