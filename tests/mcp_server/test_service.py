"""`/mcp` of the running service: the official client, the gateway in front, Daphne below, the audit trail behind."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import httpx2
import psycopg
import pytest
from django.conf import settings
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from agentbackend.embedded_postgres.cluster import Cluster
from agentbackend.gateway.signature import sign
from tests.mcp_server.support import META_KEY, STATELESS, call_of, request
from tests.running_service import Caller, RunningService
from tests.runs.support import eventually
from tests.separate_database import SeparateDatabase, separate_database

MODES = ("legacy", STATELESS, "auto")
HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
SUM = {"expression": "6 * 7"}


@asynccontextmanager
async def client_of(service: RunningService, caller: Caller, mode: str = "auto"):
    """The official client, as this caller."""
    async with httpx2.AsyncClient(headers=caller.headers, trust_env=False) as http:
        async with Client(streamable_http_client(f"{service.url}/mcp", http_client=http), mode=mode) as client:
            yield client


def audit_of(connection: psycopg.Connection, request_id: str) -> list[tuple[str, str]]:
    """Action and reason of a request's entries, in their order."""
    query = "SELECT action, reason FROM audit_events WHERE request_id = %s ORDER BY id"
    return connection.execute(query, (request_id,)).fetchall()


# --- the official client


@pytest.mark.parametrize("mode", MODES)
async def test_the_official_client_sees_and_calls_what_its_users_role_may(service: RunningService, mode: str):
    async with client_of(service, Caller(role="admin"), mode) as client:
        for_admin = {tool.name for tool in (await client.list_tools()).tools}
        assert "versions" in (await client.call_tool("admin_debug_tool", {})).content[0].text
    async with client_of(service, Caller(), mode) as client:
        for_user = {tool.name for tool in (await client.list_tools()).tools}
        denied = await client.call_tool("admin_debug_tool", {})
        found = await client.call_tool("calculator_tool", SUM)
        with pytest.raises(MCPError, match="Unknown tool"):
            await client.call_tool("no_such_tool", {})
    assert "admin_debug_tool" in for_admin - for_user
    assert for_user <= for_admin
    assert denied.is_error
    assert denied.meta[META_KEY]["code"] == "denied"
    assert not found.is_error
    assert found.content[0].text == "42"


async def test_fifty_calls_at_once_are_answered_each_with_its_own(service: RunningService):
    async def calculate(client: Client, number: int) -> str:
        found = await client.call_tool("calculator_tool", {"expression": f"{number} * 2"})
        return found.content[0].text

    async with client_of(service, Caller(), STATELESS) as client:
        async with asyncio.timeout(20):
            answers = await asyncio.gather(*(calculate(client, number) for number in range(50)))
    assert answers == [str(2 * number) for number in range(50)]


# --- the gateway in front


def signed(document: dict[str, Any], path: str = "/mcp", **changes: str) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request as a gateway sends it."""
    body = json.dumps(document).encode()
    identity = {"x-supabase-user-id": str(uuid4()), "x-supabase-user-role": "user"}
    key = settings.GATEWAY_SIGNING_KEYS.active
    return body, {**HEADERS, **sign(key, method="POST", target=path, identity=identity, body=body), **changes}


def post(service: RunningService, body: bytes, headers: dict[str, str], path: str = "/mcp") -> httpx.Response:
    return httpx.post(f"{service.url}{path}", content=body, headers=headers, timeout=30, trust_env=False)


@pytest.mark.parametrize("path", ["/mcp", "/mcp/"])
def test_a_signed_request_is_served_once(service: RunningService, path: str):
    body, headers = signed(call_of("calculator_tool", SUM), path)
    assert "42" in post(service, body, headers, path).text
    again = post(service, body, headers, path)
    assert (again.status_code, again.json()["code"]) == (401, "replayed_request")


def test_a_signed_list_is_served_once_as_well(service: RunningService):
    body, headers = signed(request("tools/list"))
    assert post(service, body, headers).status_code == 200
    assert post(service, body, headers).json()["code"] == "replayed_request"


@pytest.mark.parametrize("change", ["another role", "another body", "another path", "no signature"])
def test_a_forged_request_is_refused(service: RunningService, change: str):
    body, headers = signed(call_of("calculator_tool", SUM))
    path = "/mcp"
    if change == "another role":
        headers["x-supabase-user-role"] = "admin"
    elif change == "another body":
        body = body.replace(b"6 * 7", b"6 * 8")
    elif change == "another path":
        path = "/mcp/"
    else:
        headers = {**HEADERS, **Caller().headers, "x-forwarded-for": "203.0.113.9"}
    answer = post(service, body, headers, path)
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_signature")


def test_nobody_is_served_who_says_not_who_they_are(service: RunningService):
    answer = post(service, json.dumps(request("tools/list")).encode(), HEADERS)
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_user_id")


def test_a_body_that_is_too_large_is_refused(service: RunningService):
    document = call_of("calculator_tool", {"expression": "1" * (1024 * 1024)})
    body, headers = signed(document)
    answer = post(service, body, headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("name", "value", "status"), [("host", "evil.example", 400), ("origin", "http://evil.example", 403)]
)
def test_a_page_that_rebinds_a_name_reaches_nothing(service: RunningService, name: str, value: str, status: int):
    body, headers = signed(request("tools/list"), **{name: value})
    answer = post(service, body, headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/mcp2", "/mcp/x", "/mcpx/"])
def test_only_the_address_itself_is_the_server(service: RunningService, path: str):
    body, headers = signed(request("tools/list"), path)
    assert post(service, body, headers, path).status_code == 404


# --- the audit trail behind


def test_what_a_call_did_is_found_by_its_requests_id(service: RunningService, superuser_connection: psycopg.Connection):
    for tool, end in (
        ("calculator_tool", [("tool.allowed", "any_role"), ("tool.called", "")]),
        ("admin_debug_tool", [("tool.denied", "admin_only")]),
    ):
        request_id = f"test-{uuid4()}"
        body, headers = signed(call_of(tool, SUM), **{"x-request-id": request_id})
        assert post(service, body, headers).headers["x-request-id"] == request_id
        wanted = [("authentication.accepted", ""), ("request.opened", ""), *end]
        eventually(lambda: audit_of(superuser_connection, request_id) == wanted, f"the entries of {tool}")  # noqa: B023


# --- processes that wait and end


@pytest.fixture(scope="module")
def waiting_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("waiting")


@pytest.fixture(scope="module")
def services(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, waiting_folder: Path
) -> Iterator[SeparateDatabase]:
    """Services that have the waiting tool."""
    own = {"TOOL_MODULES": "tests.mcp_server.waiting_tools", "WAITING_FOLDER": str(waiting_folder)}
    with separate_database(cluster, tmp_path_factory.mktemp("services"), **own) as made:
        yield made


@pytest.fixture(scope="module")
def waiting_service(services: SeparateDatabase) -> RunningService:
    return services.start()


class Waiting:
    """A caller's call of the waiting tool."""

    def __init__(self, folder: Path) -> None:
        self.caller = Caller()
        self._folder = folder / self.caller.id
        self._folder.mkdir()

    def has(self, trace: str) -> bool:
        return (self._folder / trace).exists()

    def go_on(self) -> None:
        (self._folder / "go-on").touch()


