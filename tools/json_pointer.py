"""JSON Pointer (RFC 6901): the address of a value within a JSON document."""

from __future__ import annotations

import re
from typing import Any

_ESCAPES = re.compile(r"~[01]|~")
_INDEX = re.compile(r"0|[1-9][0-9]{0,9}")


class InvalidPointerError(ValueError):
    """This is not a JSON Pointer; the text is for the person who wrote it."""


class NothingThereError(LookupError):
    """The document has no value at this address."""


def parse(pointer: str) -> tuple[str, ...]:
    """The pointer's reference tokens, unescaped; raises InvalidPointerError. The empty pointer is the whole document."""
    if not pointer:
        return ()
    if not pointer.startswith("/"):
        raise InvalidPointerError(f"{pointer!r} is not a JSON Pointer: it must be empty or begin with a slash.")
    return tuple(_unescaped(token, pointer) for token in pointer[1:].split("/"))


def find(document: Any, tokens: tuple[str, ...]) -> Any:
    """The value at a parsed pointer; raises NothingThereError."""
    value = document
    for token in tokens:
        if isinstance(value, dict) and token in value:
            value = value[token]
        elif isinstance(value, list) and _INDEX.fullmatch(token) and int(token) < len(value):
            value = value[int(token)]
        else:
            raise NothingThereError(token)
    return value


def written(tokens: tuple[str, ...]) -> str:
    """The pointer of these tokens, as text."""
    return "".join("/" + token.replace("~", "~0").replace("/", "~1") for token in tokens)


def _unescaped(token: str, pointer: str) -> str:
    def plain(found: re.Match[str]) -> str:
        if found[0] == "~":
            raise InvalidPointerError(f"{pointer!r} is not a JSON Pointer: a ~ must be followed by 0 or 1.")
        return "~" if found[0] == "~0" else "/"

    return _ESCAPES.sub(plain, token)
