"""`GET /ag-ui/events`: a run on one line, the caller's standing thread, and going on after an interruption."""

from __future__ import annotations

import concurrent.futures
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.running_service import Caller, Frame, RunningService, read_frames
from tests.runs.support import Stored, assert_well_formed, events, eventually, text, types

ADDRESS = "/ag-ui/events"


def ask(service: RunningService, caller: Caller, **query: str) -> tuple[httpx.Response, list[Frame]]:
    """Ask on one line; the response and its frames."""
    with service.client(caller) as client:
        response = client.get(ADDRESS, params=query)
    return response, list(read_frames(iter(response.text.split("\n"))))


def test_the_default_message_is_answered_with_a_call_its_output_and_the_answer(service: RunningService) -> None:
    response, frames = ask(service, Caller())
    assert types(frames) == ["TOOL_CALL_START", "TOOL_OUTPUT", "AGENT_RESPONSE"]
    call, output, answer = (frame.event["data"] for frame in frames)
    assert (call["toolName"], call["arguments"]) == ("get_weather_tool", {"location": "London"})
    assert output["toolCallId"] == call["toolCallId"]
    assert output["output"]["location"].startswith("London")
    assert answer == {
        "runId": response.headers["x-run-id"], "threadId": response.headers["x-thread-id"], "final": True,
    }  # fmt: skip
    assert "London" in frames[-1].event["message"]


def test_the_stream_is_sent_as_an_event_stream_that_no_proxy_may_hold_back(service: RunningService) -> None:
    response, _ = ask(service, Caller(), user_message="hello")
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["cache-control"] == "no-cache, no-transform"
    assert "\r" not in response.text


def test_the_standing_thread_is_continued(service: RunningService, stored: Stored) -> None:
    caller = Caller()
    first, second = ask(service, caller, user_message="hello"), ask(service, caller, user_message="hello again")
    assert first[0].headers["x-thread-id"] == second[0].headers["x-thread-id"]
    assert first[0].headers["x-run-id"] != second[0].headers["x-run-id"]
    assert "demo model" in first[1][-1].event["message"]
    assert "demo model" not in second[1][-1].event["message"], "it introduces itself once in a thread"
    assert stored.rows_of(caller) == (1, 2, 2)


def test_a_session_id_separates_threads_and_is_echoed(service: RunningService) -> None:
    caller, threads = Caller(), {}
    with service.client(caller) as client:
        for session in ("one", "two", "one"):
            answer = client.get(ADDRESS, params={"user_message": "hello"}, headers={"X-Session-ID": session})
            assert answer.headers["x-session-id"] == session
            threads.setdefault(session, set()).add(answer.headers["x-thread-id"])
        plain = client.get(ADDRESS, params={"user_message": "hello"})
    assert [len(found) for found in threads.values()] == [1, 1]
    assert len({plain.headers["x-thread-id"], *threads["one"], *threads["two"]}) == 3
    assert "x-session-id" not in plain.headers


def test_a_named_thread_is_used_and_begun_where_it_does_not_exist(service: RunningService, stored: Stored) -> None:
    caller, name = Caller(), f"holiday-{uuid4()}"
    for _ in range(2):
        response, _ = ask(service, caller, user_message="hello", thread_id=name)
        assert response.headers["x-thread-id"] == name
    assert stored.rows_of(caller) == (1, 2, 2)
    assert ask(service, caller, user_message="hello")[0].headers["x-thread-id"] != name


def test_while_the_standing_thread_is_busy_a_fresh_one_is_used(service: RunningService) -> None:
    caller = Caller()
    slow = {"user_message": "demo: slow 100", "protocol": "ag-ui"}
    with service.open_stream(caller, "GET", ADDRESS, params=slow) as (response, frames):
        next(frames)
        other, other_frames = ask(service, caller, user_message="hello")
        assert other.headers["x-thread-id"] != response.headers["x-thread-id"]
        assert types(other_frames) == ["AGENT_RESPONSE"]
        with service.client(caller) as client:
            client.post(f"/ag-ui/runs/{response.headers['x-run-id']}/cancel").raise_for_status()
        list(frames)
    later, _ = ask(service, caller, user_message="hello")
    assert later.headers["x-thread-id"] == response.headers["x-thread-id"], "the first one still stands"


def test_questions_asked_in_the_same_moment_are_all_answered(service: RunningService) -> None:
    caller = Caller()
    ask(service, caller, user_message="hello")
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: ask(service, caller, user_message="hello")[0], range(24)))
    assert [answer.status_code for answer in answers] == [200] * 24, [answer.text[:200] for answer in answers]


