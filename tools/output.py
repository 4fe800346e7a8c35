"""What a tool returned, as text for the model: clean, without credentials, within its limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from tools.credentials import Credentials


@dataclass(frozen=True, slots=True)
class Output:
    """A result as text, and as the value that the text stands for."""

    text: str
    value: Any
    truncated: bool


def as_output(value: Any, credentials: Credentials, limit_bytes: int) -> Output:
    """A string as it is, anything else as JSON; cut, with a mark, where it is longer than `limit_bytes` of UTF-8.

    The mark stands within the limit. Raises TypeError or ValueError for what JSON cannot express.
    """
    plain = isinstance(value, str)
    written = value if plain else orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    hidden = credentials.hide(_without_surrogates_and_nul(written))
    text, truncated = _cut(hidden, limit_bytes)
    return Output(text, hidden if plain else _value(hidden), truncated)


def _value(written: str) -> Any:
    try:
        return orjson.loads(written)
    except orjson.JSONDecodeError:  # a credential stood where JSON has no string
        return written


def _without_surrogates_and_nul(text: str) -> str:
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text


def _cut(text: str, limit: int) -> tuple[str, bool]:
    encoded = text.encode()
    if len(encoded) <= limit:
        return text, False
    mark = f"\n[The output was cut here: it has {len(encoded)} bytes, the limit is {limit}.]"
    kept = encoded[: max(0, limit - len(mark.encode()))].decode(errors="ignore")
    return kept + mark, True
