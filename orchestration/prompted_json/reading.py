"""Reading one JSON object while it streams: texts of chosen members as they come, everything else once it is complete.

Before the object white space, prose and a code fence may stand, after it white space and the fence's end. Strings are read liberally,
since what was streamed cannot be taken back: unknown escapes stand for themselves, line breaks need no escape, and a quotation mark
that no member or end of the object can follow belongs to the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MAX_CHARACTERS = 1_000_000
_SPACE = " \t\r\n"
_RUN = re.compile(r'[^"\\]+')
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "/": "/", "\\": "\\", '"': '"'}
_HEXADECIMAL = frozenset("0123456789abcdefABCDEF")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_THINKING, _THINKING_ENDS = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Piece:
    """More of the text of a streamed member."""

    member: str
    text: str


@dataclass(slots=True)
class ReadObject:
    """What was read. `problem`: why it is no single JSON object, with the position; empty when it is one.

    `members` in the order in which they came; texts of streamed members as far as they came. `open_member`: the one in whose text the
    end came.
    """

    members: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    open_member: str = ""


class _MalformedError(Exception):
    """What stands here cannot be part of the object."""


class ObjectReader:
    """Feed it the text as it comes, then ask for the `end`. `streamed` names the members whose texts are given piece by piece."""

    def __init__(self, streamed: frozenset[str]) -> None:
        self._streamed = streamed
        self._object = ReadObject()
        self._position = 0
        self._pieces: list[Piece] = []
        self._take: Callable[[str], None] = self._before
        self._begin = ""  # what stands before the object, as far as it tells thinking aloud from prose
        self._key: list[str] = []
        self._escaped = False
        self._raw: list[str] = []
        self._raw_at = 0
        self._depth = 0
        self._in_string = False
        self._text: _StringText | None = None
        self._after_quote = ""

    def feed(self, text: str) -> list[Piece]:
        """The pieces of streamed members that this text brought."""
        self._pieces = []
        at = 0
        while at < len(text) and not self._object.problem:
            run = _RUN.match(text, at) if self._is_in_text else None
            if run is not None and self._text is not None:
                self._say(self._text.plain(run.group()))
                self._position += len(run.group())
                at = run.end()
                continue
            self._take_one(text[at])
            at += 1
        return self._joined()

    def end(self) -> tuple[list[Piece], ReadObject]:
        """The last pieces, and what was read in all."""
        self._pieces = []
        found = self._object
        if self._text is not None:
            if self._take == self._in_text:
                found.open_member = self._name
            self._end_text()
        if not found.problem and self._take != self._after:
            found.problem = "It holds no JSON object." if self._take == self._before else self._cut_off()
        return self._joined(), found

    @property
    def members(self) -> dict[str, Any]:
        """The members that are complete so far."""
        return self._object.members

    @property
    def _is_in_text(self) -> bool:
        return self._take == self._in_text and self._text is not None and not self._text.escape

    @property
    def _name(self) -> str:
        return "".join(self._key)

    def _cut_off(self) -> str:
        return f"It is cut off at position {self._position}, before the JSON object is complete."

    def _take_one(self, character: str) -> None:
        if self._position >= MAX_CHARACTERS:
            self._object.problem = f"It is longer than {MAX_CHARACTERS} characters."
            return
        try:
            self._take(character)
        except _MalformedError as error:
            self._object.problem = f"It is not JSON at position {self._position}: {error}."
        self._position += 1

    def _say(self, text: str) -> None:
        if text:
            self._pieces.append(Piece(self._name, text))

    def _joined(self) -> list[Piece]:
        joined: list[Piece] = []
        for piece in self._pieces:
            if joined and joined[-1].member == piece.member:
                joined[-1] = Piece(piece.member, joined[-1].text + piece.text)
            else:
                joined.append(piece)
        return joined

    # --- where the reader stands; each takes one character

    def _before(self, character: str) -> None:
        if len(self._begin) <= len(_THINKING) and (self._begin or character not in _SPACE):
            self._begin += character
            if self._begin == _THINKING:
                self._take = self._thinking
                return
        if character == "{":
            self._take = self._at_key

    def _thinking(self, character: str) -> None:
        """Some models think aloud between marks of their own before they answer."""
        self._begin = (self._begin + character)[-len(_THINKING_ENDS) :]
        if self._begin == _THINKING_ENDS:
            self._take = self._before

    def _at_key(self, character: str) -> None:
        if character in _SPACE:
            return
        if character == '"':
            self._key, self._escaped = [], False
            self._take = self._in_key
        elif character == "}":
            self._take = self._after
        else:
            raise _MalformedError('expected a name in quotation marks or "}"')

    def _in_key(self, character: str) -> None:
        if character == '"' and not self._escaped:
            if self._name in self._object.members:
                raise _MalformedError(f"{self._name[:40]!r} stands in it twice")
            self._take = self._at_colon
            return
        self._escaped = character == "\\" and not self._escaped
        self._key.append(character)

    def _at_colon(self, character: str) -> None:
        if character == ":":
            self._take = self._at_value
        elif character not in _SPACE:
            raise _MalformedError('expected ":"')

    def _at_value(self, character: str) -> None:
        if character in _SPACE:
            return
        if character == '"' and self._name in self._streamed:
            self._text = _StringText()
            self._take = self._in_text
            return
        if character in ",}]:":
            raise _MalformedError("expected a value")
        self._raw, self._raw_at, self._depth, self._in_string, self._escaped = [], self._position, 0, False, False
        self._take = self._in_value
        self._in_value(character)

    def _in_value(self, character: str) -> None:
        if self._in_string:
            self._raw.append(character)
            if character == '"' and not self._escaped:
                self._in_string = False
            self._escaped = character == "\\" and not self._escaped
            return
        if self._depth == 0 and character in ",}" and self._raw:
            self._end_value()
            self._after_value(character)
            return
        self._raw.append(character)
        if character == '"':
            self._in_string = True
        elif character in "[{":
            self._depth += 1
        elif character in "]}":
            self._depth -= 1
            if self._depth < 0:
                raise _MalformedError(f'"{character}" closes nothing')

    def _end_value(self) -> None:
        raw = "".join(self._raw)
        try:
            self._object.members[self._name] = json.loads(raw, strict=False, parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            self._position = self._raw_at + error.pos
            raise _MalformedError(error.msg[:1].lower() + error.msg[1:]) from error
        except (ValueError, RecursionError) as error:
            raise _MalformedError(str(error)[:100]) from error
        self._take = self._after_value

    def _after_value(self, character: str) -> None:
        if character == ",":
            self._take = self._at_key
        elif character == "}":
            self._take = self._after
        elif character not in _SPACE:
            raise _MalformedError('expected "," or "}"')

    def _in_text(self, character: str) -> None:
        text = self._text
        if text is None:
            raise AssertionError("no text is open")
        if character == '"' and text.escape != "\\":
            self._say(text.drop_escape())
            self._after_quote = '"'
            self._take = self._at_end_of_text
            return
        self._say(text.take(character))

    def _at_end_of_text(self, character: str) -> None:
        """A quotation mark ends the text only if the object can go on or end after it."""
        if character in _SPACE or (character == "," and "," not in self._after_quote):
            self._after_quote += character
            return
        begins_member = character == '"' and "," in self._after_quote
        if character == "}" or begins_member:
            self._end_text()
            self._at_key(character)
            return
        text = self._text
        if text is None:
            raise AssertionError("no text is open")
        self._say(text.plain(self._after_quote))
        self._take = self._in_text
        self._in_text(character)

    def _end_text(self) -> None:
        if self._text is not None:
            self._say(self._text.rest())
            self._object.members[self._name] = self._text.whole
            self._text = None

    def _after(self, character: str) -> None:
        if character not in _SPACE and character != "`":
            raise _MalformedError("more follows after the JSON object; say everything in one object")


class _StringText:
    """The text of a JSON string, piece by piece. `escape`: an escape that has begun."""

    def __init__(self) -> None:
        self.escape = ""
        self._said: list[str] = []
        self._high = 0  # the first half of a surrogate pair

    @property
    def whole(self) -> str:
        """All of it so far."""
        return "".join(self._said)

    def plain(self, text: str) -> str:
        """More text without escapes; returns what can be said now."""
        return self._add(self._lost_half() + text)

    def take(self, character: str) -> str:
        """One more character; returns what can be said now."""
        if not self.escape:
            if character == "\\":
                self.escape = "\\"
                return ""
            return self.plain(character)
        if self.escape == "\\":
            return self._after_backslash(character)
        if character not in _HEXADECIMAL:
            return self.drop_escape() + self.take(character)
        self.escape += character
        if len(self.escape) < 6:
            return ""
        unit, self.escape = int(self.escape[2:], 16), ""
        return self._unit(unit)

    def drop_escape(self) -> str:
        """An escape that was begun turns out to be none: it stands for itself."""
        begun, self.escape = self.escape, ""
        return self._add(self._lost_half() + begun) if begun else ""

    def rest(self) -> str:
        """What still waits for its other half, at the end of the text."""
        self.escape = ""
        return self._add(self._lost_half())

    def _after_backslash(self, character: str) -> str:
        if character == "u":
            self.escape = "\\u"
            return ""
        self.escape = ""
        return self.plain(_ESCAPES.get(character, "\\" + character))

    def _unit(self, unit: int) -> str:
        """A UTF-16 unit: characters beyond the first plane come as two."""
        if self._high and 0xDC00 <= unit <= 0xDFFF:
            character, self._high = chr(0x10000 + ((self._high - 0xD800) << 10) + (unit - 0xDC00)), 0
            return self._add(character)
        lost = self._lost_half()
        if 0xD800 <= unit <= 0xDBFF:
            self._high = unit
            return self._add(lost)
        return self._add(lost + (_REPLACEMENT if 0xDC00 <= unit <= 0xDFFF else chr(unit)))

    def _lost_half(self) -> str:
        lost, self._high = (_REPLACEMENT if self._high else ""), 0
        return lost

    def _add(self, text: str) -> str:
        if text:
            self._said.append(text)
        return text


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")
