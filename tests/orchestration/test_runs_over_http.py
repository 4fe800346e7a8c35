"""Runs through the real service: what a client sees, and what is left in PostgreSQL."""

from __future__ import annotations

import concurrent.futures
import signal
import time
from collections.abc import Callable
from itertools import pairwise
from uuid import uuid4

import psycopg
import pytest

from tests.running_service import Caller, Frame, RunningService, ServiceFactory, run_input

NUL_IN_A_MESSAGE = b'{"threadId":"t","runId":"r","messages":[{"id":"m","role":"user","content":"\\u0000"}]}'


def types(frames: list[Frame]) -> list[str]:
    return [frame.event.get("type") or frame.event["event_type"] for frame in frames]


def text(frames: list[Frame]) -> str:
    return "".join(frame.event["delta"] for frame in frames if frame.event["type"] == "TEXT_MESSAGE_CONTENT")


def column(connection: psycopg.Connection, query: str, *parameters: object) -> list[object]:
    return [row[0] for row in connection.execute(query, parameters).fetchall()]


def eventually(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def test_the_default_question_is_answered_with_a_tool(service: RunningService) -> None:
    frames = service.stream(Caller(), "GET", "/ag-ui/events")
    assert types(frames) == ["TOOL_CALL_START", "TOOL_OUTPUT", "AGENT_RESPONSE"]
    assert frames[0].event["data"]["arguments"] == {"location": "London"}
    assert frames[2].event["data"]["final"] is True
    assert "London" in frames[2].event["message"]


def test_a_run_is_numbered_without_gaps_and_stored_as_it_was_sent(
    service: RunningService, superuser_connection: psycopg.Connection
) -> None:
    wish = run_input("What is the weather like in Paris?")
    frames = service.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    assert [frame.id for frame in frames] == [f"{wish['runId']}.{number}" for number in range(1, len(frames) + 1)]
    rows = superuser_connection.execute(
        "SELECT e.seq_from, e.seq_to FROM orchestration_runevents e JOIN orchestration_run r ON r.id = e.run_id "
        "WHERE r.public_id = %s ORDER BY e.seq_from",
        (wish["runId"],),
    ).fetchall()
    assert rows[0][0] == 1
    assert rows[-1][1] == len(frames)
    assert all(later[0] == earlier[1] + 1 for earlier, later in pairwise(rows))


def test_a_run_leaves_its_story_in_the_audit_trail_in_order(
    service: RunningService, superuser_connection: psycopg.Connection
) -> None:
    wish = run_input("What is the weather like in Rome?")
    service.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    actions = column(
        superuser_connection,
        "SELECT a.action FROM audit_events a JOIN orchestration_run r ON r.id = a.run_id WHERE r.public_id = %s ORDER BY a.id",
        wish["runId"],
    )
    assert actions == [
        "request.opened", "run.started", "model.turn", "tool.allowed", "tool.called", "model.turn", "run.finished",
    ]  # fmt: skip


def test_the_second_question_of_a_thread_knows_the_first(
    service: RunningService, superuser_connection: psycopg.Connection
) -> None:
    caller, thread_id = Caller(), str(uuid4())
    service.post_run(caller, "What is the weather like in Oslo?", threadId=thread_id)
    frames = service.post_run(caller, "hello again", threadId=thread_id)
    assert "MESSAGES_SNAPSHOT" in types(frames), "this client sent only its new message"
    assert "demo model" not in text(frames), "the demo model introduces itself once in a thread"
    positions = column(
        superuser_connection,
        "SELECT turn.position FROM conversation_turns turn JOIN orchestration_thread t ON t.id = turn.thread_id "
        "WHERE t.public_id = %s ORDER BY 1",
        thread_id,
    )
    assert positions == [1, 2]


def test_a_frontend_tool_ends_the_run_and_its_result_goes_on(service: RunningService) -> None:
    caller, thread_id = Caller(), str(uuid4())
    tools = [{"name": "get_client_time", "description": "The time", "parameters": {"type": "object", "properties": {}}}]
    question = {"id": str(uuid4()), "role": "user", "content": "what time is it for me?"}
    frames = service.post_run(caller, "", threadId=thread_id, tools=tools, messages=[question])
    [call_id] = frames[-1].event["outcome"]["pendingToolCallIds"]
    assert "TOOL_CALL_RESULT" not in types(frames)
    answer = {"id": str(uuid4()), "role": "tool", "toolCallId": call_id, "content": "12:34"}
    frames = service.post_run(caller, "", threadId=thread_id, tools=tools, messages=[question, answer])
    assert "12:34" in text(frames)
    assert frames[-1].event["outcome"] == {"type": "success"}


@pytest.mark.parametrize(
    ("phrase", "code"),
    [
        ("demo: error 500", "model_unavailable"),
        ("demo: error 429", "model_rate_limited"),
        ("demo: rubbish", "model_invalid_response"),
        ("demo: cut", "model_stream_interrupted"),
        ("demo: filter", "model_content_filter"),
        ("demo: empty", "model_invalid_response"),
    ],
)
def test_a_model_that_fails_ends_the_run_with_one_error_and_nothing_open(
    service: RunningService, superuser_connection: psycopg.Connection, phrase: str, code: str
) -> None:
    wish = run_input(phrase)
    frames = service.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    assert types(frames).count("RUN_ERROR") == 1
    assert frames[-1].event["code"] == code
    assert types(frames).count("TEXT_MESSAGE_START") == types(frames).count("TEXT_MESSAGE_END")
    assert column(superuser_connection, "SELECT status FROM orchestration_run WHERE public_id = %s", wish["runId"]) == [
        "failed"
    ]


def test_a_model_that_keeps_calling_tools_is_stopped_and_the_user_is_told(service: RunningService) -> None:
    frames = service.post_run(Caller(), "demo: loop")
    assert "I stopped here" in text(frames)
    assert frames[-1].event["result"] == {"stopped": "max_iterations", "iterations": 10}


def test_a_tool_that_fails_is_told_to_the_model_which_tells_the_user(service: RunningService) -> None:
    frames = service.post_run(Caller(), "What is the weather like in Nowhere?")
    [result] = [frame.event for frame in frames if frame.event["type"] == "TOOL_CALL_RESULT"]
    assert result["metadata"]["error"]["code"] == "failed"
    assert "did not work" in text(frames)
    assert frames[-1].event["outcome"] == {"type": "success"}


def test_an_admin_tool_is_offered_to_administrators_only(service: RunningService) -> None:
    assert "admin_debug_tool" not in str(service.post_run(Caller(), "please debug")[2:-1])
    frames = service.post_run(Caller(role="admin"), "please debug")
    assert "admin_debug_tool" in str([frame.event for frame in frames])
    assert "postgres" not in str([frame.event for frame in frames]).lower() or "password" not in str(frames).lower()


def test_a_client_that_leaves_costs_nothing_but_its_socket(
    service: RunningService, superuser_connection: psycopg.Connection
) -> None:
    caller, wish = Caller(), run_input("demo: slow 50")
    with service.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        first = [next(frames) for _ in range(4)]
    seen = first[-1].number
    rest = service.stream(caller, "GET", f"/ag-ui/runs/{wish['runId']}/events?after={seen}")
    assert [frame.number for frame in rest] == list(range(seen + 1, seen + 1 + len(rest)))
    assert rest[-1].event["type"] == "RUN_FINISHED"
    gone = "SELECT 1 FROM audit_events a JOIN orchestration_run r ON r.id = a.run_id WHERE r.public_id = %s AND a.action = %s"
    eventually(lambda: superuser_connection.execute(gone, (wish["runId"], "request.client_gone")).fetchone())


def test_resuming_never_starts_a_run_and_ends_with_204(service: RunningService) -> None:
    caller = Caller()
    frames = service.stream(caller, "GET", "/ag-ui/events")
    resumed = service.stream(caller, "GET", "/ag-ui/events", headers={"Last-Event-ID": frames[0].id})
    assert [frame.id for frame in resumed] == [frame.id for frame in frames[1:]]
    with service.client(caller) as client:
        assert client.get("/ag-ui/events", headers={"Last-Event-ID": frames[-1].id}).status_code == 204
    with service.client(Caller()) as stranger:
        assert stranger.get("/ag-ui/events", headers={"Last-Event-ID": frames[-1].id}).status_code == 404


def test_a_second_run_in_a_busy_thread_is_refused_with_the_running_ones_id(service: RunningService) -> None:
    caller, wish = Caller(), run_input("demo: slow 100")
    with service.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        next(frames)
        with service.client(caller) as client:
            refused = client.post("/ag-ui/events", json=run_input("hello", threadId=wish["threadId"]))
            assert refused.status_code == 409
            assert (refused.json()["code"], refused.json()["run_id"]) == ("thread_busy", wish["runId"])
            cancelled = client.post(f"/ag-ui/runs/{wish['runId']}/cancel")
            assert cancelled.status_code == 202
        assert list(frames)[-1].event["outcome"] == {"type": "cancelled"}


def test_the_thread_of_another_user_is_not_found(service: RunningService) -> None:
    wish = run_input("hello")
    service.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    with service.client(Caller()) as stranger:
        answer = stranger.post("/ag-ui/events", json=run_input("hello", threadId=wish["threadId"]))
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_bad_input_is_refused_by_field_and_stores_nothing(
    service: RunningService, superuser_connection: psycopg.Connection
) -> None:
    caller = Caller()
    with service.client(caller) as client:
        nul = client.post("/ag-ui/events", content=NUL_IN_A_MESSAGE,
                          headers={"Content-Type": "application/json"})  # fmt: skip
        big = client.post(
            "/ag-ui/events", content=b"x" * (1024 * 1024 + 1), headers={"Content-Type": "application/json"}
        )
        plain = client.post("/ag-ui/events", content=b"{}", headers={"Content-Type": "text/plain"})
    assert (nul.status_code, nul.json()["field"]) == (422, "messages[0].content")
    assert big.status_code == 413
    assert plain.status_code == 415
    assert nul.headers["content-type"] == "application/problem+json"
    assert column(superuser_connection, "SELECT 1 FROM orchestration_thread WHERE owner_id = %s", caller.id) == []


def test_two_hundred_streams_at_once_all_complete(service: RunningService) -> None:
    def one(_: int) -> str:
        return types(service.post_run(Caller(), "hello"))[-1]

    with concurrent.futures.ThreadPoolExecutor(200) as pool:
        assert set(pool.map(one, range(200))) == {"RUN_FINISHED"}


def test_a_reader_on_another_process_follows_the_run_and_sees_its_end_when_the_owner_is_killed(
    service: RunningService, service_factory: ServiceFactory
) -> None:
    owner = service_factory.start(RUN_LEASE_SECONDS="2", RUN_HEARTBEAT_SECONDS="0.5")
    witness = service_factory.start(RUN_LEASE_SECONDS="2", RUN_HEARTBEAT_SECONDS="0.5")
    caller, wish = Caller(), run_input("demo: slow 500")
    with owner.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        next(frames)
        path = f"/ag-ui/runs/{wish['runId']}/events"
        with witness.open_stream(caller, "GET", path) as (_, followed):
            seen = [next(followed) for _ in range(4)]
            owner.stop(signal.SIGKILL)
            seen += list(followed)
    assert [frame.number for frame in seen] == list(range(1, len(seen) + 1))
    assert seen[-1].event["code"] == "run_abandoned"
    assert types(seen).count("TEXT_MESSAGE_START") == types(seen).count("TEXT_MESSAGE_END")


def test_a_stalled_model_is_given_up(service_factory: ServiceFactory) -> None:
    impatient = service_factory.start(MODEL_IDLE_TIMEOUT_SECONDS="0.5", MODEL_FIRST_TOKEN_TIMEOUT_SECONDS="5")
    frames = impatient.post_run(Caller(), "demo: stall")
    assert frames[-1].event["code"] == "model_timeout"
