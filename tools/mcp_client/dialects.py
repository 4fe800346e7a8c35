"""Schemas of others in the dialect that is used here (JSON Schema 2020-12).

Many servers still write draft-07. Where a schema means the same in both it is taken over without its `$schema`; where it uses a keyword
whose meaning changed, it cannot be used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tools.schemas import InvalidSchemaError, check_schema

_OLDER: Final = frozenset(
    f"{scheme}://json-schema.org/{name}schema{end}"
    for scheme in ("http", "https")
    for name in ("draft-07/", "draft/2019-09/")
    for end in ("", "#")
)
_OF_NAMES = frozenset({"properties", "patternProperties", "definitions", "$defs", "dependentSchemas"})
_OF_VALUES = frozenset({"const", "enum", "default", "examples"})
_CHANGED = frozenset({"additionalItems", "dependencies", "$recursiveRef", "$recursiveAnchor"})
_BESIDE_A_REFERENCE = frozenset(
    {"$ref", "$comment", "$schema", "title", "description", "default", "examples", "definitions"}
)


def usable_schema(schema: dict[str, Any], *, of_object: bool) -> dict[str, Any]:
    """The schema as it can be published here; raises InvalidSchemaError."""
    if schema.get("$schema") in _OLDER:
        for keyword in _keywords_that_changed(schema):
            raise InvalidSchemaError(
                f"It is written in an older dialect and uses {keyword}, which means another thing now."
            )
        schema = {name: value for name, value in schema.items() if name != "$schema"}
    check_schema(schema, of_object=of_object)
    return schema


def _keywords_that_changed(schema: Any) -> Iterator[str]:
    """Those of this schema and of the ones inside it."""
    if isinstance(schema, list):
        for part in schema:
            yield from _keywords_that_changed(part)
    if not isinstance(schema, dict):
        return
    yield from sorted(_CHANGED & schema.keys())
    if isinstance(schema.get("items"), list):
        yield "a list of items"
    if "$ref" in schema and schema.keys() - _BESIDE_A_REFERENCE:
        yield "$ref beside other keywords"
    for name, value in schema.items():
        if name in _OF_NAMES and isinstance(value, dict):
            value = list(value.values())
        if name not in _OF_VALUES:
            yield from _keywords_that_changed(value)
