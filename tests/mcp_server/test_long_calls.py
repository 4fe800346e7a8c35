"""Calls that take their time: progress, cancellation, many at once, the end of the process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.mcp_server.support import HANDSHAKE, META_KEY, STATELESS, Endpoint, GovernedTools, request
from tests.tools.support import somebody
from tools.calls import SideEffects
from tools.invocation import ToolInvocation
from tools.mcp_server.open_requests import OpenRequests

BOTH = pytest.mark.parametrize("version", [HANDSHAKE, STATELESS])
SECRET = "a-secret-of-some-length"


class Gate:
    """A tool's function that says when it has begun, waits, and notices when it is cancelled."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.open = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def wait(self) -> str:
        self.begun.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return "through"


@pytest.fixture
def gate() -> Gate:
    return Gate()


async def soon(event: asyncio.Event) -> None:
    async with asyncio.timeout(10):
        await event.wait()


def gated(gate: Gate) -> Any:
    async def pass_through() -> str:
        return await gate.wait()

    return pass_through


# --- progress


def steps(messages: list[dict[str, Any]]) -> Iterator[tuple[Any, ...]]:
    for message in messages[:-1]:
        assert message["method"] == "notifications/progress"
        params = message["params"]
        yield params["progressToken"], params["progress"], params.get("total"), params.get("message")


@BOTH
@pytest.mark.parametrize("token", ["tok", 7, 0])
async def test_progress_arrives_in_order_and_before_the_result(
    endpoint: Endpoint, make_tool: GovernedTools, version: str, token: str | int
):
    async def work(*, invocation: ToolInvocation) -> str:
        invocation.report_progress(1, 3, "first")
        invocation.report_progress(2, 3)
        await asyncio.sleep(0)
        invocation.report_progress(3, 3, "last")
        return "done"

    found = await endpoint.call(await make_tool(work), version=version, token=token).answer()
    assert list(steps(found.messages)) == [
        (token, 1, 3, "first"),
        (token, 2, 3, None),
        (token, 3, 3, "last"),
    ]
    assert found.result["content"][0]["text"] == "done"


@BOTH
async def test_progress_arrives_from_a_thread(endpoint: Endpoint, make_tool: GovernedTools, version: str):
    def work(*, invocation: ToolInvocation) -> str:
        for done in (0.5, 1.5):
            invocation.report_progress(done)
        return "done"

    found = await endpoint.call(await make_tool(work), version=version, token="t").answer()
    assert list(steps(found.messages)) == [("t", 0.5, None, None), ("t", 1.5, None, None)]


@BOTH
async def test_who_asks_for_no_progress_gets_none(endpoint: Endpoint, make_tool: GovernedTools, version: str):
    async def work(*, invocation: ToolInvocation) -> str:
        invocation.report_progress(1)
        return "done"

    assert len((await endpoint.call(await make_tool(work), version=version).answer()).messages) == 1


