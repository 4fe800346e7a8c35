"""When models, tools and limits stand in a run's way: one clear ending, nothing left open, no internals shown."""

from __future__ import annotations

import json

import pytest

from agentbackend.foundation.problems import PROBLEMS
from tests.running_service import Caller, RunningService, ServiceFactory, run_input
from tests.runs.support import Stored, assert_well_formed, events, text, types

FAILING = [
    ("demo: error 500", "model_unavailable"),
    ("demo: error 429", "model_rate_limited"),
    ("demo: error 400", "model_refused"),
    ("demo: rubbish", "model_invalid_response"),
    ("demo: cut", "model_stream_interrupted"),
    ("demo: filter", "model_content_filter"),
    ("demo: empty", "model_invalid_response"),
]


def ends_failed(service: RunningService, stored: Stored, phrase: str, code: str) -> str:
    """A run of this phrase ends with the one error `code`, in the stream, the row and the trail; returns its message."""
    wish = run_input(phrase)
    frames = service.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    assert_well_formed(frames, wish["runId"])
    error, row = frames[-1].event, stored.run(wish["runId"])
    assert (error["type"], error["code"]) == ("RUN_ERROR", code)
    assert (row["status"], row["error_code"], row["error_message"]) == ("failed", code, error["message"])
    assert row["last_seq"] == len(frames)
    assert stored.audit(wish["runId"])[-2:] == ["run.failed", "error.shown"]
    return str(error["message"])


@pytest.mark.parametrize(("phrase", "code"), FAILING)
def test_a_model_that_fails_ends_the_run_with_one_error(
    service: RunningService, stored: Stored, phrase: str, code: str
) -> None:
    message = ends_failed(service, stored, phrase, code)
    assert message.endswith(".")
    assert not any(word in message for word in ("Traceback", "httpx", "openai", "Error(", "http://", "/v1"))


@pytest.mark.parametrize(("phrase", "code"), FAILING)
def test_the_envelope_says_the_same_and_whether_to_try_again(service: RunningService, phrase: str, code: str) -> None:
    frames = service.post_run(Caller(), phrase, path="/ag-ui/events?protocol=envelope")
    assert types(frames)[-1] == "ERROR"
    assert types(frames).count("ERROR") == 1
    assert frames[-1].event["data"] == {"code": code, "retryable": PROBLEMS[code].retryable}


def test_what_a_broken_answer_has_shown_stays_in_the_thread(service: RunningService) -> None:
    caller, wish = Caller(), run_input("demo: cut")
    shown = text(service.stream(caller, "POST", "/ag-ui/events", json=wish))
    assert shown
    again = service.post_run(caller, "hello", threadId=wish["threadId"])
    [snapshot] = events(again, "MESSAGES_SNAPSHOT")
    assert snapshot["messages"][1]["content"] == shown
    assert again[-1].event["type"] == "RUN_FINISHED"


def test_a_model_that_stalls_is_given_up(other_process: RunningService, stored: Stored) -> None:
    ends_failed(other_process, stored, "demo: stall", "model_timeout")


def ends_stopped(service: RunningService, stored: Stored, phrase: str, limit: str) -> str:
    """A run of this phrase ends at a limit in the middle of its first turn, and the user is told; returns all that was said."""
    wish = run_input(phrase)
    frames = service.stream(caller := Caller(), "POST", "/ag-ui/events", json=wish)
    assert_well_formed(frames, wish["runId"])
    assert frames[-1].event["result"] == {"stopped": limit, "iterations": 1}
    assert frames[-1].event["usage"][0]["outputTokens"] > 0
    assert stored.run(wish["runId"])["status"] == "finished"
    again = service.post_run(caller, "hello", threadId=wish["threadId"])
    [snapshot] = events(again, "MESSAGES_SNAPSHOT")
    said = [message["content"] for message in snapshot["messages"] if message["role"] == "assistant"]
    assert "".join(said) == text(frames)
    return text(frames)


