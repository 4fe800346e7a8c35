"""Joining a thread: a client that was not there is told how things stand, then hears what goes on."""

from __future__ import annotations

import itertools
from typing import Any

import psycopg
import pytest

from agentbackend.foundation.database import Database
from tests.running_service import Caller, Frame, RunningService, ServiceFactory, run_input
from tests.runs.support import events, text, types
from tests.stored_runs import stored_run


@pytest.fixture(scope="module")
def other_process(service_factory: ServiceFactory) -> RunningService:
    return service_factory.start()


def join(service: RunningService, caller: Caller, wish: dict[str, Any], **changes: Any) -> Any:
    given = {**run_input(""), "messages": [], "threadId": wish["threadId"], **changes}
    return service.open_stream(caller, "POST", "/ag-ui/agent/assistant/connect", json=given)


def applied(frames: list[Frame]) -> list[dict[str, Any]]:
    """The messages that a client holds after these events, texts only."""
    messages: dict[str, dict[str, Any]] = {}
    for frame in frames:
        event = frame.event
        if event["type"] == "MESSAGES_SNAPSHOT":
            messages = {message["id"]: dict(message) for message in event["messages"]}
        elif event["type"] == "TEXT_MESSAGE_START":
            messages[event["messageId"]] = {"id": event["messageId"], "role": "assistant", "content": ""}
        elif event["type"] == "TEXT_MESSAGE_CONTENT":
            messages[event["messageId"]]["content"] += event["delta"]
    return list(messages.values())


@pytest.mark.parametrize("where", ["same process", "another process"])
def test_who_joins_in_the_middle_of_an_answer_gets_all_of_it(
    service: RunningService, other_process: RunningService, where: str
) -> None:
    caller, wish = Caller(), run_input("demo: slow 60")
    reader = service if where == "same process" else other_process
    with service.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        seen = [next(frames) for _ in range(8)]
        with join(reader, caller, wish) as (response, joined):
            assert response.headers["x-run-id"] == wish["runId"]
            told = list(joined)
        seen += list(frames)
    synthetic = [frame for frame in told if not frame.id]
    assert types(synthetic)[:2] == ["RUN_STARTED", "MESSAGES_SNAPSHOT"]
    assert {"STEP_STARTED", "TEXT_MESSAGE_START"} <= set(types(synthetic))
    tail = [frame for frame in told if frame.id]
    assert [frame.number for frame in tail] == list(range(tail[0].number, len(seen) + 1))
    assert [message["content"] for message in applied(told)] == ["demo: slow 60", text(seen)]
    assert told[-1].event["type"] == "RUN_FINISHED"


def test_who_joins_a_thread_where_nothing_goes_on_is_told_its_messages(service: RunningService) -> None:
    caller, wish = Caller(), run_input("What is the weather like in London?", state={"unit": "celsius"})
    service.post_run(caller, "", **wish)
    with join(service, caller, wish) as (_, frames):
        told = list(frames)
    assert types(told) == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "STATE_SNAPSHOT", "RUN_FINISHED"]
    [snapshot] = events(told, "MESSAGES_SNAPSHOT")
    assert [message["role"] for message in snapshot["messages"]] == ["user", "assistant", "tool", "assistant"]
    with service.client(caller) as client:
        assert client.get(f"/ag-ui/threads/{wish['threadId']}/messages").json()["messages"] == snapshot["messages"]


def test_a_thread_that_does_not_exist_yet_has_nothing_to_say(service: RunningService) -> None:
    with join(service, Caller(), run_input("")) as (response, frames):
        assert response.status_code == 200
        assert types(list(frames)) == ["RUN_STARTED", "RUN_FINISHED"]


def test_a_strangers_thread_has_nothing_to_say_either(service: RunningService) -> None:
    wish = run_input("hello")
    service.post_run(Caller(), "", **wish)
    with join(service, Caller(), wish) as (_, frames):
        assert types(list(frames)) == ["RUN_STARTED", "RUN_FINISHED"]


def test_who_joins_while_a_tool_is_called_sees_the_call_once(service: RunningService) -> None:
    caller, wish = Caller(), run_input("What is the weather like in London and in Paris?")
    with service.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        for frame in frames:
            if frame.event["type"] == "TOOL_CALL_START":
                break
        with join(service, caller, wish) as (_, joined):
            told = list(joined)
        list(frames)
    known = [
        call["id"]
        for event in events(told, "MESSAGES_SNAPSHOT")
        for m in event["messages"]
        for call in m.get("toolCalls", ())
    ]
    begun = [event["toolCallId"] for event in events(told, "TOOL_CALL_START")]
    assert len(set(known + begun)) == len(known + begun) == 2
    assert told[-1].event["type"] == "RUN_FINISHED"


def test_an_agent_that_is_not_there_cannot_be_joined(service: RunningService) -> None:
    with service.client(Caller()) as client:
        answer = client.post("/ag-ui/agent/nobody/connect", json=run_input("hello"))
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_agent")


async def test_who_joins_a_run_that_still_waits_resumes_after_its_beginning(
    service: RunningService, database_pool: Database, superuser_connection: psycopg.Connection
) -> None:
    run_id = await stored_run(database_pool, status="queued")
    owner, thread = superuser_connection.execute(
        "SELECT run.owner_id, thread.public_id FROM orchestration_run AS run JOIN orchestration_thread AS thread "
        "ON thread.id = run.thread_id WHERE run.id = %s",
        (run_id,),
    ).fetchone()  # type: ignore[misc]
    given = run_input("", threadId=thread, messages=[])
    address = "/ag-ui/agent/assistant/connect"
    with service.client(Caller(id=owner)) as client, client.stream("POST", address, json=given) as response:
        lines = [
            line for line in itertools.takewhile(lambda line: not line.startswith(":"), response.iter_lines()) if line
        ]
    assert [line.split('"')[3] for line in lines[:-1]] == ["RUN_STARTED", "MESSAGES_SNAPSHOT"]
    assert lines[-1] == f"id: {run_id}.1", "the cursor, after the RUN_STARTED that was said already"
