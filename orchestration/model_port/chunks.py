"""Decoding of streamed chat completions: bytes in, model events out, one list for each piece of bytes.

The openai package decodes a chunk in about 120 microseconds, typed decoding by msgspec in one; so the package makes the request and this
module reads the answer. It is liberal: providers that speak this format differ in what they leave out.
"""

from __future__ import annotations

import json
import re
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
# How some providers say that they broke off; any other reason that is not known counts as an ordinary end.
_BREAKS = frozenset({"error", "abort", "cancelled", "network_error", "insufficient_system_resource"})
_RATE_LIMIT = re.compile(r"rate.?limit|too.?many.?requests|^429$", re.IGNORECASE)


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
    function_call: _Function | None = None  # what the API had before tool calls


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


_NO_USAGE = msgspec.Raw(b"null")
_NO_FUNCTION = _Function()


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    # Some providers send it with each chunk: only the last one is decoded.
    usage: msgspec.Raw = _NO_USAGE
    error: Any = None


_decoder = msgspec.json.Decoder(_Chunk)
_usage_decoder = msgspec.json.Decoder(_Usage | None)


def _with_whole_characters(text: str) -> bytes:
    """UTF-8 of a text in which surrogate pairs become characters, and halves U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def _rubbish() -> ModelError:
    return ModelError("model_invalid_response", "The model's answer could not be understood.", retryable=True)


def interrupted() -> ModelError:
    """The answer ended before the model said that it was done."""
    return ModelError("model_stream_interrupted", "The model's answer ended early.", retryable=True)


class _CallState:
    """A tool call under way: it is announced once its name is known to be whole. `index` is its place in the turn."""

    __slots__ = ("arguments", "id", "index", "name", "started")

    def __init__(self, index: int) -> None:
        self.index = index
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []
        self.started = False

    def is_whole(self) -> bool:
        """Whether the arguments are a complete object, so that more of them would be another call's."""
        try:
            msgspec.json.decode("".join(self.arguments), type=dict)
        except (msgspec.MsgspecError, RecursionError):
            return False
        return True


