"""The same run in each dialect: what each kind of client is sent, and what it is spared."""

import json
from typing import Any

import pytest
from ag_ui.core import Event as SdkEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from orchestration import events as ev
from orchestration.dialects import AgUiDialect, Dialect, EnvelopeDialect, LegacyAgUiDialect, choose_dialect
from orchestration.fold import OpenItems
from orchestration.live import Chunk

sdk_event = TypeAdapter(SdkEvent)

RUN: list[ev.Event] = [
    ev.RunStarted(thread_id="t", run_id="r", protocol_version="1.0"),
    ev.StateSnapshot(snapshot={"a": None}),
    ev.StepStarted(step_name="model turn 1"),
    ev.ReasoningStart(message_id="re"),
    ev.ReasoningMessageStart(message_id="re", role="reasoning"),
    ev.ReasoningMessageContent(message_id="re", delta="hm"),
    ev.ReasoningMessageEnd(message_id="re"),
    ev.ReasoningEnd(message_id="re"),
    ev.TextMessageStart(message_id="m1", role="assistant"),
    ev.TextMessageContent(message_id="m1", delta="Let me "),
    ev.TextMessageContent(message_id="m1", delta="look."),
    ev.TextMessageEnd(message_id="m1"),
    ev.ToolCallStart(tool_call_id="c1", tool_call_name="get_weather_tool", parent_message_id="m1"),
    ev.ToolCallArgs(tool_call_id="c1", delta='{"location":'),
    ev.ToolCallArgs(tool_call_id="c1", delta='"London"}'),
    ev.ToolCallEnd(tool_call_id="c1"),
    ev.StepFinished(step_name="model turn 1"),
    ev.ToolCallResult(message_id="x1", tool_call_id="c1", content='{"temperature": 12}', role="tool"),
    ev.ToolCallResult(
        message_id="x2", tool_call_id="c1", content="not known", role="tool", metadata={"error": {"code": "failed"}}
    ),
    ev.TextMessageStart(message_id="m2", role="assistant"),
    ev.TextMessageContent(message_id="m2", delta="12 degrees."),
    ev.TextMessageEnd(message_id="m2"),
    ev.RunFinished(
        thread_id="t", run_id="r", outcome={"type": "success"}, usage=[ev.TokenUsage(model="m", input_tokens=1)]
    ),
]


def chunks(*sizes: int) -> list[Chunk]:
    """The run cut into chunks of these sizes, the rest in a last one."""
    result, at = [], 0
    for size in (*sizes, len(RUN)):
        lines = [ev.encode(event) for event in RUN[at : at + size]]
        if lines:
            result.append(Chunk("r", at + 1, lines))
        at += size
    return result


def sent(dialect: Dialect, pieces: list[Chunk], after: int = 0) -> list[tuple[int, dict[str, Any]]]:
    """(number, event) of each frame."""
    body = b"".join(dialect.frames(chunk, after) for chunk in pieces).decode()
    frames = [frame.split("\n") for frame in body.split("\n\n") if frame]
    return [(int(first.rpartition(".")[2]), json.loads(data.removeprefix("data: "))) for first, data in frames]


def test_every_event_is_valid_for_the_sdk_of_ag_ui() -> None:
    for event in RUN:
        sdk_event.validate_json(ev.encode(event))


def test_every_event_is_read_back_as_it_was() -> None:
    assert [ev.decode(ev.encode(event)) for event in RUN] == RUN


def test_a_1_0_client_gets_the_stored_bytes_with_their_numbers() -> None:
    found = sent(AgUiDialect(), chunks(3, 4))
    assert [number for number, _ in found] == list(range(1, len(RUN) + 1))
    assert found[0][1] == {"type": "RUN_STARTED", "threadId": "t", "runId": "r", "protocolVersion": "1.0"}


def test_an_older_client_is_spared_what_it_rejects() -> None:
    found = [event for _, event in sent(LegacyAgUiDialect(), chunks())]
    assert found[0] == {"type": "RUN_STARTED", "threadId": "t", "runId": "r"}
    assert found[-1] == {"type": "RUN_FINISHED", "threadId": "t", "runId": "r"}


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ({"type": "cancelled"}, {"type": "RUN_ERROR", "message": "The run was cancelled.", "code": "cancelled"}),
        (
            {"type": "success", "pendingToolCallIds": ["c"]},
            {"type": "RUN_FINISHED", "threadId": "t", "runId": "r"},
        ),
    ],
)
def test_outcomes_that_an_older_client_does_not_know_are_translated(outcome: dict[str, Any], expected: object) -> None:
    line = ev.encode(ev.RunFinished(thread_id="t", run_id="r", outcome=outcome))
    [(_, event)] = sent(LegacyAgUiDialect(), [Chunk("r", 1, [line])])
    assert event == expected


def test_the_envelope_dialect_sends_whole_messages_and_marks_the_last() -> None:
    found = [event for _, event in sent(EnvelopeDialect(), chunks())]
    assert [event["event_type"] for event in found] == [
        "AGENT_RESPONSE", "TOOL_CALL_START", "TOOL_OUTPUT", "TOOL_OUTPUT", "AGENT_RESPONSE",
    ]  # fmt: skip
    assert found[0] == {
        "event_type": "AGENT_RESPONSE",
        "data": {"runId": "r", "threadId": "t", "final": False},
        "message": "Let me look.",
    }
    assert found[1]["data"] == {"toolCallId": "c1", "toolName": "get_weather_tool", "arguments": {"location": "London"}}
    assert found[2]["data"] == {"toolCallId": "c1", "toolName": "get_weather_tool", "output": {"temperature": 12}}
    assert found[3]["data"] == {"toolCallId": "c1", "toolName": "get_weather_tool", "error": "not known"}
    assert found[4]["message"] == "12 degrees."
    assert found[4]["data"]["final"] is True


def test_an_error_ends_the_envelope_stream_after_what_was_held_back() -> None:
    lines = [
        ev.encode(event)
        for event in (
            ev.RunStarted(thread_id="t", run_id="r"),
            ev.TextMessageStart(message_id="m"),
            ev.TextMessageContent(message_id="m", delta="Well"),
            ev.TextMessageEnd(message_id="m"),
            ev.RunError(message="The model could not be reached.", code="model_unavailable"),
        )
    ]
    found = [event for _, event in sent(EnvelopeDialect(), [Chunk("r", 1, lines)])]
    assert found[0]["data"]["final"] is False
    assert found[1] == {
        "event_type": "ERROR",
        "data": {"code": "model_unavailable", "retryable": True},
        "message": "The model could not be reached.",
    }


@given(st.lists(st.integers(1, 6), max_size=8), st.integers(0, len(RUN)), st.sampled_from(["ag-ui", "envelope"]))
def test_a_resumed_stream_and_its_beginning_are_the_whole_however_the_log_is_cut(
    sizes: list[int], after: int, name: str
) -> None:
    whole = sent(choose_dialect(name, "1.0"), chunks())
    resumed = sent(choose_dialect(name, "1.0"), chunks(*sizes), after)
    assert [pair for pair in whole if pair[0] <= after] + resumed == whole


@given(st.integers(0, len(RUN) - 1))
def test_closing_what_is_open_leaves_nothing_open(cut: int) -> None:
    items = OpenItems()
    for event in RUN[:cut]:
        items.apply(event)
    for event in items.closing_events():
        items.apply(event)
    assert items.closing_events() == []
