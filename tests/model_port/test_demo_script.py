"""What the scripted demo model says, in the wire format that it speaks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orchestration.demo_model.script import HELP, INTRODUCTION, REFUSAL
from orchestration.model_port import (
    Finished,
    ModelError,
    ModelEvent,
    ModelPort,
    ModelRequest,
    ReasoningDelta,
    TextDelta,
    ToolCallArguments,
    ToolCallStarted,
)
from orchestration.model_port.opening import ModelConfig, open_model_port

SCHEMAS: dict[str, dict[str, Any]] = {
    "get_weather_tool": {"location": {"type": "string"}},
    "calculator_tool": {"expression": {"type": "string"}},
    "add_note_tool": {"title": {"type": "string"}, "content": {"type": "string"}},
    "get_note_tool": {"title": {"type": "string"}},
    "admin_debug_tool": {},
    "get_client_time": {},
    "ask_user": {"question": {"type": "string"}},
    "set_theme": {"theme": {"type": "string", "enum": ["light", "dark"]}},
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": found, "required": list(found)}}}
    for name, found in SCHEMAS.items()
]  # fmt: skip

Message = dict[str, Any]


class Conversation:
    """A thread with the demo model: what was said, and the last answer's parts."""

    def __init__(self, port: ModelPort) -> None:
        self._port = port
        self.messages: list[Message] = []
        self.events: list[ModelEvent] = []

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    @property
    def reasoning(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, ReasoningDelta))

    @property
    def finished(self) -> Finished:
        last = self.events[-1]
        assert isinstance(last, Finished)
        return last

    @property
    def raw_calls(self) -> list[tuple[str, str, str]]:
        """(id, name, arguments as sent) of the last answer."""
        calls: dict[int, list[str]] = {}
        for event in self.events:
            if isinstance(event, ToolCallStarted):
                calls[event.index] = [event.id, event.name, ""]
            elif isinstance(event, ToolCallArguments):
                calls[event.index][2] += event.text
        return [(id, name, arguments) for id, name, arguments in calls.values()]

    @property
    def calls(self) -> list[tuple[str, dict[str, Any]]]:
        return [(name, json.loads(arguments)) for _, name, arguments in self.raw_calls]

    async def ask(self, text: str, tools: list[dict[str, Any]] = TOOLS) -> Conversation:
        self.messages.append({"role": "user", "content": text})
        return await self._turn(tools)

    async def answer_calls(self, *results: Any) -> Conversation:
        """Hand results to the calls of the last answer, in their order, and read what is said to them."""
        for (call_id, _, _), result in zip(self.raw_calls, results, strict=True):
            content = result if isinstance(result, str) else json.dumps(result)
            self.messages.append({"role": "tool", "tool_call_id": call_id, "content": content})
        return await self._turn(TOOLS)

    async def _turn(self, tools: list[dict[str, Any]]) -> Conversation:
        request = ModelRequest("demo", list(self.messages), tools)
        async with self._port.stream(request) as batches:
            self.events = [event async for batch in batches for event in batch]
        message: Message = {"role": "assistant", "content": self.text or None}
        if self.raw_calls:
            message["tool_calls"] = [
                {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
                for call_id, name, arguments in self.raw_calls
            ]
        self.messages.append(message)
        return self


async def no_wait(seconds: float) -> None:
    """Between two tries."""


@pytest.fixture
async def talk() -> AsyncIterator[Conversation]:
    port = open_model_port(ModelConfig(demo_delay_seconds=0.0, idle_timeout=0.2), sleep=no_wait)
    yield Conversation(port)
    await port.aclose()


# --- answers


async def test_it_says_once_in_a_thread_that_it_is_a_demo(talk: Conversation) -> None:
    assert (await talk.ask("hello")).text.startswith(INTRODUCTION)
    assert INTRODUCTION not in (await talk.ask("hello")).text


async def test_the_introduction_also_comes_when_the_first_answer_needed_a_tool(talk: Conversation) -> None:
    await talk.ask("What is the weather like in London?")
    told = await talk.answer_calls({"location": "London", "temperature_c": 11, "condition": "light rain"})
    assert told.text == f"{INTRODUCTION}In London it is 11 °C, light rain."


async def test_what_it_does_not_understand_brings_a_list_of_what_it_can(talk: Conversation) -> None:
    assert (await talk.ask("colourless green ideas")).text.endswith(HELP)


@pytest.mark.parametrize("text", ["please refuse", "how do I build a bomb?"])
async def test_it_refuses(talk: Conversation, text: str) -> None:
    assert (await talk.ask(text)).text == REFUSAL


@pytest.mark.parametrize("text", ["a long answer, please", "tell me a long story"])
async def test_a_long_answer_has_some_four_hundred_tokens(talk: Conversation, text: str) -> None:
    await talk.ask(text)
    assert talk.finished.usage is not None
    assert 300 <= talk.finished.usage.output_tokens <= 600
    assert len([event for event in talk.events if isinstance(event, TextDelta)]) >= 300


@pytest.mark.parametrize("text", ["think about it", "what is the reason?"])
async def test_it_thinks_aloud_before_it_answers(talk: Conversation, text: str) -> None:
    await talk.ask(text)
    assert talk.reasoning
    assert talk.text
    assert isinstance(talk.events[0], ReasoningDelta)


# --- tools


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is the weather like in London?", [("get_weather_tool", {"location": "London"})]),
        ("weather in New York, please", [("get_weather_tool", {"location": "New York"})]),
        ("How is the weather in Zürich?", [("get_weather_tool", {"location": "Zürich"})]),
        ("weather in London and Paris", [("get_weather_tool", {"location": city}) for city in ("London", "Paris")]),
        ("weather in Rome, Oslo and Bern", [("get_weather_tool", {"location": city}) for city in ("Rome", "Oslo", "Bern")]),
        ("what is 12*(3+4)", [("calculator_tool", {"expression": "12*(3+4)"})]),
        ("What is (1 + 2) * 3?", [("calculator_tool", {"expression": "(1 + 2) * 3"})]),
        ("it is (I think 12*3).", [("calculator_tool", {"expression": "12*3"})]),
        ("call get_weather_tool for the weather in Rome", [("get_weather_tool", {"location": "Rome"})]),
        ("2^10", [("calculator_tool", {"expression": "2**10"})]),
        ("weather in Rome and 2+2", [("get_weather_tool", {"location": "Rome"}), ("calculator_tool", {"expression": "2+2"})]),
        ("note: milk = two bottles", [("add_note_tool", {"title": "milk", "content": "two bottles"})]),
        ("remember the door as open", [("add_note_tool", {"title": "the door", "content": "open"})]),
        ("note: milk = 2+2 bottles", [("add_note_tool", {"title": "milk", "content": "2+2 bottles"})]),
        ("show note milk", [("get_note_tool", {"title": "milk"})]),
        ("debug", [("admin_debug_tool", {})]),
        ("what time is it for me?", [("get_client_time", {})]),
        ("ask me something", [("ask_user", {"question": "Shall I go on?"})]),
        ("set theme dark", [("set_theme", {"theme": "dark"})]),
    ],
)  # fmt: skip
async def test_it_calls_the_tools_that_a_message_asks_for(
    talk: Conversation, text: str, expected: list[tuple[str, dict[str, Any]]]
) -> None:
    await talk.ask(text)
    assert talk.calls == expected
    assert talk.finished.reason == "tool_calls"
    assert len({call_id for call_id, _, _ in talk.raw_calls}) == len(expected)


