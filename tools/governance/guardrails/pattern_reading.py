"""Regular expressions of policies: read and measured.

They are RE2's. What is measured here is read with Python's own parser, so only what both read the same way is accepted. From the
parsed pattern a second one is made that matches every beginning of a match: so text can be held back exactly as far as a match may
still be open.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import lru_cache
from re import _constants as ops  # type: ignore[attr-defined]  # Python's own parser has no public name
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, Final

import re2

from tools.governance.guardrails.normal_form import MAX_WINDOW, PLAIN, plain_form

UNBOUNDED: Final = 1 << 30

_READ_DIFFERENTLY: Final = ("[:", "{,", "\\Q", "\\C", "(?P>")
_MAX_MEMORY: Final = 1 << 20
_CATEGORIES: Final = {
    ops.CATEGORY_DIGIT: r"\d", ops.CATEGORY_NOT_DIGIT: r"\D", ops.CATEGORY_SPACE: r"\s", ops.CATEGORY_NOT_SPACE: r"\S",
    ops.CATEGORY_WORD: r"\w", ops.CATEGORY_NOT_WORD: r"\W",
}  # fmt: skip


class PatternError(ValueError):
    """The pattern cannot be used; the text is for the person who wrote it."""


class Pattern:
    """A pattern that can be used: `longest` is the length of its longest match, or UNBOUNDED. Raises PatternError."""

    def __init__(self, written: str) -> None:
        self.written = written
        _parsed(written)
        self.text = _in_plain_form(written)
        self.compiled = compiled_pattern(self.text)
        if self.compiled.search("") is not None:
            raise PatternError("It matches the empty text, so it would match everywhere.")
        self.longest = min(_longest(_parsed(self.text)), UNBOUNDED)

    def check_streamed(self) -> None:
        """Raises PatternError when streamed text cannot be held back for it."""
        if self.longest > MAX_WINDOW:
            length = "without a bound" if self.longest >= UNBOUNDED else f"of {self.longest} characters"
            raise PatternError(
                f"A match may be {length}, and streamed output is held back by {MAX_WINDOW} characters at most: "
                "bound its repetitions, or let it hold whole sentences."
            )
        compiled_pattern(rf"(?:{self.beginnings()})\z")

    def beginnings(self) -> str:
        """A pattern for every beginning of a match, the empty one and whole matches among them."""
        return _beginnings(list(_parsed(self.text)))


@lru_cache(maxsize=1024)
def read_pattern(written: str) -> Pattern:
    """A pattern as people write it. Raises PatternError."""
    return Pattern(written)


def _parsed(written: str) -> Any:
    if any(sign in written for sign in _READ_DIFFERENTLY):
        raise PatternError("It uses syntax that is not supported here: named classes, {,n}, or literal quoting.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return parser.parse(written)
    except (re.error, Warning, OverflowError, RecursionError) as error:
        raise PatternError(f"It cannot be read: {error}.") from None


def compiled_pattern(text: str, *, checked: bool = True) -> Any:
    """RE2's compiled form; raises PatternError."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_MEMORY if checked else 64 * _MAX_MEMORY
    try:
        return re2.compile(text, options)
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise PatternError(f"It cannot be searched for in linear time: {reason}.") from None


def _in_plain_form(written: str) -> str:
    """The pattern with its letters in the form that text is compared in."""
    if written.isascii():
        return written
    found: list[str] = []
    in_class = escaped = False
    for character in written:
        if character.isascii():
            if not escaped and character in "[]":
                in_class = character == "["
            escaped = character == "\\" and not escaped
            found.append(character)
            continue
        escaped = False
        form = PLAIN[ord(character)]
        if form == character or (len(form) == 1 and form.isalnum()):
            found.append(form)
        elif form.isalnum() and not in_class:
            found.append(f"(?:{form})")
        else:
            instead = f"write {plain_form(form)!r}" if form else "leave it out"
            raise PatternError(f"{character!r} never stands in the text that is searched: {instead} instead.")
    _refuse_changed_ranges(_parsed(written))
    return "".join(found)


