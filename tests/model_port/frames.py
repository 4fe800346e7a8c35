"""Bodies as providers send them, piece by piece."""

from __future__ import annotations

import json
from typing import Any

DONE = b"data: [DONE]\n\n"


def chunk(delta: dict[str, Any] | None = None, reason: str | None = None, **fields: Any) -> bytes:
    """One chunk of a streamed completion as an SSE frame."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
    return b"data: " + json.dumps({"id": "c", "choices": choices, **fields}, ensure_ascii=False).encode() + b"\n\n"


def text(words: str, reason: str | None = None) -> bytes:
    """A chunk of text."""
    return chunk({"content": words}, reason)


def call(**fields: Any) -> bytes:
    """A chunk with one tool call's delta: `index`, `id`, and of the function `name` and `arguments`."""
    function = {name: fields.pop(name) for name in ("name", "arguments") if name in fields}
    return chunk({"tool_calls": [{**fields, "function": function}]})


def end(reason: str = "stop") -> bytes:
    """The chunk with the finish reason, then the end mark."""
    return chunk({}, reason) + DONE


HELLO = chunk({"role": "assistant", "content": ""}) + text("Hel") + text("lo") + end()
