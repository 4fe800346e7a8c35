"""Reading a document that somebody else wrote: JSON or YAML, bounded in bytes, nodes and depth before anything is done with it.

YAML is read as OpenAPI wants it: the tags of JSON, keys that are texts. So `no` is a text and so is a date, there are no merge keys,
and an alias counts with all that it stands for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import yaml

MAX_BYTES: Final = 4 * 1024 * 1024
MAX_NODES: Final = 300_000
MAX_DEPTH: Final = 64

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_KNOWN_TAGS = frozenset(f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq"))
_INTEGER = re.compile(r"[-+]?[0-9]{1,40}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")
_WORDS: dict[str, bool | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None, "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
}  # fmt: skip


class DocumentError(Exception):
    """This is no document that can be imported from; the text is for the person who gave it."""


def read_document(data: bytes) -> dict[str, Any]:
    """The document as JSON values; raises DocumentError."""
    if len(data) > MAX_BYTES:
        raise DocumentError(f"The document has more than {MAX_BYTES // (1024 * 1024)} MiB.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError("The document is not a text in UTF-8.") from error
    if not text.strip():
        raise DocumentError("The document is empty.")
    document = _read_json(text) if text.lstrip()[0] in "{[" else _read_yaml(text)
    if not isinstance(document, dict):
        raise DocumentError("The document is not an object: expected OpenAPI 3.x as JSON or YAML.")
    return document


def nodes_of(value: Any, *, max_depth: int = MAX_DEPTH) -> Iterator[tuple[Any, int]]:
    """The value and everything in it, each with its depth; raises DocumentError when it is nested too deeply."""
    left = [(value, 0)]
    while left:
        node, depth = left.pop()
        if depth > max_depth:
            raise DocumentError(f"The document is nested more than {max_depth} levels deep.")
        yield node, depth
        if isinstance(node, dict):
            left.extend((item, depth + 1) for item in node.values())
        elif isinstance(node, list):
            left.extend((item, depth + 1) for item in node)


def _read_json(text: str) -> Any:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DocumentError(f"The document is not JSON: {error}.") from error
    for number, _ in enumerate(nodes_of(document)):
        _check_number(number)
    return document


def _check_number(nodes: int) -> None:
    if nodes > MAX_NODES:
        raise DocumentError(f"The document has more than {MAX_NODES} values.")


# --- YAML


@dataclass(slots=True)
class _Open:
    """A list or an object that is being read. `size`: values in it so far, with what aliases stand for."""

    value: list[Any] | dict[str, Any]
    anchor: str | None
    key: str | None = None
    size: int = 1


@dataclass(slots=True)
class _Builder:
    """Makes values of YAML's events, and counts them while they are made."""

    root: Any = None
    open: list[_Open] = field(default_factory=list)
    anchored: dict[str, tuple[Any, int]] = field(default_factory=dict)

    def begin(self, value: list[Any] | dict[str, Any], event: Any) -> None:
        _check_tag(event)
        self._check_no_key()
        if len(self.open) >= MAX_DEPTH:
            raise DocumentError(f"The document is nested more than {MAX_DEPTH} levels deep.")
        self.open.append(_Open(value, event.anchor))

    def end(self) -> None:
        done = self.open.pop()
        self._add(done.value, done.size, done.anchor)

    def scalar(self, event: Any) -> None:
        _check_tag(event)
        if self._wants_key():
            self._take_key(event.value)
            return
        plain = event.style is None or event.style == ""
        self._add(_resolved(event.value) if plain and event.tag is None else event.value, 1, event.anchor)

    def alias(self, event: Any) -> None:
        self._check_no_key()
        if event.anchor not in self.anchored:
            raise DocumentError(f"The document refers to {event.anchor!r} before it is complete.")
        self._add(*self.anchored[event.anchor], None)

    def _add(self, value: Any, size: int, anchor: str | None) -> None:
        if anchor:
            self.anchored[anchor] = (value, size)
        if not self.open:
            self.root = value
            return
        holder = self.open[-1]
        holder.size += size
        _check_number(holder.size)
        if isinstance(holder.value, list):
            holder.value.append(value)
        else:
            assert holder.key is not None
            holder.value[holder.key], holder.key = value, None

    def _wants_key(self) -> bool:
        return bool(self.open) and isinstance(self.open[-1].value, dict) and self.open[-1].key is None

    def _take_key(self, key: str) -> None:
        holder = self.open[-1]
        if key in holder.value:
            raise DocumentError(f"The document has {key[:64]!r} twice in one object.")
        holder.key = key

    def _check_no_key(self) -> None:
        if self._wants_key():
            raise DocumentError("The document has a key that is not a text.")


def _read_yaml(text: str) -> Any:
    builder = _Builder()
    documents = events = 0
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            events += 1
            _check_number(events // 2)  # a value with its key, or its begin and end
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise DocumentError("The file has more than one document.")
            elif isinstance(event, yaml.MappingStartEvent):
                builder.begin({}, event)
            elif isinstance(event, yaml.SequenceStartEvent):
                builder.begin([], event)
            elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
                builder.end()
            elif isinstance(event, yaml.ScalarEvent):
                builder.scalar(event)
            elif isinstance(event, yaml.AliasEvent):
                builder.alias(event)
    except yaml.YAMLError as error:
        raise DocumentError(f"The document is neither JSON nor YAML: {_where(error)}.") from error
    for _ in nodes_of(builder.root):  # aliases nest, too
        pass
    return builder.root


def _check_tag(event: Any) -> None:
    if event.tag is not None and event.tag != "!" and event.tag not in _KNOWN_TAGS:
        raise DocumentError(f"The document has a tag that JSON does not know: {event.tag[:64]!r}.")


def _resolved(text: str) -> Any:
    """A plain scalar by YAML 1.2's rules for JSON."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _where(error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or "it cannot be read"
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else str(problem)
