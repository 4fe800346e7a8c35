"""Words for people: suggestions for what was mistyped, and texts that are safe to show on a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What to add to "there is no ...": the nearest of the known words, or all of them."""
    names = list(known)
    by_small = {name.lower(): name for name in names}
    if near := get_close_matches(word.lower(), by_small, n=1):
        return f" Did you mean {by_small[near[0]]!r}?"
    return f" There are {', '.join(names)}." if names else ""


def shown(text: str) -> str:
    """The text with everything that would move a cursor or turn the direction of writing spelled out."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
