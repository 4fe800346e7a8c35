"""YAML into JSON values and back: safe, bounded, with the line of everything, and always written in the same way.

Read are the values of YAML 1.2's core schema: `true`, `12`, `1.5`, `null`. `yes`, `on` and dates are texts, as in JSON. Tags and
merge keys are refused. Aliases may be used; what they stand for counts each time. What is written means the same to readers of
YAML 1.1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

MAX_DEPTH: Final = 64
MAX_VALUES: Final = 50_000
LONG_LINE: Final = 100

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where it is there: many times faster
_LARGEST_NUMBER = 2**63  # what JSON writers and the database keep
_PLAIN_TAGS = frozenset({None, "!", "tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_UNUSUAL = re.compile("[^\\n\\x20-\\x7e\\xa0-\\u2027\\u202a-\\ufefe\\uff00-\\ufffd\\U00010000-\\U0010ffff]")
_WORDS_APART = re.compile(r"[^ ]+( [^ ]+)*")  # what the emitter folds without a mistake
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")

# How people write JSON Schemas; every other key follows in the order of the alphabet.
_FIRST_KEYS = (
    "$schema", "$id", "$ref", "title", "description", "type", "const", "enum", "format", "pattern", "default", "properties",
    "required", "additionalProperties", "items",
)  # fmt: skip
_KEY_ORDER = {name: index for index, name in enumerate(_FIRST_KEYS)}


@dataclass(frozen=True, slots=True)
class YamlProblem:
    """What cannot be read, in which document (from 1) and line (from 1; 0: of no line in particular)."""

    document: int
    line: int
    message: str


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """One document: its value, and the lines of its keys, those of its keys' values included: `("spec", "title")`."""

    number: int
    line: int
    value: Any
    lines: dict[tuple[str, ...], int] = field(default_factory=dict)


def read_yaml(text: str) -> tuple[list[YamlDocument], list[YamlProblem]]:
    """The documents of a text, without empty ones, and everything that is wrong with it.

    After an error of YAML itself, or beyond the bounds, the rest is not read.
    """
    reader = _Reader(text)
    return list(reader.documents()), reader.problems


def write_yaml(value: Any) -> str:
    """The value as block YAML: keys of objects in a fixed order (see `arranged`) are the caller's, long texts as blocks."""
    written: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=LONG_LINE
    )
    return written


def arranged(value: Any) -> Any:
    """The value with the keys of all objects in one order: the database keeps none."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: (_KEY_ORDER.get(name, len(_KEY_ORDER)), name))
        return {name: arranged(value[name]) for name in names}
    return [arranged(item) for item in value] if isinstance(value, list) else value


class _TooMuchError(Exception):
    """The bounds are exceeded; reading ends here."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(slots=True)
class _Anchored:
    """What an anchor names: known once it is complete."""

    size: int
    value: Any = None
    complete: bool = False


