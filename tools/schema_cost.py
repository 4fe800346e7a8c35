"""What checking a value against a JSON Schema may cost, so that no schema and no argument can hold up the service.

References make schemas that are exponentially larger than they are written: each `$ref` is checked as if what it points to stood in
its place. A bound is counted here beforehand, in schemas looked at: for the schema as such (`unfolded`), and for values of a given
depth (`at_depth`), since a reference that leads back to itself goes on as deep as the value does. Source of the keywords: JSON Schema
2020-12, Core 10 and 11.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

MAX_UNFOLDED: Final = 50_000
_CAP: Final = 10**9
_DEEPEST: Final = 256
_FEW_LEVELS: Final = 4

_Names = tuple[str, ...]
# Keywords whose schemas look at the value itself (0 levels down) or at its inner values (1), by what they hold.
_SINGLE: Final[tuple[tuple[_Names, int], ...]] = (
    (("not", "if", "then", "else"), 0),
    (("additionalProperties", "items", "contains", "unevaluatedItems", "unevaluatedProperties", "propertyNames"), 1),
)
_LISTS: Final[tuple[tuple[_Names, int], ...]] = ((("allOf", "anyOf", "oneOf"), 0), (("prefixItems",), 1))
_MAPS: Final[tuple[tuple[_Names, int], ...]] = ((("dependentSchemas",), 0), (("properties", "patternProperties"), 1))


class UncountableSchemaError(ValueError):
    """The schema refers to something that cannot be followed, or to itself without end; the text is for who wrote it."""


@dataclass(slots=True)
class _Part:
    """What one target of references holds itself, and the references in it: (target, levels of the value that they go down)."""

    own: int = 0
    references: list[tuple[str, int]] = field(default_factory=list)


class SchemaCost:
    """The bound for one schema; raises UncountableSchemaError."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema
        self._parts: dict[str, _Part] = {}
        self._collect("#")
        self._by_depth: list[dict[str, int]] = []

    @property
    def unfolded(self) -> int:
        """Schemas that are looked at for a value of a few levels: how much larger it is than it is written."""
        return self.at_depth(_FEW_LEVELS)

    @property
    def is_plain(self) -> bool:
        """Whether there are no references, so that the cost is the schema's own size."""
        return len(self._parts) == 1

    def at_depth(self, depth: int) -> int:
        """Schemas that are looked at, at most, along a value that is nested `depth` deep; capped."""
        depth = min(depth, _DEEPEST)
        while len(self._by_depth) <= depth:
            self._by_depth.append({})
            level = len(self._by_depth) - 1
            for target in self._parts:
                self._count(target, level, ())
        return self._by_depth[depth]["#"]

    def _count(self, target: str, depth: int, on_the_way: tuple[str, ...]) -> int:
        known = self._by_depth[depth]
        if target in known:
            return known[target]
        if target in on_the_way:
            raise UncountableSchemaError(f"The reference to {target!r} leads back to itself without going deeper.")
        total = self._parts[target].own
        for other, levels in self._parts[target].references:
            if levels == 0:
                total += self._count(other, depth, (*on_the_way, target))
            elif depth >= levels:
                total += self._by_depth[depth - levels][other]
            if total > _CAP:
                break
        known[target] = min(total, _CAP)
        return known[target]

    def _collect(self, target: str) -> None:
        """The parts that are reached from the root, each once."""
        waiting = [target]
        while waiting:
            name = waiting.pop()
            if name in self._parts:
                continue
            part = self._parts[name] = _Part()
            _walk(self._find(name), 0, part)
            waiting.extend(other for other, _ in part.references)

    def _find(self, target: str) -> Any:
        pointer = target.removeprefix("#")
        if pointer and not pointer.startswith("/"):
            return _anchored(self._schema, pointer)
        found: Any = self._schema
        for token in pointer.split("/")[1:]:
            token = unquote(token).replace("~1", "/").replace("~0", "~")
            try:
                found = found[int(token)] if isinstance(found, list) else found[token]
            except (KeyError, IndexError, ValueError, TypeError):
                raise UncountableSchemaError(f"The reference to {target!r} leads nowhere: it does not exist.") from None
        return found


def _walk(schema: Any, depth: int, part: _Part) -> None:
    """Count a schema and those in it; references are noted and not followed."""
    part.own += 1
    if not isinstance(schema, dict):
        return
    if "$dynamicRef" in schema or "$recursiveRef" in schema:
        raise UncountableSchemaError("Dynamic references are not supported; use $ref.")
    reference = schema.get("$ref")
    if isinstance(reference, str):
        if not reference.startswith("#"):
            raise UncountableSchemaError(
                f"The reference to {reference!r} leads out of the schema: such are not followed."
            )
        part.references.append((reference if reference != "#/" else "#", depth))
    for inner, levels in _inner(schema):
        _walk(inner, depth + levels, part)


def _inner(schema: dict[str, Any]) -> list[tuple[Any, int]]:
    """The schemas in a schema that are looked at, and how many levels of the value each goes down."""
    found: list[tuple[Any, int]] = []
    for names, levels in _SINGLE:
        found += [(schema[name], levels) for name in names if name in schema]
    for names, levels in _LISTS:
        found += [(item, levels) for name in names if isinstance(schema.get(name), list) for item in schema[name]]
    for names, levels in _MAPS:
        found += [
            (item, levels) for name in names if isinstance(schema.get(name), dict) for item in schema[name].values()
        ]
    return found


def _anchored(schema: Any, name: str) -> Any:
    """The schema that carries this `$anchor`."""
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if value.get("$anchor") == name:
                return value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    raise UncountableSchemaError(f"The reference to {'#' + name!r} leads nowhere: it does not exist.")


def size_of(value: Any, at_most: int = 10_000_000) -> tuple[int, int]:
    """(values in it, levels of nesting) of a JSON value; counting ends at `at_most` values."""
    count, deepest = 0, 0
    waiting = [(value, 0)]
    while waiting and count < at_most:
        item, depth = waiting.pop()
        count += 1
        deepest = max(deepest, depth)
        if isinstance(item, dict):
            waiting.extend((inner, depth + 1) for inner in item.values())
        elif isinstance(item, list):
            waiting.extend((inner, depth + 1) for inner in item)
    return count, deepest
