"""What becomes of the answers of a model without tool calling, however they are cut, and what it is shown."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.corrections import BEGINNING
from orchestration.model_port import (
    Finished,
    FinishReason,
    ModelEvent,
    ModelRequest,
    ReasoningDelta,
    Rejection,
    TextDelta,
    ToolCallArguments,
    ToolCallStarted,
    Usage,
)
from orchestration.prompted_json.messages import RESULTS_TITLE, as_plain
from orchestration.prompted_json.port import PromptedJson
from orchestration.structured_answers import OutputSchema, StructuredAnswers

USAGE = Usage(input_tokens=3, output_tokens=4, total_tokens=7)
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("get_weather_tool", "make_plan")]
SCHEMA = OutputSchema({
    "type": "object", "properties": {"city": {"type": "string"}, "degrees": {"type": "number"}}, "required": ["city", "degrees"],
})  # fmt: skip


class Scripted:
    """A port that says the pieces it was given; `asked` is what it was asked last."""

    def __init__(self, pieces: Sequence[str], reason: FinishReason = "stop") -> None:
        self.pieces, self.reason = pieces, reason
        self.asked = ModelRequest("m", [])

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[list[ModelEvent]]]:
        self.asked = request

        async def batches() -> AsyncIterator[list[ModelEvent]]:
            for piece in self.pieces:
                yield [TextDelta(piece)]
            yield [Finished(self.reason, USAGE)]

        yield batches()

    async def aclose(self) -> None:
        pass


class Outcome:
    """What a run would see of an answer."""

    def __init__(self, events: list[ModelEvent]) -> None:
        self.events = events
        self.text = "".join(event.text for event in events if isinstance(event, TextDelta))
        self.thought = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
        arguments = {event.index: event.text for event in events if isinstance(event, ToolCallArguments)}
        self.calls = [
            (event.name, json.loads(arguments[event.index])) for event in events if isinstance(event, ToolCallStarted)
        ]
        [finished] = [event for event in events if isinstance(event, Finished)]
        self.reason, self.rejected = finished.reason, finished.rejected
        assert finished.usage == USAGE

    @property
    def correction(self) -> str:
        assert self.rejected is not None
        assert not self.text
        assert not self.calls
        return self.rejected.correction


async def answered(*pieces: str, reason: FinishReason = "stop", schema: OutputSchema | None = None) -> Outcome:
    port = PromptedJson(Scripted(pieces, reason), schema)
    async with port.stream(ModelRequest("m", [], tools=TOOLS)) as batches:
        return Outcome([event async for batch in batches for event in batch])


async def test_the_text_of_an_answer_is_given_while_it_comes() -> None:
    port = PromptedJson(Scripted(['{"thought": "Hm', 'm.", "answer": "It is ', "18 \\u00", "b0C in ", 'Rome."}']))
    async with port.stream(ModelRequest("m", [])) as batches:
        seen = [batch async for batch in batches]
    assert seen[:-1] == [
        [ReasoningDelta("Hm")], [ReasoningDelta("m."), TextDelta("It is ")], [TextDelta("18 ")], [TextDelta("°C in ")],
        [TextDelta("Rome.")],
    ]  # fmt: skip
    assert seen[-1] == [Finished("stop", USAGE)]


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=40), ascii_only=st.booleans(), data=st.data())
async def test_any_text_arrives_as_it_was_written_however_it_is_cut(text: str, ascii_only: bool, data: Any) -> None:
    document = f'\n```json\n{{"answer": {json.dumps(text + ".", ensure_ascii=ascii_only)}}}\n```'
    cuts = sorted(data.draw(st.sets(st.integers(1, len(document) - 1), max_size=8)))
    pieces = [document[start:end] for start, end in zip([0, *cuts], [*cuts, len(document)], strict=True)]
    found = await answered(*pieces)
    assert (found.text, found.reason, found.rejected) == (text + ".", "stop", None)


@pytest.mark.parametrize(
    ("document", "calls"),
    [
        ('{"action": {"tool": "get_weather_tool", "arguments": {"location": "Rome"}}}', [{"location": "Rome"}]),
        ('Sure!\n```json\n{"action": {"tool": "get_weather_tool"}}\n```', [{}]),
        (
            '{"actions": [{"tool": "get_weather_tool", "arguments": {"location": "{\\"}"}},'
            ' {"tool": "get_weather_tool", "arguments": {}}]}',
            [{"location": '{"}'}, {}],
        ),
        ('{"answer": null, "plan": null, "action": {"tool": "get_weather_tool"}}', [{}]),
        ('<think>{"no": </think>\n{"thought": "both", "action": {"tool": "get_weather_tool"}}', [{}]),
    ],
)
async def test_actions_become_calls(document: str, calls: list[Any]) -> None:
    found = await answered(document)
    assert (found.calls, found.reason) == ([("get_weather_tool", arguments) for arguments in calls], "tool_calls")


async def test_a_plan_is_a_call_of_the_planning_tool() -> None:
    plan = {"steps": [{"id": "a", "tool": "get_weather_tool", "arguments": {"location": "Rome"}}]}
    assert (await answered(json.dumps({"plan": plan}))).calls == [("make_plan", plan)]


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ("It is sunny.", "It holds no JSON object."),
        ("", "It holds no JSON object."),
        ('{"action": {"tool": "rm", "arguments": {}}}', 'There is no tool "rm". The tools are: get_weather_tool, make_plan.'),
        ('{"action": {"tool": "make_plan", "arguments": "x"}}', '"arguments" of "action" must be a JSON object, not a text.'),
        ('{"action": {"tool": "make_plan"}, "answer": "x"}', 'It has "action" and "answer": give one of them.'),
        ('{"actions": []}', '"actions" must be a list'),
        ('{"actions": [{"tool": "make_plan"}, {"name": "x"}]}', "actions[1] must be"),
        ('{"action": get_weather_tool}', "It is not JSON at position 11: expecting value."),
        ('{"action": {"tool": "make_plan"', "It is cut off at position 31"),
        ('{"action": {"tool": "make_plan"}} {"answer": "x"}', "It is not JSON at position 34: more follows"),
        ('{"reply": "x"}', 'It has none of "answer", "action", "actions" and "plan".'),
        ('{"answer": {"text": "x"}}', '"answer" must be a text'),
        ('{"answer": ""}', 'The text of "answer" is empty.'),
        ('{"action": {"tool": "make_plan"}, "action": {}}', "'action' stands in it twice"),
        ('{"action": {"tool": "make_plan", "arguments": {"n": NaN}}}', "NaN is not a JSON value"),
    ],
)  # fmt: skip
async def test_what_is_no_valid_object_is_told_exactly_and_shown_to_nobody(document: str, told: str) -> None:
    found = await answered(document)
    assert found.correction.startswith(BEGINNING)
    assert told in found.correction
    assert found.rejected is not None
    assert found.rejected.code == "model_invalid_response"
    assert found.rejected.said == document


async def test_what_was_shown_of_an_answer_counts() -> None:
    cut = await answered('{"answer": "Half of what I wan', reason="length")
    assert (cut.text, cut.reason, cut.rejected) == ("Half of what I wan", "length", None)
    ended = await answered('{"answer": "Half of what I wan')
    assert (ended.text, ended.reason) == ("Half of what I wan", "length")
    without_brace = await answered('{"answer": "All of it."')
    assert (without_brace.text, without_brace.reason) == ("All of it.", "stop")
    quoting = await answered('{"answer": "He said "hi, you" and\nleft \\_ \\ud83d"}')
    assert quoting.text == 'He said "hi, you" and\nleft \\_ \N{REPLACEMENT CHARACTER}'
    both = await answered('{"answer": "I look it up.", "action": {"tool": "get_weather_tool"}}')
    assert (both.text, both.calls) == ("I look it up.", [("get_weather_tool", {})])


async def test_members_that_say_nothing_are_passed_over() -> None:
    found = await answered('{"thought": "", "plan": null, "action": null, "answer": "Well."}')
    assert (found.text, found.rejected) == ("Well.", None)


async def test_a_structured_answer_is_shown_once_it_fits() -> None:
    fitting = await answered('{"answer": {"city": "Rome", ', '"degrees": 18}}', schema=SCHEMA)
    assert (fitting.text, fitting.rejected) == ('{"city":"Rome","degrees":18}', None)
    as_text = await answered(json.dumps({"answer": '{"city": "Rome", "degrees": 18}'}), schema=SCHEMA)
    assert as_text.text == '{"city":"Rome","degrees":18}'
    wrong = await answered('{"answer": {"city": "Rome"}}', schema=SCHEMA)
    assert '"degrees" is a required property' in wrong.correction
    assert wrong.rejected is not None
    assert wrong.rejected.code == "invalid_structured_answer"


async def test_a_model_with_tool_calling_gives_structured_answers_too() -> None:
    async def structured(*pieces: str, **changes: Any) -> tuple[Outcome, ModelRequest]:
        scripted = Scripted(pieces)
        async with StructuredAnswers(scripted, SCHEMA).stream(ModelRequest("m", [], **changes)) as batches:
            return Outcome([event async for batch in batches for event in batch]), scripted.asked

    found, asked = await structured('```json\n{"city": "Rome", ', '"degrees": 18}\n```')
    assert found.text == '{"city":"Rome","degrees":18}'
    assert asked.response_format is not None
    assert asked.response_format["json_schema"]["schema"] == SCHEMA.document
    wrong, asked = await structured("It is 18 degrees in Rome.", tools=TOOLS)
    assert "It is not JSON at position 0" in wrong.correction
    assert asked.response_format is None, "several servers take a format and tools for a contradiction"


async def test_the_model_is_shown_calls_results_and_its_mistakes_as_plain_messages() -> None:
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "get_weather_tool", "arguments": '{"location": "Rome"}'},
    }
    conversation = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "Weather in Rome?"},
        {"role": "assistant", "content": None, "tool_calls": [call, {**call, "id": "c2"}]},
        {"role": "tool", "tool_call_id": "c1", "content": '{"degrees": 18}'},
        {"role": "tool", "tool_call_id": "c2", "content": "It did not answer."},
    ]
    scripted = Scripted(['{"answer": "18"}'])
    told = Rejection("model_invalid_response", "It is 18.", f"{BEGINNING} It holds no JSON object.")
    request = ModelRequest("m", conversation, tools=TOOLS, corrections=(told,))
    async with PromptedJson(scripted).stream(request) as batches:
        _ = [batch async for batch in batches]
    assert scripted.asked.tools == []
    action = {"tool": "get_weather_tool", "arguments": {"location": "Rome"}}
    assert [(message["role"], message["content"]) for message in scripted.asked.messages] == [
        ("system", "Be kind."),
        ("user", "Hello"),
        ("assistant", '{"answer":"Hi!"}'),
        ("user", "Weather in Rome?"),
        ("assistant", json.dumps({"actions": [action, action]}, separators=(",", ":"))),
        ("user", f'{RESULTS_TITLE}\n{{"tool":"get_weather_tool","result":{{"degrees":18}}}}\n'
                 '{"tool":"get_weather_tool","result":"It did not answer."}'),
        ("assistant", "It is 18."),
        ("user", f"{BEGINNING} It holds no JSON object."),
    ]  # fmt: skip


def test_roles_take_turns() -> None:
    asked_twice = [{"role": "user", "content": "One"}, {"role": "user", "content": "Two"}]
    assert as_plain(asked_twice) == [{"role": "user", "content": "One\n\nTwo"}]
