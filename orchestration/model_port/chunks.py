"""Decoding of streamed chat completions: bytes in, model events out, one list for each piece of bytes.

The openai package decodes a chunk in about 120 microseconds, typed decoding by msgspec in one; so the package makes the request and this
module reads the answer. It is liberal: providers that speak this format differ in what they leave out.
"""

from __future__ import annotations

from typing import Any

import msgspec

from orchestration.model_port import (
    Finished,
    FinishReason,
    ModelError,
    ModelEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallArguments,
    ToolCallStarted,
    Usage,
)

MAX_LINE_BYTES = 4 * 1024 * 1024

_FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "end_turn": "stop",
    "eos": "stop",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "length": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
    "safety": "content_filter",
}


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: Any = None


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: Any = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: Any = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Chunk)


def _rubbish() -> ModelError:
    return ModelError("model_invalid_response", "The model's answer could not be understood.", retryable=True)


def interrupted() -> ModelError:
    """The answer ended before the model said that it was done."""
    return ModelError("model_stream_interrupted", "The model's answer ended early.", retryable=True)


class _CallState:
    """A tool call under way: it is announced once its name is known to be whole."""

    __slots__ = ("id", "index", "name", "started")

    def __init__(self, index: int) -> None:
        self.index = index
        self.id = ""
        self.name = ""
        self.started = False


class ChunkDecoder:
    """Decodes one answer. Feed it the bytes as they come, then call `end`."""

    def __init__(self) -> None:
        self._rest = b""
        self._calls: dict[int, _CallState] = {}
        self._reason: FinishReason | None = None
        self._usage: Usage | None = None
        self._said_anything = False
        self._done = False

    def feed(self, data: bytes) -> list[ModelEvent]:
        """The events that these bytes complete; raises ModelError."""
        lines = (self._rest + data).split(b"\n") if self._rest else data.split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_LINE_BYTES:
            raise _rubbish()
        events: list[ModelEvent] = []
        for line in lines:
            self._take_line(line, events)
        return events

    def end(self) -> list[ModelEvent]:
        """What remains at the end of the body: always ends in Finished; raises ModelError when the answer is not whole."""
        events: list[ModelEvent] = []
        if self._rest:
            rest, self._rest = self._rest, b""
            self._take_line(rest, events)
        reason = self._reason
        if reason is None:
            if not (self._done and self._said_anything):
                raise interrupted()
            reason = "stop"  # some providers end with [DONE] and no reason
        self._announce_all(events)
        if self._calls and reason == "stop":
            reason = "tool_calls"
        events.append(Finished(reason, self._usage))
        return events

    def feed_whole(self, body: bytes) -> list[ModelEvent]:
        """A completion that the provider did not stream; raises ModelError."""
        events: list[ModelEvent] = []
        self._take_chunk(body, events)
        return [*events, *self.end()]

    def _take_line(self, line: bytes, events: list[ModelEvent]) -> None:
        if not line.startswith(b"data:"):
            if line.startswith(b"<") or (line.startswith(b"{") and not self._said_anything):
                raise _rubbish()
            return  # blank lines, comments, other fields
        data = line[5:].strip()
        if data == b"[DONE]":
            self._done = True
        elif data:
            self._take_chunk(data, events)

    def _take_chunk(self, data: bytes, events: list[ModelEvent]) -> None:
        try:
            chunk = _decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise _rubbish() from error
        if chunk.error is not None:
            raise _reported(chunk.error)
        if chunk.usage is not None:
            self._usage = _usage(chunk.usage)
        if not chunk.choices:
            return
        choice = chunk.choices[0]
        delta = choice.delta or choice.message
        if delta is not None:
            self._take_delta(delta, events)
        if choice.finish_reason:
            self._reason = _FINISH_REASONS.get(choice.finish_reason.lower(), "stop")

    def _take_delta(self, delta: _Delta, events: list[ModelEvent]) -> None:
        reasoning = delta.reasoning_content or delta.reasoning or _texts(delta.reasoning_details)
        if reasoning:
            events.append(ReasoningDelta(reasoning))
        text = delta.content if isinstance(delta.content, str) else _texts(delta.content)
        text = text or delta.refusal
        if text:
            self._said_anything = True
            events.append(TextDelta(text))
        for call in delta.tool_calls or ():
            self._take_call(call, events)

    def _take_call(self, call: _Call, events: list[ModelEvent]) -> None:
        self._said_anything = True
        state = self._state_of(call)
        if call.id and not state.id:
            state.id = call.id
        function = call.function
        if function is None:
            return
        if function.name and not state.started and function.name != state.name:
            state.name += function.name
        arguments = function.arguments
        if arguments is None or arguments == "":
            return
        self._announce(state, events)
        text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
        events.append(ToolCallArguments(state.index, text))

    def _state_of(self, call: _Call) -> _CallState:
        """The call that a delta belongs to: by index, else by a new id, else the last one."""
        index = call.index
        if index is None:
            known = next((state.index for state in self._calls.values() if call.id and state.id == call.id), None)
            last = len(self._calls) - 1
            index = known if known is not None else (len(self._calls) if call.id or last < 0 else last)
        return self._calls.setdefault(index, _CallState(index))

    def _announce(self, state: _CallState, events: list[ModelEvent]) -> None:
        if not state.started:
            state.started = True
            events.append(ToolCallStarted(state.index, state.id, state.name))

    def _announce_all(self, events: list[ModelEvent]) -> None:
        """Calls without arguments."""
        for state in self._calls.values():
            self._announce(state, events)


def _texts(parts: Any) -> str:
    """The text of a list of parts, where a provider sends one."""
    if not isinstance(parts, list):
        return ""
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def _usage(found: _Usage) -> Usage:
    given, made = found.prompt_tokens or 0, found.completion_tokens or 0
    return Usage(
        input_tokens=given,
        output_tokens=made,
        total_tokens=found.total_tokens or given + made,
        reasoning_tokens=(found.completion_tokens_details and found.completion_tokens_details.reasoning_tokens) or 0,
        cached_input_tokens=(found.prompt_tokens_details and found.prompt_tokens_details.cached_tokens) or 0,
    )


def _reported(error: Any) -> ModelError:
    """An error that the provider sends within the stream."""
    kind = str(error.get("code") or error.get("type") or "") if isinstance(error, dict) else ""
    if "rate" in kind or kind == "429":
        return ModelError("model_rate_limited", "The model takes no more requests at the moment.", retryable=True)
    if "context_length" in kind:
        return ModelError("model_context_too_long", "The conversation is too long for the model.")
    return ModelError(
        "model_stream_interrupted", "The model's provider reported an error during the answer.", retryable=True
    )
