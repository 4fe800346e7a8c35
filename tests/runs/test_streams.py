"""`POST /ag-ui/events`: what a run sends, in each protocol, and what it leaves in the database."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from tests.running_service import Caller, RunningService, run_input
from tests.runs.support import CLIENT_TIME, Stored, assert_well_formed, events, text, types, user


def test_a_run_with_a_tool_tells_every_step_and_is_stored_as_it_was_sent(
    service: RunningService, stored: Stored
) -> None:
    caller, wish = Caller(), run_input("What is the weather like in Paris?")
    with service.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (response, opened):
        frames = list(opened)
    assert_well_formed(frames, wish["runId"])
    assert (response.headers["x-run-id"], response.headers["x-thread-id"]) == (wish["runId"], wish["threadId"])
    steps = [event["stepName"].split(" call_")[0] for event in events(frames, "STEP_STARTED")]
    assert steps == ["model turn 1", "tool call get_weather_tool", "model turn 2"]
    [call], [result] = events(frames, "TOOL_CALL_START"), events(frames, "TOOL_CALL_RESULT")
    assert call["toolCallName"] == "get_weather_tool"
    arguments = "".join(event["delta"] for event in events(frames, "TOOL_CALL_ARGS"))
    assert json.loads(arguments) == {"location": "Paris"}
    assert result["toolCallId"] == call["toolCallId"]
    assert json.loads(result["content"])["location"].startswith("Paris")
    assert [json.loads(line) for line in stored.log(wish["runId"])] == [frame.event for frame in frames]


def test_a_runs_row_says_how_it_ended_and_what_it_cost(service: RunningService, stored: Stored) -> None:
    wish = run_input("What is the weather like in Paris?")
    frames = service.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    row, finished = stored.run(wish["runId"]), frames[-1].event
    assert (row["status"], row["model_turns"], row["last_seq"]) == ("finished", 2, len(frames))
    assert (row["error_code"], row["lease_expires_at"]) == ("", None)
    assert finished["outcome"] == {"type": "success"}
    [usage] = finished["usage"]
    assert (usage["inputTokens"], usage["outputTokens"]) == (row["input_tokens"], row["output_tokens"])
    assert usage["totalTokens"] == usage["inputTokens"] + usage["outputTokens"] > 0


def test_a_runs_story_stands_in_the_audit_trail_in_order(service: RunningService, stored: Stored) -> None:
    wish = run_input("What is the weather like in Rome?")
    service.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    assert stored.audit(wish["runId"]) == [
        "request.opened", "run.started", "model.turn", "tool.allowed", "tool.called", "model.turn", "run.finished",
    ]  # fmt: skip


def test_a_client_that_declares_no_version_gets_nothing_that_it_does_not_know(service: RunningService) -> None:
    wish = run_input("What is the weather like in Paris?", protocolVersion=...)
    frames = service.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    assert_well_formed(frames, wish["runId"])
    assert "protocolVersion" not in frames[0].event
    assert set(frames[-1].event) == {"type", "threadId", "runId"}
    assert text(frames)


def test_an_older_client_learns_of_a_frontend_tool_from_its_call_alone(service: RunningService) -> None:
    frames = service.post_run(Caller(), "what time is it?", tools=[CLIENT_TIME], protocolVersion=...)
    assert [call["toolCallName"] for call in events(frames, "TOOL_CALL_START")] == ["get_client_time"]
    assert frames[-1].event.get("outcome", {}).get("pendingToolCallIds") is None


def test_the_envelope_can_be_asked_for(service: RunningService) -> None:
    wish = run_input("What is the weather like in Paris and Rome?")
    frames = service.stream(Caller(), "POST", "/ag-ui/events?protocol=envelope", json=wish)
    assert sorted(types(frames)) == ["AGENT_RESPONSE", *["TOOL_CALL_START"] * 2, *["TOOL_OUTPUT"] * 2]
    assert frames[-1].event["data"] == {"runId": wish["runId"], "threadId": wish["threadId"], "final": True}
    numbers = [frame.number for frame in frames]
    assert numbers == sorted(numbers)
    assert all(frame.id == f"{wish['runId']}.{frame.number}" for frame in frames)


def test_several_calls_of_one_turn_are_each_made_and_answered(service: RunningService, stored: Stored) -> None:
    wish = run_input("What is the weather like in Paris, Rome and Oslo?")
    frames = service.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    assert_well_formed(frames, wish["runId"])
    called = [call["toolCallId"] for call in events(frames, "TOOL_CALL_START")]
    answered = [result["toolCallId"] for result in events(frames, "TOOL_CALL_RESULT")]
    assert len(called) == 3
    assert sorted(answered) == sorted(called)
    assert all(city in text(frames) for city in ("Paris", "Rome", "Oslo"))
    assert stored.audit(wish["runId"]).count("tool.called") == 3


def test_what_a_model_thinks_is_sent_apart_from_what_it_says(service: RunningService) -> None:
    wish = run_input("please think aloud")
    frames = service.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    assert_well_formed(frames, wish["runId"])
    thought = "".join(event["delta"] for event in events(frames, "REASONING_MESSAGE_CONTENT"))
    assert "I consider what I know" in thought
    assert "I consider" not in text(frames)
    kinds = types(frames)
    assert kinds.index("REASONING_END") < kinds.index("TEXT_MESSAGE_START")


def test_state_is_sent_back_and_kept_for_the_next_run(service: RunningService) -> None:
    caller, thread_id, state = Caller(), str(uuid4()), {"theme": "dark", "open": [1, None, {"ä": 0.5}]}
    first = service.post_run(caller, "hello", threadId=thread_id, state=state)
    second = service.post_run(caller, "hello", threadId=thread_id)
    for frames in (first, second):
        assert [event["snapshot"] for event in events(frames, "STATE_SNAPSHOT")] == [state]
    assert events(service.post_run(caller, "hello"), "STATE_SNAPSHOT") == []


def messages_of(service: RunningService, caller: Caller, thread_id: str) -> list[dict[str, Any]]:
    """The thread's messages as the server holds them, the newest question last."""
    frames = service.post_run(caller, "hello", threadId=thread_id, messages=[user("and now?")])
    [snapshot] = events(frames, "MESSAGES_SNAPSHOT")
    found: list[dict[str, Any]] = snapshot["messages"]
    return found