async def test_only_progress_goes_out_that_the_protocol_allows(
    endpoint: Endpoint, make_tool: GovernedTools, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MCP_TEST_PROGRESS_KEY", SECRET)

    async def work(*, invocation: ToolInvocation) -> str:
        invocation.report_progress(1, float("nan"), f"asking with {SECRET}")
        for done in (1, 0, float("nan"), float("inf")):
            invocation.report_progress(done)
        invocation.report_progress(2, 2, "x\ud800" + "y" * 2000)
        return "done"

    tool = await make_tool(work, required_credentials=["MCP_TEST_PROGRESS_KEY"])
    found = await endpoint.call(tool, token="t").answer()
    first, second = steps(found.messages)
    assert first == ("t", 1, None, "asking with [redacted]")
    assert second[:3] == ("t", 2, 2)
    assert len(second[3]) <= 500


async def test_a_flood_of_progress_is_thinned_out_and_the_last_step_arrives(
    endpoint: Endpoint, make_tool: GovernedTools
):
    async def work(*, invocation: ToolInvocation) -> str:
        for done in range(1, 10_001):
            invocation.report_progress(done)
        return "done"

    found = await endpoint.call(await make_tool(work), token="t").answer()
    arrived = [done for _, done, _, _ in steps(found.messages)]
    assert len(arrived) < 1000
    assert arrived[-1] == 10_000


# --- cancellation


@BOTH
async def test_a_client_that_leaves_cancels_its_call(
    endpoint: Endpoint, make_tool: GovernedTools, gate: Gate, version: str
):
    sent = endpoint.call(await make_tool(gated(gate)), version=version, request_id="r-left")
    await soon(gate.begun)
    sent.leave()
    await sent.answer()
    assert gate.cancelled.is_set()
    assert endpoint.recorded("r-left") == [
        ("request.opened", ""),
        ("tool.allowed", "any_role"),
        ("request.client_gone", ""),
    ]
    assert endpoint.requests.count == 0


async def test_a_client_that_leaves_after_its_answer_is_not_missed(endpoint: Endpoint):
    sent = endpoint.call("calculator_tool", {"expression": "1"}, request_id="r-after")
    await sent.answer()
    sent.leave()
    assert "request.client_gone" not in [action for action, _ in endpoint.recorded("r-after")]


@BOTH
async def test_a_tool_that_cancels_itself_is_a_fault_and_is_answered(
    endpoint: Endpoint, make_tool: GovernedTools, version: str
):
    async def give_up() -> str:
        raise asyncio.CancelledError

    found = await endpoint.call(await make_tool(give_up), version=version).answer()
    assert found.error["code"] == -32603


def cancellation(of: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": of, "reason": "enough"}}


async def test_a_client_with_a_session_name_cancels_a_call_by_its_id(
    endpoint: Endpoint, make_tool: GovernedTools, gate: Gate
):
    actor = somebody()
    sent = endpoint.call(await make_tool(gated(gate)), actor=actor, session_id="window-1")
    await soon(gate.begun)
    acknowledged = await endpoint.post(cancellation(1), actor=actor, session_id="window-1")
    assert (acknowledged.status, acknowledged.body) == (202, b"")
    found = await sent.answer()
    assert gate.cancelled.is_set()
    assert found.error["code"] == -32800


@pytest.mark.parametrize("who", ["another user", "another session", "no session", "another id"])
async def test_nobody_cancels_a_call_that_may_be_somebody_elses(
    endpoint: Endpoint, make_tool: GovernedTools, gate: Gate, who: str
):
    actor = somebody()
    sent = endpoint.call(await make_tool(gated(gate)), actor=actor, session_id="" if who == "no session" else "one")
    await soon(gate.begun)
    other = somebody() if who == "another user" else actor
    session = {"another session": "two", "no session": ""}.get(who, "one")
    await endpoint.post(cancellation(2 if who == "another id" else 1), actor=other, session_id=session)
    gate.open.set()
    assert (await sent.answer()).result["content"][0]["text"] == "through"


async def test_two_calls_of_the_same_name_are_both_left_alone(endpoint: Endpoint, make_tool: GovernedTools, gate: Gate):
    actor, other = somebody(), Gate()
    first, second = await make_tool(gated(gate)), await make_tool(gated(other))
    sent = [endpoint.call(tool, actor=actor, session_id="one") for tool in (first, second)]
    await soon(gate.begun)
    await soon(other.begun)
    await endpoint.post(cancellation(1), actor=actor, session_id="one")
    gate.open.set()
    other.open.set()
    assert [(await one.answer()).result["content"][0]["text"] for one in sent] == ["through", "through"]


# --- limits, and the end of the process


async def test_a_process_that_serves_as_many_as_it_may_refuses_the_next(
    endpoint: Endpoint, make_tool: GovernedTools, gate: Gate
):
    endpoint.requests = OpenRequests(1)
    sent = endpoint.call(await make_tool(gated(gate)))
    await soon(gate.begun)
    refused = await endpoint.post(request("tools/list"))
    assert (refused.status, refused.problem) == (503, "overloaded")
    assert int(refused.headers["retry-after"]) > 0
    gate.open.set()
    await sent.answer()
    assert (await endpoint.post(request("tools/list"))).status == 200


async def test_a_process_that_ends_refuses_new_requests_and_gives_calls_their_time(
    endpoint: Endpoint, make_tool: GovernedTools, gate: Gate
):
    sent = endpoint.call(await make_tool(gated(gate)))
    await soon(gate.begun)
    draining = asyncio.create_task(endpoint.requests.drain(30))
    await asyncio.sleep(0)
    refused = await endpoint.post(request("tools/list"))
    assert (refused.status, refused.problem) == (503, "shutting_down")
    assert int(refused.headers["retry-after"]) > 0
    assert not draining.done()
    gate.open.set()
    async with asyncio.timeout(10):
        await draining
    assert (await sent.answer()).result["content"][0]["text"] == "through"


@BOTH
@pytest.mark.parametrize(("effects", "repeat"), [(SideEffects.IDEMPOTENT, True), (SideEffects.UNSAFE, False)])
async def test_a_call_that_outlasts_the_process_is_stopped_and_answered(
    endpoint: Endpoint, make_tool: GovernedTools, gate: Gate, version: str, effects: SideEffects, repeat: bool
):
    sent = endpoint.call(await make_tool(gated(gate), side_effects=effects), version=version)
    await soon(gate.begun)
    await endpoint.requests.drain(0)
    assert gate.cancelled.is_set()
    result = (await sent.answer()).result
    assert result["isError"] is True
    assert result["_meta"][META_KEY] == {"code": "interrupted", "retryable": repeat}
    assert ("Call the tool again" in result["content"][0]["text"]) is repeat


async def test_an_idle_process_ends_at_once():
    async with asyncio.timeout(1):
        await OpenRequests(1).drain(60)
