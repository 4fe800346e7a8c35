"""A ModelPort over a model without tool calling: its JSON objects become the events of a model that has it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

from orchestration import structured_answers
from orchestration.corrections import as_messages, rejection
from orchestration.model_port import (
    Finished,
    ModelEvent,
    ModelPort,
    ModelRequest,
    ReasoningDelta,
    TextDelta,
    ToolCallArguments,
    ToolCallStarted,
)
from orchestration.prompted_json.meaning import ANSWER, THOUGHT, Call, InvalidAnswerError, acts_first, asked_calls
from orchestration.prompted_json.messages import as_plain
from orchestration.prompted_json.reading import ObjectReader, Piece, ReadObject
from orchestration.structured_answers import OutputSchema

INVALID_CODE = "model_invalid_response"
_STREAMED = frozenset({ANSWER, THOUGHT})
_MEND = (
    'Answer again with exactly one JSON object: "answer", "action", "actions" or "plan", as described at the beginning.'
)


class PromptedJson:
    """See ModelPort. `schema`: the final answer must fit it and is held back until it does."""

    def __init__(self, port: ModelPort, schema: OutputSchema | None = None) -> None:
        self._port = port
        self._schema = schema

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[list[ModelEvent]]]:
        """See ModelPort.stream. What is no valid object ends with `Finished.rejected`."""
        asked = replace(
            request,
            messages=[*as_plain(request.messages), *as_messages(request.corrections)],
            tools=[],
            corrections=(),
            response_format={"type": "json_object"},
        )
        tools = frozenset(tool["function"]["name"] for tool in request.tools if request.may_call)
        async with self._port.stream(asked) as batches, aclosing(self._events(batches, tools)) as events:
            yield events

    async def aclose(self) -> None:
        """Close the port beneath."""
        await self._port.aclose()

    async def _events(
        self, batches: AsyncIterator[list[ModelEvent]], tools: frozenset[str]
    ) -> AsyncGenerator[list[ModelEvent], None]:
        answer = _Answer(tools, self._schema)
        async for batch in batches:
            events: list[ModelEvent] = []
            for event in batch:
                if isinstance(event, TextDelta):
                    events += answer.take(event.text)
                elif isinstance(event, Finished):
                    events += answer.end(event)
                elif isinstance(event, ReasoningDelta):
                    events.append(event)
                # Calls that a model makes by itself, though it was offered no tools, are none: it is told so.
            if events:
                yield events


class _Answer:
    """One answer: what can be shown of it while it comes, and what it comes to."""

    def __init__(self, tools: frozenset[str], schema: OutputSchema | None) -> None:
        self._tools = tools
        self._schema = schema
        self._reader = ObjectReader(_STREAMED)
        self._said: list[str] = []
        self._shown = False

    def take(self, text: str) -> list[ModelEvent]:
        """Take more of the model's text."""
        self._said.append(text)
        return self._show(self._reader.feed(text))

    def end(self, finished: Finished) -> list[ModelEvent]:
        """The last events. What was shown counts: a text that ends early is cut off, not wrong."""
        pieces, found = self._reader.end()
        events = self._show(pieces)
        if finished.reason == "content_filter":
            return [*events, finished]
        try:
            calls = asked_calls(found, self._tools)
        except InvalidAnswerError as error:
            if not self._shown:
                return [*events, self._rejected(INVALID_CODE, str(error), finished)]
            calls = []
        if calls:
            return [*events, *_call_events(calls), replace(finished, reason="tool_calls")]
        if self._schema is not None:
            return [*events, *self._checked(found, finished, self._schema)]
        if not self._shown:
            return [*events, self._rejected(INVALID_CODE, _no_text(found), finished)]
        cut_off = finished.reason == "length" or found.open_member == ANSWER
        return [*events, replace(finished, reason="length" if cut_off else "stop")]

    def _show(self, pieces: list[Piece]) -> list[ModelEvent]:
        events: list[ModelEvent] = []
        for piece in pieces:
            if piece.member == THOUGHT:
                events.append(ReasoningDelta(piece.text))
            elif self._schema is None and not acts_first(self._reader.members):
                self._shown = True
                events.append(TextDelta(piece.text))
        return events

    def _checked(self, found: ReadObject, finished: Finished, schema: OutputSchema) -> list[ModelEvent]:
        checked = schema.check(found.members.get(ANSWER))
        if not checked.problem:
            return [TextDelta(checked.text), replace(finished, reason="stop")]
        return [self._rejected(structured_answers.INVALID_CODE, f'"answer": {checked.problem}', finished)]

    def _rejected(self, code: str, problem: str, finished: Finished) -> Finished:
        told = rejection(code, "".join(self._said), problem, _MEND, finished)
        return replace(finished, rejected=told)


def _no_text(found: ReadObject) -> str:
    empty = found.members.get(ANSWER) == ""
    return 'The text of "answer" is empty.' if empty else '"answer" must be a text in quotation marks.'


def _call_events(calls: list[Call]) -> list[ModelEvent]:
    events: list[ModelEvent] = []
    for index, call in enumerate(calls):
        events += [ToolCallStarted(index, "", call.tool), ToolCallArguments(index, call.arguments)]
    return events
