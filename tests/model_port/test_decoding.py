"""What the port reads out of the bytes of a streamed completion."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.model_port import (
    Finished,
    ModelError,
    ModelEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallArguments,
    ToolCallStarted,
    Usage,
)
from orchestration.model_port.chunks import MAX_LINE_BYTES, ChunkDecoder
from tests.model_port.frames import DONE, HELLO, call, chunk, end, text

_VARIED = (
    b": keep-alive\r\n\r\nevent: message\r\n"
    + text("Gr\u00fc\u00dfe, \U0001f30d \u4e16\u754c").replace(b"\n", b"\r\n")
    + chunk({"reasoning_content": "hm\u00f6"}).replace(b"data: ", b"data:")
    + call(index=0, id="a", name="get_", arguments="")
    + call(index=0, name="weather")
    + call(index=0, arguments='{"location": ')
    + call(index=1, id="b", name="add", arguments='{"x": "\u00e9"}')
    + call(index=0, arguments='"K\u00f6ln"}')
    + chunk({}, "tool_calls")
    + chunk(usage={"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12})
    + DONE
)
_FAILING = text("so far") + b'data: {"error": {"message": "no", "type": "server_error"}}\n\n' + text("never")
_WHOLE = json.dumps({"choices": [{"message": {"content": "Gr\u00fc\u00dfe"}, "finish_reason": "stop"}]}).encode()


def decode(*pieces: bytes) -> list[ModelEvent]:
    """All events of a body in these pieces; raises what the decoder found wrong."""
    events, failure = decode_until_failure(*pieces)
    if failure is not None:
        raise failure
    return events


def decode_until_failure(*pieces: bytes) -> tuple[list[ModelEvent], ModelError | None]:
    decoder = ChunkDecoder()
    events: list[ModelEvent] = []
    for piece in pieces:
        events += decoder.feed(piece)
        if decoder.failure is not None:
            return events, decoder.failure
    try:
        return [*events, *decoder.end()], None
    except ModelError as error:
        return events, error


def code_of(*pieces: bytes) -> str:
    with pytest.raises(ModelError) as caught:
        decode(*pieces)
    return caught.value.code


def calls_of(*pieces: bytes) -> list[tuple[str, str, Any]]:
    """(id, name, arguments) of the calls in order; arguments parsed."""
    found: dict[int, list[str]] = {}
    for event in decode(*pieces):
        if isinstance(event, ToolCallStarted):
            assert event.index not in found, "a call is announced once"
            found[event.index] = [event.id, event.name, ""]
        elif isinstance(event, ToolCallArguments):
            found[event.index][2] += event.text
    return [(id, name, json.loads(arguments or "null")) for id, name, arguments in found.values()]


def cut(body: bytes, places: list[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:stop] for start, stop in pairwise(marks)]


@settings(max_examples=150, deadline=None)
@given(body=st.sampled_from([_VARIED, HELLO, _FAILING, _WHOLE]), places=st.lists(st.integers(0, 5000), max_size=25))
def test_any_cutting_of_the_bytes_gives_the_same_events(body: bytes, places: list[int]) -> None:
    expected, expected_failure = decode_until_failure(body)
    found, failure = decode_until_failure(*cut(body, places))
    assert found == expected
    assert (failure and failure.code) == (expected_failure and expected_failure.code)


def test_what_comes_after_the_end_mark_is_not_read() -> None:
    for late in (text("late"), b"data: {rubbish\n\n", b'data: {"error": {"code": "late"}}\n\n'):
        assert decode(HELLO + late) == decode(HELLO, late) == decode(HELLO)


@pytest.mark.parametrize("body", [_VARIED, HELLO, _FAILING, _WHOLE])
def test_bytes_one_by_one_give_the_same_events(body: bytes) -> None:
    assert decode_until_failure(*(bytes([byte]) for byte in body))[0] == decode_until_failure(body)[0]


def test_every_part_of_a_varied_answer_is_read() -> None:
    assert decode(_VARIED) == [
        TextDelta("Gr\u00fc\u00dfe, \U0001f30d \u4e16\u754c"),
        ReasoningDelta("hm\u00f6"),
        ToolCallStarted(0, "a", "get_weather"),
        ToolCallArguments(0, '{"location": '),
        ToolCallStarted(1, "b", "add"),
        ToolCallArguments(1, '{"x": "\u00e9"}'),
        ToolCallArguments(0, '"K\u00f6ln"}'),
        Finished("tool_calls", Usage(7, 5, 12)),
    ]


def test_what_came_before_an_error_in_the_same_read_is_kept() -> None:
    events, failure = decode_until_failure(_FAILING)
    assert events == [TextDelta("so far")]
    assert failure is not None
    assert failure.code == "model_stream_interrupted"


# --- tool calls


def test_calls_without_an_index_are_told_apart_by_their_ids() -> None:
    body = (
        call(id="a", name="one", arguments='{"n":') + call(id="a", arguments="1}") + call(id="b", name="two")
        + call(arguments='{"n":2}') + end("tool_calls")
    )  # fmt: skip
    assert calls_of(body) == [("a", "one", {"n": 1}), ("b", "two", {"n": 2})]


def test_calls_with_neither_index_nor_id_are_told_apart_by_their_names() -> None:
    pieces = [{"function": {"name": name, "arguments": "{}"}} for name in ("one", "two")]
    assert calls_of(chunk({"tool_calls": pieces}) + end()) == [("", "one", {}), ("", "two", {})]


def test_calls_that_all_carry_index_nought_are_told_apart() -> None:
    body = (
        call(index=0, id="a", name="one", arguments="{}")
        + call(index=0, id="b", name="two")
        + call(index=0, arguments="{}")
    )
    assert calls_of(body + end("tool_calls")) == [("a", "one", {}), ("b", "two", {})]


def test_a_name_that_is_repeated_with_each_piece_is_read_once() -> None:
    body = call(index=0, id="a", name="look") + call(index=0, id="a", name="look", arguments="{}")
    body += call(index=0, id="a", name="look", arguments="")
    assert calls_of(body + end("tool_calls")) == [("a", "look", {})]


def test_a_name_that_is_repeated_without_the_id_is_the_same_call() -> None:
    body = call(index=0, id="a", name="look", arguments='{"at":') + call(index=0, name="look", arguments="1}")
    assert calls_of(body + call(index=0, name="look", arguments="") + end()) == [("a", "look", {"at": 1})]


@pytest.mark.parametrize("fields", [{"index": 0}, {"index": 0, "id": ""}, {"id": ""}, {}])
def test_calls_of_the_same_tool_without_ids_are_told_apart_by_whole_arguments(fields: dict[str, Any]) -> None:
    body = call(**fields, name="look", arguments='{"at":1}') + call(**fields, name="look", arguments='{"at":2}')
    assert calls_of(body + end("tool_calls")) == [("", "look", {"at": 1}), ("", "look", {"at": 2})]


def test_calls_without_arguments_are_told_apart_by_their_ids() -> None:
    body = call(index=0, id="a", name="one") + call(index=0, id="b", name="two")
    assert calls_of(body + end("tool_calls")) == [("a", "one", None), ("b", "two", None)]


def test_a_call_in_the_older_form_is_read() -> None:
    body = chunk({"function_call": {"name": "look", "arguments": '{"at":'}}) + chunk(
        {"function_call": {"arguments": "1}"}}
    )
    assert calls_of(body + end("function_call")) == [("", "look", {"at": 1})]


def test_arguments_that_are_an_object_are_read() -> None:
    body = call(index=0, id="a", name="look", arguments={"at": ["x"]}) + end("tool_calls")
    assert calls_of(body) == [("a", "look", {"at": ["x"]})]


def test_a_call_without_arguments_is_announced_before_the_end() -> None:
    assert decode(call(index=0, id="a", name="look") + end("tool_calls")) == [
        ToolCallStarted(0, "a", "look"),
        Finished("tool_calls", None),
    ]


def test_calls_under_the_reason_stop_still_count_as_calls() -> None:
    assert decode(call(index=0, id="a", name="look", arguments="{}") + end("stop"))[-1] == Finished("tool_calls", None)


def test_the_reason_tool_calls_without_a_call_is_an_ordinary_end() -> None:
    assert decode(text("hi") + end("tool_calls"))[-1] == Finished("stop", None)


# --- text, reasoning, reasons, usage


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"reasoning_details": [{"type": "t", "text": "hm"}, {"data": 1}]},
    ],
)
def test_reasoning_is_read_under_each_of_its_names(delta: dict[str, Any]) -> None:
    assert decode(chunk(delta) + text("yes") + end())[:2] == [ReasoningDelta("hm"), TextDelta("yes")]


@pytest.mark.parametrize("delta", [{"refusal": "no"}, {"content": [{"type": "text", "text": "no"}]}])
def test_refusals_and_lists_of_parts_are_text(delta: dict[str, Any]) -> None:
    assert decode(chunk(delta) + end())[0] == TextDelta("no")


@pytest.mark.parametrize(
    ("given_reason", "expected"),
    [("stop", "stop"), ("STOP", "stop"), ("length", "length"), ("max_tokens", "length"), ("content_filter", "content_filter"),
     ("something_new", "stop")],
)  # fmt: skip
def test_finish_reasons_are_translated(given_reason: str, expected: str) -> None:
    assert decode(text("x") + end(given_reason))[-1] == Finished(expected, None)  # type: ignore[arg-type]


def test_the_last_usage_counts_with_its_details() -> None:
    usage = {
        "prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }  # fmt: skip
    body = chunk({"content": "x"}, usage={"prompt_tokens": 1}) + chunk({}, "stop") + chunk(usage=usage)
    assert decode(body + chunk(usage=None) + DONE)[-1] == Finished("stop", Usage(9, 4, 13, 2, 3))


def test_a_usage_that_cannot_be_read_does_not_cost_the_answer() -> None:
    assert decode(text("x") + chunk({}, "stop", usage={"prompt_tokens": "many"}) + DONE)[-1] == Finished("stop", None)


def test_a_message_at_the_end_does_not_repeat_what_was_streamed() -> None:
    last = {"choices": [{"delta": {}, "message": {"content": "Hello"}, "finish_reason": "stop"}]}
    body = b"data: " + json.dumps(last).encode() + b"\n\n"
    assert decode(text("Hel") + text("lo") + body) == [TextDelta("Hel"), TextDelta("lo"), Finished("stop", None)]
    assert decode(body) == [TextDelta("Hello"), Finished("stop", None)]


# --- ends and rubbish


@pytest.mark.parametrize("reason", ["error", "abort", "insufficient_system_resource"])
def test_a_reason_that_means_a_breakdown_is_an_interruption(reason: str) -> None:
    assert code_of(text("x") + end(reason)) == "model_stream_interrupted"


@pytest.mark.parametrize("empty", [None, "", {}, False])
def test_an_empty_error_is_none(empty: Any) -> None:
    assert decode(chunk({"content": "x"}, error=empty) + end()) == [TextDelta("x"), Finished("stop", None)]


def test_an_end_with_a_reason_and_no_end_mark_is_whole() -> None:
    assert decode(text("x") + chunk({}, "stop").rstrip())[-1] == Finished("stop", None)


def test_an_end_mark_without_a_reason_is_whole_when_something_was_said() -> None:
    assert decode(text("x") + DONE)[-1] == Finished("stop", None)


@pytest.mark.parametrize("body", [b"", text("x"), DONE, chunk({"role": "assistant"})])
def test_an_end_before_the_model_was_done_is_an_interruption(body: bytes) -> None:
    assert code_of(body) == "model_stream_interrupted"


@pytest.mark.parametrize(
    "body",
    [b"<html><body>Bad gateway</body></html>", b"data: {not json\n\n", b"data: [1]\n\n", b'data: {"choices": 3}\n\n',
     b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n', b"data: " + b"[" * 100_000 + b"\n\n", b'{"answer": 42}'],
)  # fmt: skip
def test_rubbish_is_an_invalid_response(body: bytes) -> None:
    assert code_of(body) == "model_invalid_response"


@pytest.mark.parametrize("start", [b"data: ", b"{", b": "])
def test_a_line_beyond_the_bound_is_refused_however_it_is_cut(start: bytes) -> None:
    body = start + b"x" * MAX_LINE_BYTES
    assert code_of(body) == code_of(body[:1000], body[1000:]) == "model_invalid_response"


def test_an_answer_that_was_not_streamed_is_read() -> None:
    message = {
        "content": None,
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
    }
    body = {
        "choices": [{"message": message, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    assert decode(json.dumps(body, indent=2).encode()) == [
        ToolCallStarted(0, "a", "look"),
        ToolCallArguments(0, "{}"),
        Finished("tool_calls", Usage(1, 2, 3)),
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [({"code": "rate_limit_exceeded"}, "model_rate_limited"), ({"code": 429}, "model_rate_limited"),
     ({"code": "RateLimitError"}, "model_rate_limited"), ({"code": "generate_failed"}, "model_stream_interrupted"),
     ({"type": "context_length_exceeded"}, "model_context_too_long"), ({"code": "content_filter"}, "model_content_filter"),
     ("overloaded", "model_stream_interrupted")],
)  # fmt: skip
def test_an_error_within_the_stream_is_told_by_its_kind(error: Any, code: str) -> None:
    body = json.dumps({"error": error}).encode()
    assert code_of(text("x") + b"data: " + body + b"\n\n") == code
    assert code_of(body) == code


def _content(*escaped: str) -> str:
    """What is read of deltas with these contents, written as JSON writes them."""
    lines = [b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % text.encode() for text in escaped]
    events = decode(b"".join(lines) + end() + DONE)
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def test_a_character_that_was_cut_in_two_is_put_together() -> None:
    assert _content("a\\ud83d", "\\ude00b") == "a\N{GRINNING FACE}b"


@pytest.mark.parametrize("deltas", [("a\\ud83d", "b"), ("a\\ude00", "b"), ("a\\ud83dx", "b")])
def test_half_a_character_costs_no_more_than_itself(deltas: tuple[str, str]) -> None:
    text = _content(*deltas)
    assert text.replace("x", "") == "a\N{REPLACEMENT CHARACTER}b"
