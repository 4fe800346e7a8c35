"""Requests that are no proper ones: each refused in the way that HTTP, JSON-RPC or the protocol has for it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from psycopg import OperationalError

from tests.mcp_server.support import HANDSHAKE, STATELESS, Endpoint, GovernedTools, call_of, request
from tests.tools.support import somebody
from tools.registry import Snapshot

BOTH = pytest.mark.parametrize("version", [HANDSHAKE, STATELESS])


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "HEAD", "OPTIONS"])
async def test_nothing_but_post_is_served(endpoint: Endpoint, method: str):
    answer = await endpoint.post(b"", method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert not any(name.startswith("access-control-") for name in answer.headers)
    assert endpoint.recorder.entries == []  # clients try a GET as a matter of course


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example", "http://[", ""])
async def test_a_page_of_another_site_is_refused(endpoint: Endpoint, origin: str):
    headers = {"origin": origin} if origin else {"origin": "http://localhost:9"}
    answer = await endpoint.post(request("tools/list"), headers=headers, request_id="r-origin")
    assert (answer.status, answer.problem) == (403, "forbidden")
    assert endpoint.recorded("r-origin") == [("request.refused", "forbidden")]


async def test_a_page_of_this_host_is_served(endpoint: Endpoint):
    answer = await endpoint.post(request("tools/list"), headers={"origin": "https://localhost"})
    assert answer.status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/jsonp", "application/x-www-form-urlencoded", ""])
async def test_a_body_of_another_type_is_refused(endpoint: Endpoint, kind: str):
    answer = await endpoint.post(request("tools/list"), headers={"content-type": kind})
    assert (answer.status, answer.problem) == (415, "unsupported_media_type")


@BOTH
@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b'{"a": NaN}', b"\xff", b'"\\ud800"', b"[" * 5000])
async def test_what_is_no_json_is_a_parse_error(endpoint: Endpoint, version: str, body: bytes):
    answer = await endpoint.post(body, version=version, request_id="r-parse")
    assert (answer.status, answer.error["code"]) == (400, -32700)
    assert answer.messages[0]["id"] is None
    assert endpoint.recorded("r-parse") == [("request.refused", "invalid_json")]


@BOTH
@pytest.mark.parametrize("document", [[], [request("ping")], 7, "text", None])
async def test_batches_and_what_is_no_message_are_refused(endpoint: Endpoint, version: str, document: Any):
    answer = await endpoint.post(json.dumps(document).encode(), version=version)
    assert (answer.status, answer.error["code"]) == (400, -32600)


@BOTH
@pytest.mark.parametrize(
    "document",
    [{}, {"jsonrpc": "1.0", "id": 1, "method": "ping"}]
    + [{"jsonrpc": "2.0", "id": id, "method": "ping"} for id in ({}, None, True, 1.5)],
)
async def test_an_object_that_is_no_request_is_refused(endpoint: Endpoint, version: str, document: dict[str, Any]):
    answer = await endpoint.post(document, version=version)
    assert answer.status == 400
    assert answer.error["code"] in (-32600, -32602)


@BOTH
@pytest.mark.parametrize("method", ["no/such", "resources/list", "prompts/list", "logging/setLevel"])
async def test_a_method_that_is_not_served_is_not_found(endpoint: Endpoint, version: str, method: str):
    params = {"level": "info"} if method == "logging/setLevel" else {}
    answer = await endpoint.post(request(method, params, version=version), version=version)
    assert answer.error["code"] == -32601
    assert answer.messages[0]["id"] == 1
    assert answer.status == (404 if version == STATELESS else 200)


@pytest.mark.parametrize("version", ["1999-01-01", "nonsense", "2026-07-29"])
async def test_a_revision_that_nobody_knows_is_refused_with_those_that_are_served(endpoint: Endpoint, version: str):
    document = request("tools/list", version=STATELESS)
    document["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = version
    answer = await endpoint.post(document, version=version)
    assert (answer.status, answer.error["code"]) == (400, -32022)
    assert STATELESS in answer.error["data"]["supported"]


async def test_a_client_that_names_no_revision_is_served_as_an_old_one(endpoint: Endpoint):
    answer = await endpoint.post(request("tools/list"), version="")
    assert "calculator_tool" in [tool["name"] for tool in answer.result["tools"]]


async def test_a_session_that_this_server_never_gave_changes_nothing(endpoint: Endpoint):
    answer = await endpoint.post(request("tools/list"), headers={"mcp-session-id": "made-up"})
    assert answer.status == 200


@BOTH
async def test_notifications_are_acknowledged_and_not_recorded(endpoint: Endpoint, version: str):
    note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    answer = await endpoint.post(note, version=version)
    assert (answer.status, answer.body) == (202, b"")
    assert endpoint.recorder.entries == []


async def test_headers_and_body_that_contradict_each_other_are_refused(endpoint: Endpoint):
    call = call_of("calculator_tool", {"expression": "1"}, version=STATELESS)
    answer = await endpoint.post(call, version=STATELESS, headers={"mcp-name": "admin_debug_tool"})
    assert (answer.status, answer.error["code"]) == (400, -32020)


async def test_a_parameter_in_a_header_is_held_against_the_tools_schema_for_who_may_use_it(
    endpoint: Endpoint, make_tool: GovernedTools
):
    async def find(region: str) -> str:
        return region

    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    tool = await make_tool(find, input_schema=schema, required_role="regional")
    call = call_of(tool, {"region": "north"}, version=STATELESS)
    wrong = {"mcp-param-region": "south"}
    allowed = await endpoint.post(call, version=STATELESS, actor=somebody("regional"), headers=wrong)
    assert (allowed.status, allowed.error["code"]) == (400, -32020)
    stranger = await endpoint.post(call, version=STATELESS, headers=wrong)
    assert stranger.result["isError"] is True  # denied: nothing of the schema is told
    right = {"mcp-param-region": "north"}
    fits = await endpoint.post(call, version=STATELESS, actor=somebody("regional"), headers=right)
    assert fits.result["content"][0]["text"] == "north"


@BOTH
async def test_without_the_database_the_request_is_refused_for_now(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, version: str
):
    async def away() -> Snapshot:
        raise OperationalError("the database's address")

    monkeypatch.setattr(endpoint.registry, "snapshot", away)
    answer = await endpoint.post(request("tools/list", version=version), version=version)
    assert (answer.status, answer.problem) == (503, "unavailable")
    assert b"address" not in answer.body
    assert endpoint.requests.count == 0


async def test_a_fault_before_the_answer_is_a_problem_without_its_inside(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
):
    async def break_down(*arguments: Any) -> None:
        raise RuntimeError("the inside")

    monkeypatch.setattr(StreamableHTTPSessionManager, "handle_request", break_down)
    answer = await endpoint.post(request("tools/list"))
    assert (answer.status, answer.problem) == (500, "internal_error")
    assert b"inside" not in answer.body
    assert endpoint.requests.count == 0


async def test_a_client_that_takes_no_json_is_told_so(endpoint: Endpoint):
    for version in (HANDSHAKE, STATELESS):
        answer = await endpoint.post(
            request("tools/list", version=version), version=version, headers={"accept": "text/html"}
        )
        assert answer.status == 406