class ChunkDecoder:
    """Decodes one answer. Feed it the bytes as they come, look at `failure` after each, then call `end`.

    A body that begins with a brace is a completion that the provider did not stream.
    """

    def __init__(self) -> None:
        self.failure: ModelError | None = None
        self._begun = False
        self._whole: bytearray | None = None
        self._rest = b""
        self._calls: list[_CallState] = []
        self._by_index: dict[int, _CallState] = {}
        self._reason: FinishReason | None = None
        self._usage = _NO_USAGE
        self._said_anything = False
        self._done = False
        self._half = ""
        self._lost = ""

    @property
    def complete(self) -> bool:
        """Whether the model has said that it is done; what may still come is the count of tokens."""
        return self._done or self._reason is not None

    @property
    def done(self) -> bool:
        """Whether nothing more can come."""
        return self._done

    def feed(self, data: bytes) -> list[ModelEvent]:
        """The events that these bytes complete. What goes wrong after them is kept in `failure`."""
        events: list[ModelEvent] = []
        if self.failure is None:
            try:
                self._take(data, events)
            except ModelError as error:
                self.failure = error
        return events

    def end(self) -> list[ModelEvent]:
        """What remains at the end of the body: always ends in Finished; raises ModelError when the answer is not whole."""
        events: list[ModelEvent] = []
        if self._whole is not None:
            self._take_chunk(bytes(self._whole), events)
        elif self._rest:
            rest, self._rest = self._rest, b""
            self._take_line(rest, events)
        self._announce_all(events)
        events.append(Finished(self._finish_reason(), _usage(self._usage)))
        return events

    def _finish_reason(self) -> FinishReason:
        reason = self._reason
        if reason is None:
            if self._whole is not None and not self._said_anything:
                raise _rubbish()
            if not self._said_anything or not (self._done or self._whole is not None):
                raise interrupted()
            reason = "stop"  # some providers end with [DONE] and no reason
        if self._calls:
            return "tool_calls" if reason == "stop" else reason
        return "stop" if reason == "tool_calls" else reason

    def _take(self, data: bytes, events: list[ModelEvent]) -> None:
        if not self._begun:
            data = data.lstrip()
            if not data:
                return
            self._begun = True
            if data.startswith(b"{"):
                self._whole = bytearray()
        if self._whole is not None:
            self._whole += data
            _check_size(len(self._whole))
            return
        lines = (self._rest + data).split(b"\n") if self._rest else data.split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._take_line(line, events)
        _check_size(len(self._rest))

    def _take_line(self, line: bytes, events: list[ModelEvent]) -> None:
        if self._done:
            return
        if not line.startswith(b"data:"):
            if line.startswith(b"<"):
                raise _rubbish()  # a page
            return  # blank lines, comments, other fields
        _check_size(len(line))
        data = line[5:].strip()
        if data == b"[DONE]":
            self._done = True
        elif data:
            self._take_chunk(data, events)

    def _take_chunk(self, data: bytes, events: list[ModelEvent]) -> None:
        chunk = self._decoded(data)
        if chunk.error:
            raise _reported(chunk.error)
        if chunk.usage is not _NO_USAGE and bytes(chunk.usage) != b"null":
            self._usage = chunk.usage.copy()
        if not chunk.choices:
            return
        choice = chunk.choices[0]
        if choice.delta is not None:
            self._take_delta(choice.delta, events)
        if choice.message is not None and not self._said_anything:  # else it repeats what was streamed
            self._take_delta(choice.message, events)
        if choice.finish_reason:
            self._take_reason(choice.finish_reason.lower())

    def _decoded(self, data: bytes) -> _Chunk:
        try:
            chunk = _decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            if b"\\ud" not in data.lower():
                raise _rubbish() from error
            return self._with_halves(data)
        if self._half:  # its other half never came
            self._half, self._lost = "", "\N{REPLACEMENT CHARACTER}"
        return chunk

    def _with_halves(self, data: bytes) -> _Chunk:
        """A chunk with half of a surrogate pair: some servers cut texts between UTF-16 units. The other half comes next."""
        try:
            document = json.loads(data)
            text = document["choices"][0]["delta"].get("content")
            if isinstance(text, str):
                text, self._half = self._half + text, ""
                if "\ud800" <= text[-1:] <= "\udbff":
                    text, self._half = text[:-1], text[-1]
                document["choices"][0]["delta"]["content"] = text
            return _decoder.decode(_with_whole_characters(json.dumps(document, ensure_ascii=False)))
        except (msgspec.MsgspecError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise _rubbish() from error

    def _take_reason(self, given: str) -> None:
        if given in _BREAKS:
            raise interrupted()
        self._reason = _FINISH_REASONS.get(given, "stop")

    def _take_delta(self, delta: _Delta, events: list[ModelEvent]) -> None:
        reasoning = delta.reasoning_content or delta.reasoning or _texts(delta.reasoning_details)
        if reasoning:
            events.append(ReasoningDelta(reasoning))
        content = delta.content if isinstance(delta.content, str) else _texts(delta.content)
        text = content or delta.refusal
        if text:
            text, self._lost = self._lost + text, ""
            self._said_anything = True
            events.append(TextDelta(text))
        for call in delta.tool_calls or ():
            self._take_call(call, events)
        if delta.function_call is not None:
            self._take_call(_Call(function=delta.function_call), events)

    def _take_call(self, call: _Call, events: list[ModelEvent]) -> None:
        self._said_anything = True
        function = call.function or _NO_FUNCTION
        state = self._state_of(call, function)
        if call.id and not state.id:
            state.id = call.id
        if function.name and not state.started and function.name != state.name:
            state.name += function.name
        arguments = function.arguments
        if arguments is None or arguments == "":
            return
        self._announce(state, events)
        text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
        state.arguments.append(text)
        events.append(ToolCallArguments(state.index, text))

    def _state_of(self, call: _Call, function: _Function) -> _CallState:
        """The call that a delta belongs to: the one of its index, of its id, or the last one.

        Some providers number every call 0, or not at all.
        """
        found = self._known(call)
        if found is None or _begins_another(found, call, function):
            found = _CallState(len(self._calls))
            self._calls.append(found)
        if call.index is not None:
            self._by_index[call.index] = found
        return found

    def _known(self, call: _Call) -> _CallState | None:
        if call.index is not None:
            return self._by_index.get(call.index)
        if call.id:
            return next((state for state in self._calls if state.id == call.id), None)
        return self._calls[-1] if self._calls else None

    def _announce(self, state: _CallState, events: list[ModelEvent]) -> None:
        if not state.started:
            state.started = True
            events.append(ToolCallStarted(state.index, state.id, state.name))

    def _announce_all(self, events: list[ModelEvent]) -> None:
        """Calls without arguments."""
        for state in self._calls:
            self._announce(state, events)


def _begins_another(state: _CallState, call: _Call, function: _Function) -> bool:
    """Whether a delta with a name is a further call: its id says so, else another name or arguments that follow whole ones."""
    if not function.name:
        return False
    if call.id and state.id:
        return call.id != state.id
    if not state.started:
        return False
    return function.name != state.name or (bool(function.arguments) and state.is_whole())


def _check_size(size: int) -> None:
    if size > MAX_LINE_BYTES:
        raise _rubbish()


def _texts(parts: Any) -> str:
    """The text of a list of parts, where a provider sends one."""
    if not isinstance(parts, list):
        return ""
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def _usage(given: msgspec.Raw) -> Usage | None:
    """The last count that came; one that cannot be read is no reason to lose the answer."""
    try:
        found = _usage_decoder.decode(given)
    except msgspec.MsgspecError:
        return None
    if found is None:
        return None
    read, made = found.prompt_tokens or 0, found.completion_tokens or 0
    return Usage(
        input_tokens=read,
        output_tokens=made,
        total_tokens=found.total_tokens or read + made,
        reasoning_tokens=(found.completion_tokens_details and found.completion_tokens_details.reasoning_tokens) or 0,
        cached_input_tokens=(found.prompt_tokens_details and found.prompt_tokens_details.cached_tokens) or 0,
    )


def _reported(error: Any) -> ModelError:
    """An error that the provider sends within the stream."""
    kind = str(error.get("code") or error.get("type") or "") if isinstance(error, dict) else ""
    if _RATE_LIMIT.search(kind):
        return ModelError("model_rate_limited", "The model takes no more requests at the moment.", retryable=True)
    if "context_length" in kind:
        return ModelError("model_context_too_long", "The conversation is too long for the model.")
    if "content_filter" in kind or "content_policy" in kind:
        return ModelError("model_content_filter", "The model's provider withheld the answer.")
    return ModelError(
        "model_stream_interrupted", "The model's provider reported an error during the answer.", retryable=True
    )