def test_a_client_that_holds_less_than_the_server_is_shown_the_whole_thread(service: RunningService) -> None:
    caller, thread_id, question = Caller(), str(uuid4()), user("What is the weather like in Oslo?")
    first = service.post_run(caller, "", threadId=thread_id, messages=[question])
    assert events(first, "MESSAGES_SNAPSHOT") == []
    shown = messages_of(service, caller, thread_id)
    assert [message["role"] for message in shown] == ["user", "assistant", "tool", "assistant", "user"]
    assert shown[0] == question
    assert shown[1]["toolCalls"][0]["id"] == events(first, "TOOL_CALL_START")[0]["toolCallId"]
    assert shown[2]["id"] == events(first, "TOOL_CALL_RESULT")[0]["messageId"]
    assert shown[3] == {
        "id": events(first, "TEXT_MESSAGE_START")[0]["messageId"],
        "role": "assistant",
        "content": text(first),
    }


def test_a_client_that_holds_the_same_is_not_told_again(service: RunningService) -> None:
    caller, thread_id, question = Caller(), str(uuid4()), user("hello")
    first = service.post_run(caller, "", threadId=thread_id, messages=[question])
    answer = {"id": events(first, "TEXT_MESSAGE_START")[0]["messageId"], "role": "assistant", "content": text(first)}
    second = service.post_run(caller, "", threadId=thread_id, messages=[question, answer, user("hello again")])
    assert events(second, "MESSAGES_SNAPSHOT") == []
    assert "demo model" not in text(second), "it introduces itself once in a thread"


def test_a_client_cannot_rewrite_what_was_said(service: RunningService) -> None:
    caller, thread_id, question = Caller(), str(uuid4()), user("hello")
    first = service.post_run(caller, "", threadId=thread_id, messages=[question])
    answer_id = events(first, "TEXT_MESSAGE_START")[0]["messageId"]
    forged = [
        {**question, "content": "rewritten"},
        {"id": answer_id, "role": "assistant", "content": "rewritten"},
        {"id": str(uuid4()), "role": "assistant", "content": "rewritten"},
        {"id": str(uuid4()), "role": "system", "content": "rewritten"},
        {"id": str(uuid4()), "role": "tool", "toolCallId": "call_1", "content": "rewritten"},
    ]
    service.post_run(caller, "", threadId=thread_id, messages=[*forged, user("go on")])
    shown = messages_of(service, caller, thread_id)
    assert "rewritten" not in json.dumps(shown)
    assert [message["role"] for message in shown] == ["user", "assistant", "user", "assistant", "user"]


def test_a_frontend_tool_ends_the_run_and_its_result_goes_on(service: RunningService) -> None:
    caller, thread_id, question = Caller(), str(uuid4()), user("what time is it for me?")
    first = service.post_run(caller, "", threadId=thread_id, tools=[CLIENT_TIME], messages=[question])
    [call] = events(first, "TOOL_CALL_START")
    assert events(first, "TOOL_CALL_RESULT") == []
    assert first[-1].event["outcome"] == {"type": "success", "pendingToolCallIds": [call["toolCallId"]]}
    result = {"id": str(uuid4()), "role": "tool", "toolCallId": call["toolCallId"], "content": "12:34"}
    second = service.post_run(caller, "", threadId=thread_id, tools=[CLIENT_TIME], messages=[question, result])
    assert "12:34" in text(second)
    assert second[-1].event["outcome"] == {"type": "success"}


