"""`tools/call`: results, refusals, and what is recorded of them."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async

from audit.actor import SYSTEM
from audit.entry import AuditEntry
from tests.mcp_server.support import HANDSHAKE, META_KEY, REVISIONS, STATELESS, Endpoint, GovernedTools, request
from tests.tools.support import details, envelope, somebody
from tools.calls import SideEffects
from tools.changes import submit
from tools.documents import Document
from tools.invocation import ToolError

OBJECT = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
BOTH = pytest.mark.parametrize("version", [HANDSHAKE, STATELESS])


async def add(a: int, b: int = 0) -> dict[str, int]:
    return {"sum": a + b}


async def answer() -> str:
    return "yes"


@pytest.mark.parametrize("version", REVISIONS)
async def test_a_call_answers_in_every_revision(endpoint: Endpoint, version: str):
    found = await endpoint.call("calculator_tool", {"expression": "6 * 7"}, version=version).answer()
    assert found.status == 200
    assert found.result["content"] == [{"type": "text", "text": "42"}]
    assert not found.result.get("isError")


@BOTH
async def test_a_promised_object_comes_as_text_and_as_structure(
    endpoint: Endpoint, make_tool: GovernedTools, version: str
):
    tool = await make_tool(add, output_schema=OBJECT)
    found = await endpoint.call(tool, {"a": 2, "b": 3}, version=version).answer()
    assert found.result["structuredContent"] == {"sum": 5}
    assert found.result["content"][0]["text"] == '{"sum":5}'


async def test_only_what_is_promised_comes_as_structure(endpoint: Endpoint, make_tool: GovernedTools):
    tool = await make_tool(add)
    found = await endpoint.call(tool, {"a": 2}).answer()
    assert "structuredContent" not in found.result
    assert found.result["content"][0]["text"] == '{"sum":2}'


async def test_a_result_that_is_no_object_has_a_structure_where_the_revision_knows_it(
    endpoint: Endpoint, make_tool: GovernedTools
):
    async def count() -> int:
        return 7

    tool = await make_tool(count, output_schema={"type": "integer"})
    assert "structuredContent" not in (await endpoint.call(tool, version=HANDSHAKE).answer()).result
    assert (await endpoint.call(tool, version=STATELESS).answer()).result["structuredContent"] == 7


async def test_a_cut_result_says_so_and_is_an_error_only_where_a_form_was_promised(
    endpoint: Endpoint, make_tool: GovernedTools
):
    async def much() -> dict[str, Any]:
        return {"sum": 1, "text": "x" * 5000}

    plain = await endpoint.call(await make_tool(much, output_limit_bytes=1000)).answer()
    promised = await endpoint.call(await make_tool(much, output_limit_bytes=1000, output_schema=OBJECT)).answer()
    for found, is_error in ((plain, False), (promised, True)):
        assert "cut here" in found.result["content"][0]["text"]
        assert found.result["_meta"][META_KEY] == {"code": "output_truncated", "retryable": False}
        assert found.result["isError"] is is_error
        assert "structuredContent" not in found.result


# --- refusals


@BOTH
async def test_a_tool_that_does_not_exist_is_an_error_of_the_protocol(endpoint: Endpoint, version: str):
    found = await endpoint.call("no_such_tool", version=version, request_id="r-unknown").answer()
    assert found.error["code"] == -32602
    assert "no_such_tool" in found.error["message"]
    assert found.status == (400 if version == STATELESS else 200)
    assert endpoint.recorded("r-unknown") == [("request.opened", ""), ("tool.denied", "unknown_tool")]


async def refused(endpoint: Endpoint, tool: str, **options: Any) -> tuple[str, dict[str, Any]]:
    """What the model and the program are told of a call that failed."""
    found = await endpoint.call(tool, **options).answer()
    assert found.status == 200
    assert found.result["isError"] is True
    assert "structuredContent" not in found.result
    return found.result["content"][0]["text"], found.result["_meta"][META_KEY]


@BOTH
async def test_a_tool_of_another_role_is_refused_when_it_is_called(endpoint: Endpoint, version: str):
    text, about = await refused(endpoint, "admin_debug_tool", version=version, request_id="r-denied")
    assert about == {"code": "denied", "retryable": False}
    assert "may not use" in text
    assert endpoint.recorded("r-denied") == [("request.opened", ""), ("tool.denied", "admin_only")]
    admin = await endpoint.call("admin_debug_tool", version=version, actor=somebody("admin")).answer()
    assert not admin.result.get("isError")


async def test_arguments_that_do_not_fit_are_told_to_the_model(endpoint: Endpoint):
    text, about = await refused(endpoint, "calculator_tool", arguments={"expr": 1})
    assert about == {"code": "invalid_arguments", "retryable": True}
    assert "expression" in text


async def test_arguments_that_are_too_long_are_told_to_the_model(endpoint: Endpoint):
    _, about = await refused(endpoint, "calculator_tool", arguments={"expression": "ü" * 40_000})
    assert about["code"] == "invalid_arguments"


async def test_a_tool_that_is_off_is_told_to_the_model(endpoint: Endpoint, make_tool: GovernedTools):
    tool = await make_tool(answer, enabled=False)
    assert (await refused(endpoint, tool))[1] == {"code": "disabled", "retryable": False}


async def test_a_call_that_a_person_must_approve_is_not_made(endpoint: Endpoint, make_tool: GovernedTools):
    called: list[int] = []

    async def act() -> str:
        called.append(1)
        return "done"

    tool = await make_tool(act, rules={"approval_required": True})
    text, about = await refused(endpoint, tool, request_id="r-approval")
    assert about == {"code": "needs_approval", "retryable": False}
    assert "approve" in text
    assert called == []
    assert ("tool.approval_asked", "approval_required") in endpoint.recorded("r-approval")


async def test_a_caller_over_a_rate_limit_is_told_when_to_come_again(endpoint: Endpoint, make_tool: GovernedTools):
    tool = await make_tool(answer, rules={"rate_limit": "1/hour"})
    actor = somebody()
    await endpoint.call(tool, actor=actor).answer()
    _, about = await refused(endpoint, tool, actor=actor)
    assert (about["code"], about["retryable"]) == ("rate_limited", True)
    assert 0 < about["retryAfter"] <= 3600


async def test_a_call_over_a_budget_is_refused_and_told_when_it_renews(endpoint: Endpoint, make_tool: GovernedTools):
    tool, actor, name = await make_tool(answer), somebody(), f"test-{uuid4().hex[:12]}"
    spec = {"user_id": actor.id, "what": "tool_calls", "limit": 1, "period": "month"}
    await sync_to_async(submit)(Document("Budget", name, spec), by=SYSTEM)
    await refused(endpoint, tool, actor=actor, arguments={"no": "such"})
    await endpoint.call(tool, actor=actor).answer()
    text, about = await refused(endpoint, tool, actor=actor, request_id="r-budget")
    assert (about["code"], about["retryable"]) == ("over_budget", False)
    assert about["retryAfter"] > 0
    assert name in text
    assert ("tool.denied", "over_budget") in endpoint.recorded("r-budget")
    await endpoint.call(tool, actor=somebody()).answer()
    await sync_to_async(submit)(Document("Budget", name, None), by=SYSTEM)


async def test_a_missing_credential_is_not_named(endpoint: Endpoint, make_tool: GovernedTools):
    tool = await make_tool(answer, required_credentials=["MCP_TEST_NOT_SET"])
    text, about = await refused(endpoint, tool)
    assert about["code"] == "missing_credential"
    assert "MCP_TEST_NOT_SET" not in text


async def test_what_a_tool_says_went_wrong_is_told_and_what_breaks_inside_is_not(
    endpoint: Endpoint, make_tool: GovernedTools
):
    async def fail() -> str:
        raise ToolError("The office is closed.", retryable=True)

    async def break_down() -> str:
        raise RuntimeError("password=hunter2")

    assert await refused(endpoint, await make_tool(fail)) == (
        "The office is closed.",
        {"code": "failed", "retryable": True},
    )
    text, about = await refused(endpoint, await make_tool(break_down))
    assert about == {"code": "failed", "retryable": False}
    assert "hunter2" not in text


@BOTH
async def test_a_call_without_a_name_is_refused_by_the_protocol(endpoint: Endpoint, version: str):
    found = await endpoint.post(request("tools/call", {"arguments": {}}, version=version), version=version)
    assert found.error["code"] == -32602


# --- recording


async def test_a_call_is_recorded_as_the_callers_under_the_requests_id(endpoint: Endpoint):
    actor = somebody()
    trace = "0af7651916cd43dd8448eb211c80319c"
    await endpoint.call(
        "calculator_tool", {"expression": "1"}, version=STATELESS, actor=actor, request_id="r-recorded",
        headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"},
    ).answer()  # fmt: skip
    assert endpoint.recorded("r-recorded") == [
        ("request.opened", ""),
        ("tool.allowed", "any_role"),
        ("tool.called", ""),
    ]
    opened, allowed, _ = endpoint.recorder.entries
    assert details(opened) == {
        "method": "tools/call", "name": "calculator_tool", "client": "tests 7", "protocol": STATELESS,
    }  # fmt: skip
    assert {envelope(entry)["actor_id"] for entry in endpoint.recorder.entries} == {actor.id}
    assert envelope(allowed)["trace_id"] == trace
    assert details(allowed)["origin"] == "mcp"


@BOTH
async def test_what_cannot_be_recorded_is_not_done_and_nothing_of_it_is_told(
    endpoint: Endpoint, make_tool: GovernedTools, monkeypatch: pytest.MonkeyPatch, version: str
):
    called: list[int] = []

    async def act() -> str:
        called.append(1)
        return "done"

    async def lose(entry: AuditEntry) -> None:
        raise RuntimeError("the writer's inside")

    tool = await make_tool(act)
    monkeypatch.setattr(endpoint.recorder, "record", lose)
    found = await endpoint.call(tool, version=version).answer()
    assert found.error["code"] == -32603
    assert "inside" not in found.body.decode()
    assert called == []


async def test_calls_of_one_request_id_have_keys_of_their_own(endpoint: Endpoint, make_tool: GovernedTools):
    keys: list[str] = []

    async def act(*, invocation: Any) -> str:
        keys.append(invocation.idempotency_key)
        return "done"

    tool = await make_tool(act, side_effects=SideEffects.KEYED)
    for _ in range(2):  # two users' clients, both counting from 1
        await endpoint.call(tool, actor=somebody(), request_id="1").answer()
    assert len(set(keys)) == 2
