"""Schemas of OpenAPI 3.0 and 3.1 as JSON Schema 2020-12, complete in themselves.

What a schema refers to comes along under `$defs`, once, so recursive schemas stay what they are. Words of OpenAPI that say nothing about
values are left out (examples, XML, discriminators), as are properties that only the other direction has (`readOnly`, `writeOnly`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from tools.openapi.references import References, tokens_of

MAX_DESCRIPTION: Final = 1000
MAX_SCHEMAS: Final = 3000
MAX_SCHEMAS_OF_DOCUMENT: Final = 200_000

_ONE: Final = frozenset(
    {
        "items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else", "unevaluatedItems",
        "unevaluatedProperties",
    }
)  # fmt: skip
_SEVERAL: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED: Final = frozenset({"properties", "patternProperties", "dependentSchemas"})
_COPIED: Final = frozenset(
    {
        "type", "enum", "const", "default", "format", "title", "description", "multipleOf", "minimum", "maximum",
        "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "pattern", "minItems", "maxItems", "uniqueItems",
        "minContains", "maxContains", "minProperties", "maxProperties", "required", "dependentRequired", "deprecated",
    }
)  # fmt: skip
_REFUSED: Final = ("$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")


class UnusableSchemaError(Exception):
    """A schema that cannot be expressed here; the text says why."""


class Direction(StrEnum):
    """Which way values go: the other way's properties are left out."""

    REQUEST = "readOnly"
    RESPONSE = "writeOnly"


class Budget:
    """How many schemas may still be converted: for one operation, and for all of a document together."""

    def __init__(self, of_document: int = MAX_SCHEMAS_OF_DOCUMENT) -> None:
        self._of_document = of_document
        self._of_operation = MAX_SCHEMAS

    def renew(self) -> None:
        """The next operation begins."""
        self._of_operation = min(MAX_SCHEMAS, self._of_document)

    def take(self) -> None:
        """Count one; raises UnusableSchemaError when there is none left."""
        self._of_operation -= 1
        self._of_document -= 1
        if self._of_operation < 0:
            raise UnusableSchemaError("Its schemas, with all that they refer to, are too large.")


class SchemaWriter:
    """Converts the schemas of one operation that go one way; `definitions` gathers what they refer to."""

    def __init__(self, references: References, direction: Direction, budget: Budget) -> None:
        self._references = references
        self._budget = budget
        self._direction = direction
        self._names: dict[tuple[str, ...], str] = {}
        self._waiting: list[tuple[str, Any]] = []

    def converted(self, schema: Any) -> dict[str, Any] | bool:
        """The schema, its references led to `$defs`; raises UnusableSchemaError, BrokenReferenceError."""
        self._budget.take()
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise UnusableSchemaError("A schema is not an object.")
        for word in _REFUSED:
            if isinstance(schema.get(word), str):
                raise UnusableSchemaError(f"A schema uses {word}, which is not supported.")
        found = self._words(schema)
        _convert_bounds(found)
        if isinstance(schema.get("$ref"), str):
            found["$ref"] = f"#/$defs/{self._name_of(schema['$ref'])}"
        return _nullable(found) if schema.get("nullable") is True else found

    def definitions(self) -> dict[str, Any]:
        """What the schemas so far refer to, by name, and what that refers to in turn."""
        found: dict[str, Any] = {}
        while self._waiting:
            name, target = self._waiting.pop()
            found[name] = self.converted(target)
        return dict(sorted(found.items()))

    def _words(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        hidden = self._hidden(schema)
        for word, value in schema.items():
            if word in _ONE and isinstance(value, dict | bool):
                found[word] = self.converted(value)
            elif word == "items" and isinstance(value, list):
                found["prefixItems"] = [self.converted(item) for item in value]
            elif word in _SEVERAL and isinstance(value, list):
                found[word] = [self.converted(item) for item in value]
            elif word in _NAMED and isinstance(value, dict):
                kept = {name: item for name, item in value.items() if word != "properties" or name not in hidden}
                found[word] = {name: self.converted(item) for name, item in kept.items()}
            elif word == "required":
                if isinstance(value, list):
                    found[word] = [name for name in value if isinstance(name, str) and name not in hidden]
            elif word in _COPIED:
                found[word] = value[:MAX_DESCRIPTION] if word == "description" and isinstance(value, str) else value
        return found

    def _hidden(self, schema: Mapping[str, Any]) -> frozenset[str]:
        """Properties that only the other direction has."""
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return frozenset()
        resolved = {name: self._references.resolved(item) for name, item in properties.items()}
        return frozenset(
            name for name, item in resolved.items() if isinstance(item, dict) and item.get(self._direction) is True
        )

    def _name_of(self, reference: str) -> str:
        tokens = tokens_of(reference)
        if tokens not in self._names:
            base = _NOT_IN_NAMES.sub("_", tokens[-1]).strip("_") or "schema"
            name, number = base, 2
            while name in self._names.values():
                name, number = f"{base}_{number}", number + 1
            self._names[tokens] = name
            self._waiting.append((name, self._references.target(reference)))
        return self._names[tokens]


def _convert_bounds(schema: dict[str, Any]) -> None:
    """OpenAPI 3.0's `exclusiveMinimum: true` beside a `minimum` becomes the bound itself."""
    for exclusive, inclusive in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(schema.get(exclusive), bool):
            is_exclusive = schema.pop(exclusive)
            if is_exclusive and inclusive in schema:
                schema[exclusive] = schema.pop(inclusive)


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI 3.0's `nullable`: null is allowed, too."""
    kind = schema.get("type")
    if isinstance(kind, str):
        found = {**schema, "type": [kind, "null"]}
        if isinstance(schema.get("enum"), list) and None not in schema["enum"]:
            found["enum"] = [*schema["enum"], None]
        return found
    return {"anyOf": [schema, {"type": "null"}]} if schema else schema