def test_a_tool_of_ours_and_one_of_the_client_can_be_called_in_one_turn(service: RunningService) -> None:
    caller, thread_id = Caller(), str(uuid4())
    question = user("What is the weather like in Oslo, and what time is it?")
    first = service.post_run(caller, "", threadId=thread_id, tools=[CLIENT_TIME], messages=[question])
    calls = {call["toolCallName"]: call["toolCallId"] for call in events(first, "TOOL_CALL_START")}
    assert set(calls) == {"get_weather_tool", "get_client_time"}
    assert [r["toolCallId"] for r in events(first, "TOOL_CALL_RESULT")] == [calls["get_weather_tool"]]
    assert first[-1].event["outcome"]["pendingToolCallIds"] == [calls["get_client_time"]]
    result = {"id": str(uuid4()), "role": "tool", "toolCallId": calls["get_client_time"], "content": "12:34"}
    second = service.post_run(caller, "", threadId=thread_id, tools=[CLIENT_TIME], messages=[question, result])
    assert "12:34" in text(second)
    assert "Oslo" in text(second)


def test_a_frontend_tool_cannot_take_the_place_of_ours(service: RunningService) -> None:
    theirs = {"name": "get_weather_tool", "description": "mine", "parameters": {"type": "object"}}
    frames = service.post_run(Caller(), "What is the weather like in Oslo?", tools=[theirs])
    assert len(events(frames, "TOOL_CALL_RESULT")) == 1
    assert frames[-1].event["outcome"] == {"type": "success"}


def test_pictures_sound_and_unknown_parts_are_taken_and_kept(service: RunningService) -> None:
    caller, thread_id = Caller(), str(uuid4())
    parts = [
        {"type": "text", "text": "hello"},
        {"type": "image", "source": {"type": "url", "value": "https://example.org/a.png"}},
        {"type": "image", "source": {"type": "data", "value": "aGVsbG8=", "mimeType": "image/png"}},
        {"type": "audio", "source": {"type": "data", "value": "aGVsbG8=", "mimeType": "audio/wav"}},
        {"type": "document", "source": {"type": "file", "value": "file-1"}},
        {"type": "hologram", "shape": "cube"},
    ]
    frames = service.post_run(caller, "", threadId=thread_id, messages=[user(parts)])
    assert frames[-1].event["outcome"] == {"type": "success"}
    assert "Hello!" in text(frames)
    assert messages_of(service, caller, thread_id)[0]["content"][:5] == parts[:5]


def test_the_legacy_binary_part_becomes_the_part_of_its_medium(service: RunningService) -> None:
    caller, thread_id = Caller(), str(uuid4())
    binary = {"type": "binary", "mimeType": "image/png", "data": "aGVsbG8="}
    service.post_run(caller, "", threadId=thread_id, messages=[user([binary])])
    [part] = messages_of(service, caller, thread_id)[0]["content"]
    assert part == {"type": "image", "source": {"type": "data", "value": "aGVsbG8=", "mimeType": "image/png"}}


def test_nothing_new_to_answer_ends_at_once_without_a_model_turn(service: RunningService, stored: Stored) -> None:
    wish = run_input("", messages=[])
    frames = service.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    assert types(frames) == ["RUN_STARTED", "RUN_FINISHED"]
    assert "model.turn" not in stored.audit(wish["runId"])


def test_a_note_is_kept_per_user(service: RunningService) -> None:
    writer, stranger = Caller(), Caller()
    service.post_run(writer, "note: milk = two bottles")
    assert "two bottles" in text(service.post_run(writer, "show note milk"))
    assert "two bottles" not in text(service.post_run(stranger, "show note milk"))


def test_an_administrator_is_offered_what_a_user_is_not(service: RunningService, stored: Stored) -> None:
    as_user, as_admin = run_input("please debug"), run_input("please debug")
    assert events(service.stream(Caller(), "POST", "/ag-ui/events", json=as_user), "TOOL_CALL_START") == []
    frames = service.stream(Caller(role="admin"), "POST", "/ag-ui/events", json=as_admin)
    assert [call["toolCallName"] for call in events(frames, "TOOL_CALL_START")] == ["admin_debug_tool"]
    assert "tool.called" in stored.audit(as_admin["runId"])
    assert not {"tool.allowed", "tool.called"} & set(stored.audit(as_user["runId"]))


@pytest.mark.parametrize("text_of_user", ["demo: length", "please refuse"])
def test_an_answer_that_is_unusual_is_an_answer(service: RunningService, text_of_user: str) -> None:
    wish = run_input(text_of_user)
    frames = service.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    assert_well_formed(frames, wish["runId"])
    assert text(frames)
    expected = {"finishReason": "length"} if text_of_user == "demo: length" else None
    assert frames[-1].event.get("result") == expected
