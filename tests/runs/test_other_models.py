"""Runs with a model server that is not ours: what it is sent, what it may not have, how it is left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.running_service import Caller, RunningService, ServiceFactory, run_input
from tests.runs.support import Stored, assert_well_formed, events, eventually, text
from tests.runs.upstream import Upstream


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    started = Upstream()
    yield started
    started.close()


@pytest.fixture(scope="module")
def connected(service_factory: ServiceFactory, upstream: Upstream) -> Iterator[RunningService]:
    """A service whose model is the upstream."""
    started = service_factory.start(OPENAI_BASE_URL=upstream.url, OPENAI_API_KEY="sk-test", OPENAI_MODEL="theirs")
    yield started
    started.stop()


def test_the_model_is_sent_the_question_the_thread_and_the_tools(connected: RunningService, upstream: Upstream) -> None:
    caller, wish = Caller(), run_input("first question")
    connected.stream(caller, "POST", "/ag-ui/events", json=wish)
    context = [{"description": "The page", "value": "basket"}]
    connected.post_run(caller, "second question", threadId=wish["threadId"], context=context)
    sent = upstream.requests[-1]
    assert (sent["model"], sent["stream"]) == ("theirs", True)
    said = [(message["role"], message["content"]) for message in sent["messages"]]
    assert said[1:] == [
        ("user", "first question"), ("assistant", "I was told: first question"), ("user", "second question"),
    ]  # fmt: skip
    assert said[0][0] == "system"
    assert "The page: basket" in said[0][1]
    assert {"get_weather_tool", "calculator_tool"} <= {tool["function"]["name"] for tool in sent["tools"]}
    assert "admin_debug_tool" not in str(sent["tools"])


def test_a_tool_that_the_callers_role_may_not_use_is_denied_where_it_is_called(
    connected: RunningService, stored: Stored
) -> None:
    denied, allowed = run_input("call admin_debug_tool"), run_input("call admin_debug_tool")
    frames = connected.stream(Caller(), "POST", "/ag-ui/events", json=denied)
    assert_well_formed(frames, denied["runId"])
    [result] = events(frames, "TOOL_CALL_RESULT")
    assert result["metadata"]["error"]["code"] == "denied"
    assert result["content"] in text(frames), "the model is told"
    assert "tool.denied" in stored.audit(denied["runId"])
    assert not {"tool.allowed", "tool.called"} & set(stored.audit(denied["runId"]))
    frames = connected.stream(Caller(role="admin"), "POST", "/ag-ui/events", json=allowed)
    assert "metadata" not in events(frames, "TOOL_CALL_RESULT")[0]
    assert {"tool.allowed", "tool.called"} <= set(stored.audit(allowed["runId"]))


def test_a_tool_that_does_not_exist_is_told_to_the_model(connected: RunningService) -> None:
    wish = run_input("call no_such_tool")
    frames = connected.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    assert_well_formed(frames, wish["runId"])
    assert events(frames, "TOOL_CALL_RESULT")[0]["content"] in text(frames)


def test_a_run_that_is_stopped_hangs_up_on_its_model(connected: RunningService, upstream: Upstream) -> None:
    caller, wish = Caller(), run_input("endless")
    upstream.hung_up.clear()
    with connected.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        seen = [next(frames) for _ in range(6)]
        with connected.client(caller) as client:
            client.post(f"/ag-ui/runs/{wish['runId']}/cancel").raise_for_status()
        seen += list(frames)
    assert seen[-1].event["outcome"] == {"type": "cancelled"}
    assert upstream.hung_up.wait(10)


def test_a_run_without_a_reader_does_not_hang_up_on_its_model(
    connected: RunningService, upstream: Upstream, stored: Stored
) -> None:
    caller, wish = Caller(), run_input("endless")
    upstream.hung_up.clear()
    with connected.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        last = [next(frames) for _ in range(6)][-1]
    eventually(lambda: "request.client_gone" in stored.audit(wish["runId"]), "the service knows that the client left")
    eventually(lambda: len(stored.log(wish["runId"])) > last.number + 20, "the run goes on")
    assert not upstream.hung_up.is_set()
    with connected.client(caller) as client:
        client.post(f"/ag-ui/runs/{wish['runId']}/cancel").raise_for_status()
    assert upstream.hung_up.wait(10)
