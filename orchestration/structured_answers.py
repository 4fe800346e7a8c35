"""Structured answers: an agent's final answer as one JSON value that fits its output schema.

The answer is held back until it is complete, so that nobody is shown one that does not fit; then it is checked, and what is wrong is
told to the model. Text that comes before tool calls is no final answer and passes.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import orjson

from orchestration.corrections import as_messages, rejection
from orchestration.model_port import (
    Finished,
    ModelEvent,
    ModelPort,
    ModelRequest,
    TextDelta,
    ToolCallStarted,
)
from tools import schemas

INVALID_CODE = "invalid_structured_answer"
_FENCED = re.compile(r"\s*```[a-zA-Z]*\s*\n(?P<inside>.*)\n\s*```\s*", re.DOTALL)
MEND = "Answer again with the whole JSON value, corrected, and nothing else."


@dataclass(frozen=True, slots=True)
class CheckedAnswer:
    """An answer that was held against its schema: its JSON text, or what is wrong with it."""

    text: str = ""
    problem: str = ""


class OutputSchema:
    """A schema that answers are checked against."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self._bytes = orjson.dumps(document)

    def check_text(self, text: str) -> CheckedAnswer:
        """An answer as the model wrote it, perhaps in a code fence."""
        fenced = _FENCED.fullmatch(text)
        try:
            value = orjson.loads(fenced["inside"] if fenced else text)
        except orjson.JSONDecodeError as error:
            return CheckedAnswer(problem=f"It is not JSON at position {error.pos}: {error.msg}.")
        return self.check(value)

    def check(self, value: Any) -> CheckedAnswer:
        """A value; a text that does not fit may hold one that does."""
        problems = self._problems(value)
        if not problems:
            return CheckedAnswer(text=json.dumps(value, ensure_ascii=False, separators=(",", ":")))
        if isinstance(value, str):
            inner = _parsed(value)
            if inner is not None and not self._problems(inner):
                return self.check(inner)
        return CheckedAnswer(problem="It does not fit the schema: " + "; ".join(problems) + ".")

    def _problems(self, value: Any) -> list[str]:
        try:
            return schemas.problems(self._bytes, value)
        except schemas.InvalidSchemaError as error:  # checked when it was saved
            return [f"the schema cannot be used ({error})"]


def final_value(text: str) -> Any:
    """The value of an answer that was checked; raises ValueError when the text is no JSON."""
    return orjson.loads(text)


def _parsed(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


class StructuredAnswers:
    """A ModelPort whose final answers fit a schema, over a model that calls tools by itself."""

    def __init__(self, port: ModelPort, schema: OutputSchema) -> None:
        self._port = port
        self._schema = schema

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[list[ModelEvent]]]:
        """See ModelPort.stream. An answer that does not fit ends with `Finished.rejected`."""
        asked = replace(
            request,
            messages=[*request.messages, *as_messages(request.corrections)],
            corrections=(),
            response_format=None if request.tools else self._response_format(),
        )
        async with self._port.stream(asked) as batches, aclosing(self._checked(batches)) as checked:
            yield checked

    async def aclose(self) -> None:
        """Close the port beneath."""
        await self._port.aclose()

    def _response_format(self) -> dict[str, Any]:
        # Only without tools: several servers take a format and tools for a contradiction, or stop calling tools.
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": self._schema.document}}

    async def _checked(self, batches: AsyncIterator[list[ModelEvent]]) -> AsyncGenerator[list[ModelEvent], None]:
        held: list[str] = []
        calls = False
        async for batch in batches:
            events: list[ModelEvent] = []
            for event in batch:
                if isinstance(event, TextDelta) and not calls:
                    held.append(event.text)
                    continue
                if isinstance(event, ToolCallStarted) and not calls:
                    calls = True
                    events += _released(held)
                if isinstance(event, Finished) and not calls:
                    events += self._final("".join(held), event)
                else:
                    events.append(event)
            if events:
                yield events

    def _final(self, text: str, finished: Finished) -> list[ModelEvent]:
        if finished.reason == "content_filter" or not text:
            return [finished]
        checked = self._schema.check_text(text)
        if not checked.problem:
            return [TextDelta(checked.text), finished]
        return [replace(finished, rejected=rejection(INVALID_CODE, text, checked.problem, MEND, finished))]


def _released(held: list[str]) -> list[ModelEvent]:
    text = "".join(held)
    return [TextDelta(text)] if text else []
