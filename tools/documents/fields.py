"""Checking a spec's form: known fields, right types, defaults for what is not said."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError

from tools.documents.document import Spec

_JSON_NAMES = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
}
_HALF_A_CHARACTER = re.compile(r"[\ud800-\udfff]")
_OUT_OF_RANGE = 2**63
_MOST_LEVELS = 100
_CANNOT_BE_KEPT = "It holds what cannot be kept: NUL or half a character, a number out of range, or too many levels."


def completed(spec: Spec, fields: Mapping[str, tuple[type, Any]], *, nullable: frozenset[str] = frozenset()) -> Spec:
    """The spec with every field of `fields` (name: type, default; `...`: it must be given).

    Raises ValidationError keyed by field for unknown fields, missing ones, wrong types, and values that the database cannot keep as
    JSON. Lists hold texts.
    """
    problems: dict[str, list[str]] = {}
    for name in spec:
        if name not in fields:
            problems[name] = [f"There is no field {name!r}; the fields are {', '.join(fields)}."]
    found: Spec = {}
    for name, (kind, default) in fields.items():
        value = spec.get(name, default)
        if value is ...:
            problems[name] = ["This field is required."]
        elif value is None and name in nullable:
            found[name] = None
        elif not _fits(value, kind):
            problems[name] = [f"Expected {_JSON_NAMES[kind]}."]
        elif not can_be_kept(value):
            problems[name] = [_CANNOT_BE_KEPT]
        else:
            found[name] = float(value) if kind is float else list(value) if kind is list else value
    if problems:
        raise ValidationError(problems)
    return found


def _fits(value: Any, kind: type) -> bool:
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is float:
        return isinstance(value, int | float)
    if kind is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, kind)


def can_be_kept(value: Any, level: int = 0) -> bool:
    """Whether the database gives the same value back as JSON."""
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, int | float):
        return math.isfinite(value) and abs(value) < _OUT_OF_RANGE
    if isinstance(value, str):
        return "\0" not in value and not _HALF_A_CHARACTER.search(value)
    if level == _MOST_LEVELS or not isinstance(value, dict | list):
        return False
    inner = [*value, *value.values()] if isinstance(value, dict) else value
    return all(can_be_kept(item, level + 1) for item in inner)
