"""`tools/list`: what a client is told of the tools that its user may use."""

from __future__ import annotations

import pytest

from tests.mcp_server.support import HANDSHAKE, REVISIONS, STATELESS, Endpoint, GovernedTools, request
from tests.tools.support import somebody
from tools.calls import SideEffects, ToolDefinition
from tools.mcp_server.listing import PAGE_SIZE, tools_page

OBJECT = {"type": "object", "properties": {"sum": {"type": "integer"}}}


async def answer() -> str:
    return "yes"


@pytest.mark.parametrize("version", REVISIONS)
async def test_each_role_sees_its_tools_in_every_revision(endpoint: Endpoint, version: str):
    admin, user = somebody("admin"), somebody("user")
    for_admin = await endpoint.list_tools(admin, version)
    for_user = await endpoint.list_tools(user, version)
    assert set(for_admin) - set(for_user) >= {"admin_debug_tool"}
    assert "calculator_tool" in for_user
    assert list(for_user) == sorted(for_user)


async def test_a_tool_that_is_off_or_denied_is_not_listed(endpoint: Endpoint, make_tool: GovernedTools):
    off = await make_tool(answer, enabled=False)
    other = await make_tool(answer, required_role="somebody-else")
    listed = await endpoint.list_tools(somebody())
    assert off not in listed
    assert other not in listed


async def test_a_tool_says_what_is_known_of_it_and_nothing_else(endpoint: Endpoint, make_tool: GovernedTools):
    async def add(a: int) -> dict[str, int]:
        return {"sum": a}

    idempotent = await make_tool(
        add, title="Sum", description="Adds.", output_schema=OBJECT, side_effects=SideEffects.IDEMPOTENT
    )
    keyed = await make_tool(answer, side_effects=SideEffects.KEYED)
    listed = await endpoint.list_tools(somebody())
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    assert listed[idempotent] == {
        "name": idempotent,
        "title": "Sum",
        "description": "Adds.",
        "inputSchema": schema,
        "outputSchema": OBJECT,
        "annotations": {"title": "Sum", "idempotentHint": True},
    }
    assert listed[keyed]["annotations"]["idempotentHint"] is False


async def test_a_result_that_is_no_object_is_promised_from_the_revision_on_that_knows_it(
    endpoint: Endpoint, make_tool: GovernedTools
):
    number = await make_tool(answer, output_schema={"type": "integer"})
    actor = somebody()
    assert "outputSchema" not in (await endpoint.list_tools(actor, HANDSHAKE))[number]
    assert (await endpoint.list_tools(actor, STATELESS))[number]["outputSchema"] == {"type": "integer"}


async def test_a_list_may_be_kept_for_a_while_by_who_asked_for_it(endpoint: Endpoint):
    answer = await endpoint.post(request("tools/list", version=STATELESS), version=STATELESS)
    assert answer.result["cacheScope"] == "private"
    assert answer.result["ttlMs"] > 0
    assert answer.headers["cache-control"].startswith("no-store")


def definitions(count: int) -> list[ToolDefinition]:
    return [
        ToolDefinition(f"tool_{n:04}", "", "A tool.", {"type": "object"}, SideEffects.UNSAFE, 1, "")
        for n in range(count)
    ]


def test_pages_follow_each_other_and_stay_true_when_tools_come_and_go():
    tools = definitions(2 * PAGE_SIZE + 1)
    first = tools_page(tools, None, HANDSHAKE)
    second = tools_page(tools, first.next_cursor, HANDSHAKE)
    assert [tool.name for tool in [*first.tools, *second.tools]] == [tool.name for tool in tools[: 2 * PAGE_SIZE]]

    fewer = [tool for tool in tools if tool.name != first.tools[-1].name]  # the very tool that the cursor names is gone
    third = tools_page(fewer, second.next_cursor, HANDSHAKE)
    assert [tool.name for tool in third.tools] == [tools[-1].name]
    assert third.next_cursor is None
    assert tools_page(fewer, first.next_cursor, HANDSHAKE).tools[0].name == second.tools[0].name


def test_a_last_page_that_is_full_has_no_next():
    assert tools_page(definitions(PAGE_SIZE), None, HANDSHAKE).next_cursor is None
    assert tools_page([], None, HANDSHAKE).tools == []


@pytest.mark.parametrize("version", [HANDSHAKE, STATELESS])
@pytest.mark.parametrize("cursor", ["7", "////", "bm8gbmFtZSE=", "é"])
async def test_a_cursor_of_somebody_elses_making_is_refused(endpoint: Endpoint, version: str, cursor: str):
    answer = await endpoint.post(request("tools/list", {"cursor": cursor}, version=version), version=version)
    assert answer.error["code"] == -32602
    assert answer.status == (400 if version == STATELESS else 200)


@pytest.mark.parametrize("version", [HANDSHAKE, STATELESS])
async def test_the_server_says_who_it_is_and_that_it_has_tools_only(endpoint: Endpoint, version: str):
    if version == STATELESS:
        answer = await endpoint.post(request("server/discover", version=version), version=version)
        assert answer.result["supportedVersions"] == [STATELESS]
        assert answer.result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "agentbackend"
    else:
        info = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "tests", "version": "1"}}
        answer = await endpoint.post(request("initialize", info), version="")
        assert answer.result["protocolVersion"] == version
        assert answer.result["serverInfo"]["name"] == "agentbackend"
        assert "mcp-session-id" not in answer.headers
    assert list(answer.result["capabilities"]) == ["tools"]
    assert answer.result["instructions"]
