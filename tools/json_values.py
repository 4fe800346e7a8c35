"""JSON values as Python holds them."""

from __future__ import annotations

from typing import Any


def same_json(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same. Python's own comparison takes true for 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_json(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_json, one, other))
    return bool(one == other)
