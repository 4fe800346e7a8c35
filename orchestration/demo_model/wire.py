"""A scripted answer in the wire format: the pieces of a streamed chat completion, or a whole one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import orjson

from orchestration.demo_model.script import Answer, tokens

MODEL = "demo"
_ARGUMENT_PIECE = 12
_STALL_AFTER = 3
STALL_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of the body, after a pause in seconds. `breaks_off`: the connection ends here without a proper end."""

    data: bytes
    delay: float = 0.0
    breaks_off: bool = False


def streamed(answer: Answer, request: dict[str, Any], pace: float) -> Iterator[Piece]:
    """The body of a streamed answer; `pace` is the usual pause before a token."""
    delay = pace if answer.delay is None else answer.delay
    frames = _Frames(str(request.get("model") or MODEL))
    yield Piece(frames.delta({"role": "assistant", "content": ""}))
    for word in tokens(answer.reasoning):
        yield Piece(frames.delta({"reasoning_content": word}), delay)
    for number, word in enumerate(answer.pieces or tokens(answer.text)):
        if answer.fault and number == _STALL_AFTER:
            yield _fault(answer.fault)
            return
        yield Piece(frames.delta({"content": word}), delay)
    for index, (name, arguments) in enumerate(answer.calls):
        yield from (Piece(data, delay) for data in frames.call(index, name, arguments))
    yield Piece(frames.end(answer.finish_reason))
    if (request.get("stream_options") or {}).get("include_usage"):
        yield Piece(frames.usage(usage(answer, request)))
    yield Piece(b"data: [DONE]\n\n")


def _fault(kind: str) -> Piece:
    if kind == "stall":
        return Piece(b"", STALL_SECONDS)
    if kind == "rubbish":
        return Piece(b"data: {this is not JSON\n\n")
    return Piece(b"", breaks_off=True)


def whole(answer: Answer, request: dict[str, Any]) -> bytes:
    """The answer as one document, for a request that does not ask to be streamed."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None}
    if answer.calls:
        message["tool_calls"] = [_call(index, name, arguments) for index, (name, arguments) in enumerate(answer.calls)]
    document = _head(str(request.get("model") or MODEL), "chat.completion")
    document["choices"] = [{"index": 0, "message": message, "finish_reason": answer.finish_reason}]
    document["usage"] = usage(answer, request)
    return orjson.dumps(document)


def error_body(status: int) -> bytes:
    """The document of an HTTP error."""
    kind = "rate_limit_exceeded" if status == 429 else "server_error"
    return orjson.dumps({"error": {"message": "The demo was told to fail.", "type": kind, "code": kind, "param": None}})


def usage(answer: Answer, request: dict[str, Any]) -> dict[str, int]:
    """Tokens, counted as words."""
    given = sum(len(str(message.get("content") or "").split()) for message in request.get("messages") or ())
    made = len(answer.text.split()) + len(answer.reasoning.split()) + sum(len(a.split()) + 1 for _, a in answer.calls)
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}


class _Frames:
    """Chunks of one completion as SSE frames."""

    def __init__(self, model: str) -> None:
        self._head = _head(model, "chat.completion.chunk")

    def delta(self, delta: dict[str, Any]) -> bytes:
        return self._frame(choices=[{"index": 0, "delta": delta, "finish_reason": None}])

    def call(self, index: int, name: str, arguments: str) -> Iterator[bytes]:
        first = {**_call(index, name, ""), "index": index}
        yield self.delta({"tool_calls": [first]})
        for at in range(0, len(arguments), _ARGUMENT_PIECE):
            piece = arguments[at : at + _ARGUMENT_PIECE]
            yield self.delta({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})

    def end(self, reason: str) -> bytes:
        return self._frame(choices=[{"index": 0, "delta": {}, "finish_reason": reason}])

    def usage(self, counted: dict[str, int]) -> bytes:
        return self._frame(choices=[], usage=counted)

    def _frame(self, **fields: Any) -> bytes:
        return b"data: %b\n\n" % orjson.dumps({**self._head, **fields})


def _head(model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid4().hex[:24]}", "object": kind, "created": int(time.time()), "model": model}


def _call(index: int, name: str, arguments: str) -> dict[str, Any]:
    return {
        "id": f"call_{uuid4().hex[:20]}{index}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