def test_a_run_that_writes_too_much_is_ended_and_the_user_is_told(
    other_process: RunningService, stored: Stored
) -> None:
    assert "as large as one may be" in ends_stopped(other_process, stored, "a long answer, please", "max_bytes")


def test_a_run_that_takes_too_long_is_ended_and_the_user_is_told(
    service_factory: ServiceFactory, stored: Stored
) -> None:
    hasty = service_factory.start(MAX_RUN_SECONDS="1")
    assert "the time that one answer may take is over" in ends_stopped(hasty, stored, "demo: stall", "max_seconds")
    hasty.stop()


def test_a_model_that_never_stops_calling_tools_is_stopped_and_the_user_is_told(
    other_process: RunningService, stored: Stored
) -> None:
    wish = run_input("demo: loop")
    frames = other_process.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    assert_well_formed(frames, wish["runId"])
    assert "3 steps" in text(frames)
    assert frames[-1].event["result"] == {"stopped": "max_iterations", "iterations": 3}
    assert stored.audit(wish["runId"]).count("model.turn") == 3
    assert stored.run(wish["runId"])["status"] == "finished"


def test_a_tool_that_fails_is_told_to_the_model_which_tells_the_user(service: RunningService, stored: Stored) -> None:
    wish = run_input("What is the weather like in Nowhere?")
    frames = service.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    assert_well_formed(frames, wish["runId"])
    [result] = events(frames, "TOOL_CALL_RESULT")
    assert result["metadata"]["error"]["code"] == "failed"
    assert "did not work" in text(frames)
    assert "tool.failed" in stored.audit(wish["runId"])
    assert frames[-1].event["outcome"] == {"type": "success"}


def test_one_tool_that_fails_does_not_spoil_the_others(service: RunningService) -> None:
    frames = service.post_run(Caller(), "What is the weather like in Oslo, Nowhere and Rome?")
    outcomes = ["error" if "metadata" in result else "ok" for result in events(frames, "TOOL_CALL_RESULT")]
    assert sorted(outcomes) == ["error", "ok", "ok"]
    assert "Oslo" in text(frames)
    assert "Rome" in text(frames)


def test_a_call_with_unreadable_arguments_can_be_made_again(service: RunningService) -> None:
    wish = run_input("demo: bad arguments")
    frames = service.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    assert_well_formed(frames, wish["runId"])
    first, second = events(frames, "TOOL_CALL_RESULT")
    assert first["metadata"]["error"]["code"] == "invalid_arguments"
    assert json.loads(second["content"]) == 42
    assert "42" in text(frames)


@pytest.mark.parametrize("tool", ["calculator_tool", "make_plan"])
def test_arguments_that_are_nested_too_deeply_are_refused_and_the_run_goes_on(
    service: RunningService, tool: str
) -> None:
    nested = '{"expression": "1", "values": ' + '{"a":' * 300 + "1" + "}" * 301
    frames = service.post_run(Caller(), f"demo: call {tool} {nested}")
    [result] = events(frames, "TOOL_CALL_RESULT")
    assert "levels deep" in result["content"]
    assert result["metadata"]["error"]["kind"] == "bad_arguments"
    assert frames[-1].event["outcome"] == {"type": "success"}


def test_the_next_question_can_be_asked_after_a_failure(service: RunningService) -> None:
    caller, wish = Caller(), run_input("demo: error 500")
    service.stream(caller, "POST", "/ag-ui/events", json=wish)
    frames = service.post_run(caller, "hello", threadId=wish["threadId"])
    assert frames[-1].event["outcome"] == {"type": "success"}


def test_a_withheld_answer_is_no_successful_model_turn(service: RunningService, stored: Stored) -> None:
    wish = run_input("demo: filter")
    service.post_run(Caller(), "", **wish)
    found = stored.values(
        "SELECT a.outcome || ' ' || a.reason FROM audit_events a JOIN orchestration_run r ON r.id = a.run_id "
        "WHERE r.public_id = %s AND a.action = 'model.turn'",
        wish["runId"],
    )
    assert found == ["failure model_content_filter"]
