"""E-mail addresses: certain as soon as two letters of a top-level domain stand behind the at sign."""

from __future__ import annotations

import re
from typing import Final

from tools.governance.guardrails.normal_form import MAX_WINDOW, SPACED_WORD

LOCAL_REACH: Final = 38  # how much of what stands before the at sign is looked at

_LETTER: Final = SPACED_WORD
_LOCAL_BACKWARDS: Final = re.compile(rf"(?:{_LETTER}|[_.%+'-])*")
_FIRST_OF_LOCAL: Final = re.compile(_LETTER)
_DOMAIN: Final = re.compile(rf"{_LETTER}(?:{_LETTER}|[_-])*?(?:\.(?:{_LETTER}|[_-])+?)*?\.(?:(?![0-9_]){_LETTER}){{2}}")
_HALF_DOMAIN: Final = re.compile(rf"(?:{_LETTER}|[_.-])*")
_NO_DOMAIN: Final = re.compile(r"[0-9]x\.(?:png|jpe?g|gif|webp|svg)", re.IGNORECASE)  # logo@2x.png


def address_at(text: str, at_sign: int, *, final: bool) -> tuple[int, int] | None:
    """The address around an at sign as start and certain end; an end of -1: there is not enough text to tell."""
    local = _LOCAL_BACKWARDS.match(text[max(at_sign - LOCAL_REACH, 0) : at_sign][::-1])
    first = _FIRST_OF_LOCAL.search(text, at_sign - (local.end() if local else 0), at_sign)
    if first is None or text[first.start() : at_sign] == "git":  # git@host:path is the address of a repository
        return None
    start = first.start()
    limit = start + MAX_WINDOW
    domain = _DOMAIN.match(text, at_sign + 1, limit)
    half = _HALF_DOMAIN.match(text, at_sign + 1, limit)
    reached = half.end() if half else at_sign + 1
    if domain and not _NO_DOMAIN.match(text, at_sign + 1):
        return start, domain.end()
    if reached == limit and not domain:
        return start, limit
    return (start, -1) if reached >= len(text) and not final else None