def test_the_ag_ui_protocol_can_be_asked_for(service: RunningService) -> None:
    response, frames = ask(service, Caller(), user_message="hello", protocol="ag-ui")
    assert_well_formed(frames, response.headers["x-run-id"])
    assert frames[0].event["protocolVersion"] == "1.0"


def test_what_was_missed_is_sent_after_an_interruption_and_no_run_is_begun(
    service: RunningService, stored: Stored
) -> None:
    caller = Caller()
    _, frames = ask(service, caller)
    for already_seen in range(1, len(frames)):
        last = frames[already_seen - 1].id
        resumed = service.stream(caller, "GET", ADDRESS, headers={"Last-Event-ID": last})
        assert resumed == frames[already_seen:]
    assert stored.rows_of(caller) == (1, 1, 1)


def test_after_the_end_there_is_nothing_to_send(service: RunningService, stored: Stored) -> None:
    caller = Caller()
    response, frames = ask(service, caller)
    with service.client(caller) as client:
        answer = client.get(ADDRESS, headers={"Last-Event-ID": frames[-1].id})
    assert (answer.status_code, answer.content) == (204, b"")
    assert stored.rows_of(caller) == (1, 1, 1)
    eventually(lambda: "request.replayed" in stored.audit(response.headers["x-run-id"]), "it is recorded")


def test_the_run_of_somebody_else_cannot_be_resumed(service: RunningService, stored: Stored) -> None:
    _, frames = ask(service, Caller(), user_message="hello")
    stranger = Caller()
    with service.client(stranger) as client:
        answer = client.get(ADDRESS, headers={"Last-Event-ID": frames[-1].id})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert stored.rows_of(stranger) == (0, 0, 0)


@pytest.mark.parametrize("value", ["", "7", "run.", "run.x", "run.-1", "run.1e3", "ä.1", "run." + "9" * 40])
def test_an_event_id_that_is_none_is_refused(service: RunningService, stored: Stored, value: str) -> None:
    caller = Caller()
    with service.client(caller) as client:
        answer = client.get(ADDRESS, headers={"Last-Event-ID": value.encode()})
    assert (answer.status_code, answer.json()["field"]) == (400, "Last-Event-ID")
    assert stored.rows_of(caller) == (0, 0, 0)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("user_message=", "user_message"),
        ("user_message=%20%0a", "user_message"),
        ("user_message=a%00b", "user_message"),
        ("user_message=%ff", "(query)"),
        ("user_message=%ed%a0%80", "(query)"),
        ("thread_id=", "thread_id"),
        ("thread_id=" + "t" * 129, "thread_id"),
        ("thread_id=a%20b", "thread_id"),
        ("protocol=soap", "protocol"),
        ("protocol=", "protocol"),
        ("&".join(f"a{n}=1" for n in range(60)), "(query)"),
    ],
    ids=lambda value: value[:30],
)
def test_a_query_that_cannot_be_used_is_refused_by_name(
    service: RunningService, stored: Stored, query: str, field: str
) -> None:
    caller = Caller()
    with service.client(caller) as client:
        answer = client.get(f"{ADDRESS}?{query}")
    assert answer.status_code in (400, 413, 414, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["field"] == field
    assert stored.rows_of(caller) == (0, 0, 0)


def test_a_message_in_any_script_comes_back_unharmed(service: RunningService) -> None:
    said = 'Grüße 你好 🌍 "quoted" \\n & <b>'
    response, frames = ask(service, Caller(), user_message=said, protocol="ag-ui")
    assert said in text(frames)
    assert_well_formed(frames, response.headers["x-run-id"])


def test_a_failing_model_ends_the_envelope_with_one_error(service: RunningService) -> None:
    _, frames = ask(service, Caller(), user_message="demo: error 429")
    assert types(frames) == ["ERROR"]
    error: dict[str, Any] = frames[0].event
    assert error["data"] == {"code": "model_rate_limited", "retryable": True}
    assert error["message"]


def test_a_failing_tool_is_shown_as_an_output_with_its_error(service: RunningService) -> None:
    _, frames = ask(service, Caller(), user_message="What is the weather like in Nowhere?")
    [output] = events(frames, "TOOL_OUTPUT")
    assert "output" not in output["data"]
    assert output["data"]["error"]
    assert frames[-1].event["data"]["final"] is True


def test_an_answer_that_was_cut_off_says_so_in_every_form(service: RunningService) -> None:
    [envelope] = service.stream(Caller(), "GET", "/ag-ui/events?user_message=demo:%20length")
    assert envelope.event["data"]["finishReason"] == "length"
    for version in ("1.0", "0"):
        frames = service.stream(
            Caller(), "GET", f"/ag-ui/events?user_message=demo:%20length&protocol=ag-ui&protocolVersion={version}"
        )
        assert frames[-1].event["result"] == {"finishReason": "length"}