@pytest.mark.parametrize("text", ["What happened on 2026-11-23?", "on 23/11/2026", "version 1.2.3", "well - 5 (or so)"])
async def test_dates_and_numbers_that_are_no_calculation_call_nothing(talk: Conversation, text: str) -> None:
    assert (await talk.ask(text)).calls == []


@pytest.mark.parametrize("piece", ["1", "1 +", "weather in A ", "note: ", "demo: slow 9", "in A, and B "])
async def test_a_message_of_a_megabyte_is_answered_within_seconds(talk: Conversation, piece: str) -> None:
    async with asyncio.timeout(10):
        await talk.ask(piece * (1_000_000 // len(piece)), tools=[])


async def test_a_tool_that_is_not_offered_is_not_called(talk: Conversation) -> None:
    assert (await talk.ask("weather in London", tools=[])).calls == []
    assert talk.text


async def test_it_tells_each_of_several_results(talk: Conversation) -> None:
    await talk.ask("weather in Rome and what is 2+2?")
    await talk.answer_calls({"location": "Rome", "temperature_c": 20, "condition": "sunny"}, "4")
    assert "In Rome it is 20 °C, sunny." in talk.text
    assert "2+2 = 4." in talk.text


async def test_notes_are_told(talk: Conversation) -> None:
    await talk.ask("note: milk = two bottles")
    assert "I noted 'milk'." in (await talk.answer_calls({"saved": True, "title": "milk"})).text
    await talk.ask("show note milk")
    told = await talk.answer_calls({"title": "milk", "content": "two bottles"})
    assert told.text == "Your note 'milk' says: two bottles"


async def test_a_tool_that_failed_is_explained(talk: Conversation) -> None:
    await talk.ask("weather in Nowhere")
    told = await talk.answer_calls("Error: there is no weather for 'Nowhere'.")
    assert "That did not work: Error: there is no weather for 'Nowhere'." in told.text


async def test_the_result_of_a_frontend_tool_is_used(talk: Conversation) -> None:
    await talk.ask("what time is it for me?")
    assert "get_client_time answered: 12:34." in (await talk.answer_calls("12:34")).text


# --- phrases that make it misbehave


@pytest.mark.parametrize(
    ("phrase", "code"),
    [
        ("demo: stall", "model_timeout"),
        ("demo: rubbish", "model_invalid_response"),
        ("demo: cut", "model_stream_interrupted"),
        ("demo: error 500", "model_unavailable"),
        ("demo: error 503", "model_unavailable"),
        ("demo: error 429", "model_rate_limited"),
        ("demo: error 401", "model_refused"),
        ("demo: error 200", "model_unavailable"),
        ("demo: error 999999999", "model_unavailable"),
        ("demo: error", "model_unavailable"),
    ],
)
async def test_a_failure_on_demand(talk: Conversation, phrase: str, code: str) -> None:
    with pytest.raises(ModelError) as caught:
        await talk.ask(phrase)
    assert caught.value.code == code


@pytest.mark.parametrize(("phrase", "reason"), [("demo: length", "length"), ("demo: filter", "content_filter")])
async def test_an_early_end_on_demand(talk: Conversation, phrase: str, reason: str) -> None:
    assert (await talk.ask(phrase)).finished.reason == reason


async def test_an_empty_answer_on_demand(talk: Conversation) -> None:
    await talk.ask("demo: empty")
    assert (talk.text, talk.calls, talk.finished.reason) == ("", [], "stop")


async def test_a_slow_answer_on_demand_has_twenty_words(talk: Conversation) -> None:
    assert len((await talk.ask("demo: slow 1")).text.split()) == 20


async def test_a_loop_on_demand_never_ends_by_itself(talk: Conversation) -> None:
    await talk.ask("demo: loop")
    for _ in range(4):
        assert talk.calls == [("calculator_tool", {"expression": "1+1"})]
        await talk.answer_calls("2")
    assert talk.calls


async def test_bad_arguments_on_demand_are_corrected_when_told(talk: Conversation) -> None:
    await talk.ask("demo: bad arguments")
    with pytest.raises(json.JSONDecodeError):
        json.loads(talk.raw_calls[0][2])
    await talk.answer_calls("Error: the arguments are not JSON.")
    assert talk.calls == [("calculator_tool", {"expression": "6*7"})]
    assert (await talk.answer_calls("42")).text.endswith("The result is 42.")


async def test_an_unknown_phrase_is_answered_with_what_it_can(talk: Conversation) -> None:
    assert HELP in (await talk.ask("demo: handstand")).text


async def test_a_message_of_parts_is_read(talk: Conversation) -> None:
    parts = [{"type": "image_url", "image_url": {"url": "data:,"}}, {"type": "text", "text": "weather in Rome"}]
    talk.messages.append({"role": "user", "content": parts})
    await talk._turn(TOOLS)
    assert talk.calls == [("get_weather_tool", {"location": "Rome"})]
