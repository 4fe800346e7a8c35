"""References: `{"$from": "step-id", "path": "/a/b"}` in a step's arguments stands for (a part of) an earlier step's result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from tools import json_pointer

_FROM, _PATH = "$from", "path"


class UnresolvableError(Exception):
    """A reference leads to nothing; the text is for the model and the user."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference as it was found: `at` is where it stands in the arguments, `problem` why it cannot be used (empty: it can)."""

    at: tuple[str | int, ...]
    step: str
    path: str
    problem: str = ""


def references_in(arguments: Any) -> Iterator[Reference]:
    """All references in arguments, malformed ones too. The arguments' depth must be bounded already."""
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), arguments)]
    while waiting:
        at, value = waiting.pop(0)
        if isinstance(value, dict) and _FROM in value:
            yield _reference(at, value)
        elif isinstance(value, dict):
            waiting += [((*at, name), inner) for name, inner in value.items()]
        elif isinstance(value, list):
            waiting += [((*at, index), inner) for index, inner in enumerate(value)]


def resolved(arguments: Any, values: Mapping[str, Any]) -> Any:
    """The arguments with each reference's value in its place. `values`: results by step id; raises UnresolvableError."""
    if isinstance(arguments, dict) and _FROM in arguments:
        return _value_of(_reference((), arguments), values)
    if isinstance(arguments, dict):
        return {name: resolved(value, values) for name, value in arguments.items()}
    if isinstance(arguments, list):
        return [resolved(value, values) for value in arguments]
    return arguments


def value_of(content: str) -> Any:
    """What a step's result is for references: JSON is read as JSON, anything else is the text itself."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return content


def _reference(at: tuple[str | int, ...], value: dict[str, Any]) -> Reference:
    step, path = value[_FROM], value.get(_PATH, "")
    if not isinstance(step, str) or not step:
        return Reference(at, "", "", f"{_FROM} must be the id of a step.")
    if not isinstance(path, str):
        return Reference(at, step, "", f"{_PATH} must be a text: a JSON Pointer such as /a/b.")
    unknown = sorted(value.keys() - {_FROM, _PATH})
    if unknown:
        return Reference(at, step, path, f"A reference has {_FROM} and {_PATH} and nothing else, not {unknown[0]!r}.")
    try:
        json_pointer.parse(path)
    except json_pointer.InvalidPointerError as error:
        return Reference(at, step, path, str(error))
    return Reference(at, step, path)


def _value_of(reference: Reference, values: Mapping[str, Any]) -> Any:
    value = values[reference.step]
    try:
        return json_pointer.find(value, json_pointer.parse(reference.path))
    except json_pointer.NothingThereError:
        raise UnresolvableError(
            f"The result of step {reference.step!r} has nothing at {reference.path!r}. {_what_it_is(value)}"
        ) from None


def _what_it_is(value: Any) -> str:
    """What the model can correct its pointer by."""
    if isinstance(value, dict):
        names = ", ".join(repr(name) for name in list(value)[:20])
        return f"It is an object with {names[:300] or 'nothing in it'}."
    if isinstance(value, list):
        return f"It is a list of {len(value)}."
    return "It is a text, not a document." if isinstance(value, str) else "It is a single value."