class _Reader:
    """Builds values from the parser's events, one document after the other."""

    def __init__(self, text: str) -> None:
        self.problems: list[YamlProblem] = []
        self._events = yaml.parse(text, Loader=_LOADER)
        self._number = 0
        self._size = 0
        self._anchors: dict[str, _Anchored] = {}
        self._lines: dict[tuple[str, ...], int] = {}

    def documents(self) -> Iterator[YamlDocument]:
        """Each document that says something."""
        try:
            for event in self._events:
                if isinstance(event, yaml.DocumentStartEvent):
                    self._number += 1
                    self._anchors, self._lines = {}, {}
                    first = next(self._events)
                    value = self._value(first, ())
                    if value is not None:
                        yield YamlDocument(self._number, _line(first), value, self._lines)
        except _TooMuchError as error:
            self._problem(error.line, str(error))
        except yaml.YAMLError as error:
            self._syntax_problem(error)

    def _value(self, event: Any, path: tuple[str, ...]) -> Any:
        self._count(event, 1)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        anchored = _Anchored(self._size)
        if event.anchor is not None:
            self._anchors[event.anchor] = anchored
        if event.tag not in _PLAIN_TAGS:
            self._problem(_line(event), f"The tag {event.tag!r} is not read: write plain values.")
        value = self._untagged(event, path)
        anchored.size, anchored.value, anchored.complete = self._size - anchored.size + 1, value, True
        return value

    def _untagged(self, event: Any, path: tuple[str, ...]) -> Any:
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if len(path) >= MAX_DEPTH:
            raise _TooMuchError(_line(event), f"Values lie deeper than {MAX_DEPTH} levels.")
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path)
        found: list[Any] = []
        while not isinstance(item := next(self._events), yaml.SequenceEndEvent):
            found.append(self._value(item, (*path, "")))
        return found

    def _mapping(self, path: tuple[str, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line = _line(event)
            key = self._key(event, path)
            value = self._value(next(self._events), (*path, key))
            if key in found:
                self._problem(line, f"The key {key!r} stands here twice.")
            found[key] = value
            if len(path) < 2:
                self._lines.setdefault((*path, key), line)
        return found

    def _key(self, event: Any, path: tuple[str, ...]) -> str:
        is_merge = isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]
        key = self._value(event, (*path, ""))
        if is_merge:
            self._problem(_line(event), "Merge keys (<<) are not read: write out what they would bring.")
        elif not isinstance(key, str):
            shown = getattr(event, "value", "this")
            self._problem(_line(event), f"Keys are texts: put {shown!r} into quotation marks.")
        return str(key)

    def _alias(self, event: Any) -> Any:
        anchored = self._anchors.get(event.anchor)
        if anchored is None:
            self._problem(_line(event), f"There is no anchor {event.anchor!r} above.")
            return None
        if not anchored.complete:
            self._problem(_line(event), f"The anchor {event.anchor!r} would hold itself.")
            return None
        self._count(event, anchored.size)
        return anchored.value

    def _count(self, event: Any, values: int) -> None:
        self._size += values
        if self._size > MAX_VALUES:
            raise _TooMuchError(_line(event), f"There are more than {MAX_VALUES} values, those of aliases included.")

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        if event.implicit[0] and event.tag is None:
            if text in _WORDS:
                return _WORDS[text]
            if _INTEGER.fullmatch(text) or _FLOAT.fullmatch(text):
                return self._number_of(text, _line(event))
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            self._problem(_line(event), "Texts cannot hold NUL or half a surrogate pair.")
        return text

    def _number_of(self, text: str, line: int) -> int | float:
        if _LEADING_ZERO.fullmatch(text):
            self._problem(line, f"{text} means different numbers to different readers: drop the zero or quote it.")
            return 0
        if len(text) > 40:
            self._problem(line, "This number is too long.")
            return 0
        number = _integer(text) if _INTEGER.fullmatch(text) else float(re.sub(r"\.(?=[in])", "", text.lower()))
        if not math.isfinite(number) or abs(number) >= _LARGEST_NUMBER:
            self._problem(line, f"{text} cannot be kept: numbers are finite and smaller than 2^63.")
            return 0
        return number

    def _problem(self, line: int, message: str) -> None:
        self.problems.append(YamlProblem(self._number, line, message))

    def _syntax_problem(self, error: yaml.YAMLError) -> None:
        mark = getattr(error, "problem_mark", None)
        said = getattr(error, "problem", None) or str(error).splitlines()[0]
        context = getattr(error, "context", None)
        line = mark.line + 1 if mark is not None else 0
        self._problem(line, f"This is not YAML: {said}{f' ({context})' if context else ''}.")


def _integer(text: str) -> int:
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


class _Dumper(yaml.SafeDumper):
    """Block style; lists indented; no aliases; only folded blocks are folded."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def write_plain(self, text: str, split: bool = True) -> None:
        super().write_plain(text, False)

    def write_single_quoted(self, text: str, split: bool = True) -> None:
        super().write_single_quoted(text, False)

    def write_double_quoted(self, text: str, split: bool = True) -> None:
        super().write_double_quoted(text, False)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None
    if _UNUSUAL.search(text):
        style = '"'
    elif "\n" in text:
        style = "|"
    elif len(text) > LONG_LINE and _WORDS_APART.fullmatch(text):
        style = ">"
    elif text in _WORDS or _INTEGER.fullmatch(text) or _FLOAT.fullmatch(text):
        style = "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
