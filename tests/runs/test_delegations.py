"""A run that hands a task to another agent: seen as a subagent, by each kind of client."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from agentbackend.embedded_postgres.cluster import Cluster
from tests.running_service import Caller, Frame, RunningService, run_input
from tests.runs.support import Reader, Stored, assert_well_formed, events, following, text, types
from tests.separate_database import SeparateDatabase, separate_database

ASK = "Please ask the researcher about tea"
STALL = 'demo: call delegate_to_researcher {"task": "stall"}'
FAIL = 'demo: call delegate_to_researcher {"task": "fail"}'


def subagent_text(frames: list[Frame]) -> str:
    return "".join(e["delta"] for e in events(frames, "TEXT_MESSAGE_CONTENT") if "subagentRunId" in e)


def test_a_delegation_is_a_subagent_whose_answer_is_the_calls_result(service: RunningService, stored: Stored) -> None:
    wish = run_input(ASK)

    frames = service.stream(Caller(), "POST", "/ag-ui/events", json=wish)

    assert_well_formed(frames, wish["runId"])
    [call] = events(frames, "TOOL_CALL_START")
    [started] = events(frames, "SUBAGENT_STARTED")
    [finished] = events(frames, "SUBAGENT_FINISHED")
    [result] = events(frames, "TOOL_CALL_RESULT")
    assert (started["name"], started["parentToolCallId"]) == ("researcher", call["toolCallId"])
    assert started["metadata"] == {"task": "tea"}
    assert "I was asked: tea." in subagent_text(frames)
    assert finished["result"] == result["content"] == subagent_text(frames)
    assert "delegate_to_researcher answered: I am a scripted agent" in text(frames)  # the model was told
    assert stored.audit(wish["runId"]).count("delegation.allowed") == 1
    assert stored.audit(wish["runId"]).count("delegation.finished") == 1
    assert stored.values(
        "SELECT s.kind FROM orchestration_step s JOIN orchestration_run r ON r.id = s.run_id WHERE r.public_id = %s "
        "ORDER BY s.number",
        wish["runId"],
    ) == ["model_turn", "delegation", "model_turn"]


def test_what_a_subagent_said_stays_in_the_thread_and_is_not_the_answer(
    service: RunningService, stored: Stored
) -> None:
    caller, wish = Caller(), run_input(ASK)
    frames = service.stream(caller, "POST", "/ag-ui/events", json=wish)
    with service.client(caller) as client:
        messages = client.get(f"/ag-ui/threads/{wish['threadId']}/messages").json()["messages"]

    said = next(message for message in messages if "subagentRunId" in message)
    assert said["content"] == subagent_text(frames)
    answer = stored.values(
        "SELECT agent_response FROM conversation_turns c JOIN orchestration_run r ON r.id = c.run_id WHERE r.public_id = %s",
        wish["runId"],
    )
    assert "delegate_to_researcher answered" in answer[0]

    question = {"id": str(uuid4()), "role": "user", "content": "hello"}
    again = run_input("", threadId=wish["threadId"], messages=[*messages, question])
    frames = service.stream(caller, "POST", "/ag-ui/events", json=again)
    assert "MESSAGES_SNAPSHOT" not in types(frames)  # a client that holds it agrees with the server


def test_aguimessage_tells_of_a_delegation_by_its_start_and_its_result(service: RunningService) -> None:
    frames = service.post_run(Caller(), ASK, path="/ag-ui/events?protocol=envelope")

    [start] = events(frames, "A2A_DELEGATION_START")
    [result] = events(frames, "A2A_DELEGATION_RESULT")
    assert (start["data"]["agent"], start["data"]["task"]) == ("researcher", "tea")
    assert result["data"]["delegationId"] == start["data"]["delegationId"]
    assert result["data"]["agent"] == "researcher"
    assert "I was asked: tea." in result["data"]["result"]
    said = [event["message"] for event in events(frames, "AGENT_RESPONSE")]
    assert len(said) == 1
    assert events(frames, "AGENT_RESPONSE")[-1]["data"]["final"] is True


def test_older_clients_are_told_by_custom_events_and_are_shown_no_text_that_is_not_the_agents(
    service: RunningService,
) -> None:
    frames = service.post_run(Caller(), ASK, protocolVersion=...)

    told = {event["name"]: event["value"] for event in events(frames, "CUSTOM")}
    assert told["A2A_DELEGATION_START"]["task"] == "tea"
    assert told["A2A_DELEGATION_RESULT"]["agent"] == "researcher"
    assert not any(kind.startswith("SUBAGENT_") for kind in types(frames))
    assert not any("subagentRunId" in frame.event for frame in frames)
    assert len(events(frames, "TEXT_MESSAGE_START")) == 1


def test_a_peer_that_fails_is_told_to_the_model_and_the_run_goes_on(service: RunningService, stored: Stored) -> None:
    wish = run_input(FAIL)

    frames = service.stream(Caller(), "POST", "/ag-ui/events", json=wish)

    assert_well_formed(frames, wish["runId"])
    [error] = events(frames, "SUBAGENT_ERROR")
    [result] = events(frames, "TOOL_CALL_RESULT")
    assert "sources are closed" in error["message"]
    assert result["metadata"]["error"]["code"] == "failed"
    assert "sources are closed" in text(frames)
    assert types(frames)[-1] == "RUN_FINISHED"
    assert "delegation.failed" in stored.audit(wish["runId"])


def test_an_answer_without_end_is_cut(service: RunningService) -> None:
    wish = run_input('demo: call delegate_to_researcher {"task": "flood"}')

    frames = service.stream(Caller(), "POST", "/ag-ui/events", json=wish)

    assert_well_formed(frames, wish["runId"])
    assert len(events(frames, "SUBAGENT_FINISHED")[0]["result"]) == 64_000


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ('delegate_to_nobody {"task": "x"}', "unknown_tool"),
        ('delegate_to_researcher {"job": "x"}', "invalid_arguments"),
        ('delegate_to_researcher {"task": ""}', "invalid_arguments"),
    ],
)
def test_what_cannot_be_delegated_is_told_to_the_model(service: RunningService, call: str, code: str) -> None:
    frames = service.post_run(Caller(), f"demo: call {call}")

    [result] = events(frames, "TOOL_CALL_RESULT")
    assert result["metadata"]["error"]["code"] == code
    assert events(frames, "SUBAGENT_STARTED") == []


def begun(service: RunningService, caller: Caller, wish: dict[str, Any]) -> Reader:
    """A reader of a run whose subagent has begun to speak and will not end."""
    with service.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (response, frames):
        assert response.status_code == 200
        next(frame for frame in frames if frame.event["type"] == "TEXT_MESSAGE_CONTENT")
    return Reader(read(service, caller, wish["runId"]))


def read(service: RunningService, caller: Caller, run_id: str) -> Iterator[Frame]:
    with following(service, caller, run_id) as frames:
        yield from frames


def test_a_cancelled_run_closes_its_subagent(service: RunningService) -> None:
    caller, wish = Caller(), run_input(STALL)
    reader = begun(service, caller, wish)

    with service.client(caller) as client:
        assert client.post(f"/ag-ui/runs/{wish['runId']}/cancel").status_code == 202

    frames = reader.whole()
    assert_well_formed(frames, wish["runId"])
    assert events(frames, "SUBAGENT_ERROR")[0]["code"] == "cancelled"
    assert frames[-1].event["outcome"] == {"type": "cancelled"}


@pytest.fixture(scope="module")
def services(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeparateDatabase]:
    settings = {"RUN_LEASE_SECONDS": "3", "RUN_HEARTBEAT_SECONDS": "0.5"}
    with separate_database(cluster, tmp_path_factory.mktemp("services"), **settings) as made:
        yield made


def test_a_delegation_goes_on_in_another_process(services: SeparateDatabase) -> None:
    successor, victim = services.start(), services.start()
    caller, wish = Caller(), run_input(STALL)
    begun(victim, caller, wish)
    victim.stop(signal.SIGKILL)

    with following(successor, caller, wish["runId"]) as stream:
        frames = []
        for frame in stream:
            frames.append(frame)
            if frame.event["type"] == "SUBAGENT_STARTED" and len(events(frames, "SUBAGENT_STARTED")) == 2:
                with successor.client(caller) as client:
                    assert client.post(f"/ag-ui/runs/{wish['runId']}/cancel").status_code == 202

    assert_well_formed(frames, wish["runId"])
    first, second = (event["subagentRunId"] for event in events(frames, "SUBAGENT_STARTED"))
    assert first != second
    assert [event["subagentRunId"] for event in events(frames, "SUBAGENT_ERROR")] == [first, second]