def _refuse_changed_ranges(tree: Any) -> None:
    for operation, argument in tree:
        if operation is ops.RANGE and any(PLAIN[code] != chr(code) for code in argument if code > 127):
            raise PatternError(
                "A range begins or ends with a letter that has an accent; text is compared without accents."
            )
        for inner in _inner(operation, argument):
            _refuse_changed_ranges(inner)


def _inner(operation: Any, argument: Any) -> list[Any]:
    if operation is ops.IN:
        return [argument]
    if operation is ops.BRANCH:
        return list(argument[1])
    if operation is ops.SUBPATTERN:
        return [argument[3]]
    return [argument[2]] if operation in (ops.MAX_REPEAT, ops.MIN_REPEAT) else []


def _longest(tree: Any) -> int:
    total = 0
    for operation, argument in tree:
        if operation in (ops.LITERAL, ops.NOT_LITERAL, ops.ANY, ops.IN):
            total += 1
        elif operation is ops.BRANCH:
            total += max(_longest(branch) for branch in argument[1])
        elif operation is ops.SUBPATTERN:
            total += _longest(argument[3])
        elif operation in (ops.MAX_REPEAT, ops.MIN_REPEAT):
            _, most, inner = argument
            total += (
                UNBOUNDED if most is ops.MAXREPEAT and _longest(inner) else min(_longest(inner) * int(most), UNBOUNDED)
            )
        elif operation is not ops.AT:
            raise PatternError("It uses syntax that cannot be searched for in linear time.")
    return min(total, UNBOUNDED)


def _beginnings(items: list[Any]) -> str:
    """Every beginning of the concatenation of `items`: nothing, part of the first, or all of it and a beginning of the rest."""
    found = ""
    for operation, argument in reversed(items):
        part, whole = _beginning(operation, argument), _whole([(operation, argument)])
        found = f"(?:{whole}{found}|{part})" if found else f"(?:{whole}|{part})"
    return found or "(?:)"


def _beginning(operation: Any, argument: Any) -> str:
    if operation is ops.BRANCH:
        return "(?:" + "|".join(_beginnings(list(branch)) for branch in argument[1]) + ")"
    if operation is ops.SUBPATTERN:
        return _beginnings(list(argument[3]))
    if operation in (ops.MAX_REPEAT, ops.MIN_REPEAT):
        _, most, inner = argument
        times = "*" if most is ops.MAXREPEAT else f"{{0,{max(int(most) - 1, 0)}}}"
        return f"(?:(?:{_whole(list(inner))}){times}{_beginnings(list(inner))})"
    return "(?:)"


def _whole(items: list[Any]) -> str:
    return "".join(_written(operation, argument) for operation, argument in items)


def _written(operation: Any, argument: Any) -> str:
    """A part as a pattern that matches at least what the part does: case and assertions are left out."""
    writers: dict[Any, Callable[[], str]] = {
        ops.LITERAL: lambda: f"(?i:{_character(argument)})",
        ops.NOT_LITERAL: lambda: "(?s:.)",
        ops.ANY: lambda: "(?s:.)",
        ops.AT: lambda: "",
        ops.IN: lambda: _class(argument),
        ops.BRANCH: lambda: "(?:" + "|".join(_whole(list(branch)) for branch in argument[1]) + ")",
        ops.SUBPATTERN: lambda: f"(?:{_whole(list(argument[3]))})",
    }
    if operation in writers:
        return writers[operation]()
    least, most, inner = argument
    times = f"{{{int(least)},}}" if most is ops.MAXREPEAT else f"{{{int(least)},{int(most)}}}"
    return f"(?:{_whole(list(inner))}){times}"


def _class(members: Any) -> str:
    written = ""
    for operation, argument in members:
        if operation is ops.NEGATE:
            return "(?s:.)"
        if operation is ops.LITERAL:
            written += _character(argument)
        elif operation is ops.RANGE:
            written += f"{_character(argument[0])}-{_character(argument[1])}"
        else:
            written += _CATEGORIES[argument]
    return f"(?i:[{written}])"


def _character(code: int) -> str:
    return f"\\x{{{code:X}}}"