@pytest.fixture
def waiting(waiting_folder: Path) -> Waiting:
    return Waiting(waiting_folder)


async def seen(waiting: Waiting, trace: str) -> None:
    await asyncio.to_thread(eventually, lambda: waiting.has(trace), trace)


@pytest.mark.parametrize("mode", ["legacy", STATELESS])
async def test_progress_reaches_the_client_while_the_call_goes_on(
    waiting_service: RunningService, waiting: Waiting, mode: str
):
    heard: asyncio.Queue[tuple[float, float | None, str | None]] = asyncio.Queue()

    async def hear(done: float, total: float | None, message: str | None) -> None:
        await heard.put((done, total, message))

    async with client_of(waiting_service, waiting.caller, mode) as client:
        call = asyncio.create_task(client.call_tool("waiting_tool", {}, progress_callback=hear))
        async with asyncio.timeout(20):
            assert await heard.get() == (1, 2, "waiting")
        assert not call.done()
        waiting.go_on()
        async with asyncio.timeout(20):
            assert (await call).content[0].text == "through"
            assert await heard.get() == (2, 2, "through")


@pytest.mark.parametrize("version", ["2025-11-25", STATELESS])
async def test_a_client_that_hangs_up_cancels_its_call(
    waiting_service: RunningService, services: SeparateDatabase, waiting: Waiting, version: str
):
    request_id = f"test-{uuid4()}"
    routing = {"mcp-protocol-version": version, "mcp-method": "tools/call", "mcp-name": "waiting_tool"}
    headers = {**HEADERS, **waiting.caller.headers, **routing, "x-request-id": request_id}
    async with httpx.AsyncClient(headers=headers, trust_env=False, timeout=30) as http:
        call = asyncio.create_task(
            http.post(f"{waiting_service.url}/mcp", json=call_of("waiting_tool", version=version))
        )
        await seen(waiting, "begun")
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    await seen(waiting, "cancelled")
    wanted = ["authentication.accepted", "request.opened", "tool.allowed", "request.client_gone"]
    await asyncio.to_thread(
        eventually,
        lambda: [action for action, _ in audit_of(services.connection, request_id)] == wanted,
        "the record that the client left",
    )


async def test_a_process_that_is_told_to_end_lets_calls_finish_and_answers_for_those_that_do_not(
    services: SeparateDatabase, waiting_folder: Path
):
    quick, slow = Waiting(waiting_folder), Waiting(waiting_folder)
    ending = await asyncio.to_thread(services.start, SHUTDOWN_GRACE_SECONDS="2")
    async with client_of(ending, quick.caller) as of_quick, client_of(ending, slow.caller) as of_slow:
        for client in (of_quick, of_slow):
            await client.list_tools()  # else it would ask for the list after the call
        finishing = asyncio.create_task(of_quick.call_tool("waiting_tool", {}))
        outlasting = asyncio.create_task(of_slow.call_tool("waiting_tool", {}))
        await seen(quick, "begun")
        await seen(slow, "begun")
        ending.process.send_signal(signal.SIGTERM)
        refused = await asyncio.to_thread(_refused_while_ending, ending, quick.caller)
        quick.go_on()
        async with asyncio.timeout(20):
            finished, interrupted = await finishing, await outlasting
    assert await asyncio.to_thread(ending.ended) == 0
    assert refused["code"] == "shutting_down"
    assert finished.content[0].text == "through"
    assert interrupted.is_error
    assert interrupted.meta[META_KEY] == {"code": "interrupted", "retryable": True}
    assert slow.has("cancelled")


def _refused_while_ending(service: RunningService, caller: Caller) -> dict[str, Any]:
    """What a new request is told, once the process knows that it ends."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        answer = post(service, json.dumps(request("tools/list")).encode(), {**HEADERS, **caller.headers})
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) > 0
            document: dict[str, Any] = answer.json()
            return document
    raise AssertionError("new requests were served until the end")
