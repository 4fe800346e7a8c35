"""JSON Schema 2020-12: checking schemas when they are saved, and arguments and results when tools are called.

Nothing is ever fetched: a reference out of the schema is refused. Patterns run with a bounded number of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import jsonschema_rs
import orjson

from tools.schema_cost import MAX_UNFOLDED, SchemaCost, UncountableSchemaError, size_of

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
MAX_SCHEMA_BYTES: Final = 64 * 1024
MAX_PROBLEMS_TOLD: Final = 5
MAX_STEPS: Final = 20_000_000
"""Schemas that may be looked at for one value: some tenths of a second at most."""

_MAX_MESSAGE_LENGTH = 300
_OUT_OF_RANGE = 2**63
_MAX_STEPS_OF_TELLING = 20_000
_PATTERNS = jsonschema_rs.FancyRegexOptions(backtrack_limit=100_000)


class InvalidSchemaError(ValueError):
    """This is not a JSON Schema that can be used here; the text says why, for the person who wrote it."""


def check_schema(schema: object, *, of_object: bool) -> None:
    """Raise InvalidSchemaError unless this is a usable schema; `of_object`: it must describe an object."""
    if not isinstance(schema, dict):
        raise InvalidSchemaError("A schema must be a JSON object.")
    try:
        written = orjson.dumps(schema)
    except orjson.JSONEncodeError as error:
        raise InvalidSchemaError(f"The schema cannot be written as JSON: {error}.") from error
    if number := _number_out_of_range(schema):
        raise InvalidSchemaError(f"The number {number} is out of range: no more than 64 bits are taken.")
    if len(written) > MAX_SCHEMA_BYTES:
        raise InvalidSchemaError(f"The schema is larger than {MAX_SCHEMA_BYTES} bytes.")
    if schema.get("$schema", DIALECT) != DIALECT:
        raise InvalidSchemaError(f"$schema must be {DIALECT} or absent.")
    if of_object and schema.get("type") != "object":
        raise InvalidSchemaError('The schema of arguments must say "type": "object".')
    _compile(schema)
    _cost(schema)


def problems(schema: bytes, value: object) -> list[str]:
    """What does not fit, each with its path, at most MAX_PROBLEMS_TOLD; empty when the value fits.

    `schema` is JSON text: what was compiled for it once is used again. The time is bounded: where a value is too large or too deep
    for its schema that is the problem, and where telling each fault would take long, only the parts at the top that do not fit are
    named. Raises InvalidSchemaError.
    """
    compiled = _compiled(schema)
    steps = compiled.steps_for(value)
    if steps > MAX_STEPS:
        return ["(top level): It is too large or too deeply nested to be checked."]
    if compiled.validator.is_valid(value):
        return []
    return _each_fault(compiled, value) if steps <= _MAX_STEPS_OF_TELLING else _parts_at_the_top(compiled, value)


_SEEN_WITHOUT_VALUES: Final = frozenset(
    {
        "type",
        "required",
        "additionalProperties",
        "propertyNames",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
    }
)
_DEPENDS_ON_OTHERS: Final = frozenset({"if", "then", "else", "not", "dependentSchemas", "anyOf", "oneOf", "contains"})


def problems_around(schema: bytes, value: object, unknown: Sequence[tuple[str | int, ...]]) -> list[str]:
    """What does not fit whatever the values at the paths `unknown` turn out to be; less than `problems` says when all is known.

    At those places anything may stand in `value`. A value that is too large to be checked counts as one that fits.
    """
    compiled = _compiled(schema)
    if compiled.steps_for(value) > _MAX_STEPS_OF_TELLING:
        return []
    told: list[str] = []
    for error in compiled.validator.iter_errors(value):
        if _is_certain(tuple(error.instance_path), error.schema_path, unknown):
            told.append(f"{_path(error.instance_path)}: {_shortened(error.message)}")
        if len(told) == MAX_PROBLEMS_TOLD:
            break
    return told


def _is_certain(at: tuple[str | int, ...], keywords: list[str | int], unknown: Sequence[tuple[str | int, ...]]) -> bool:
    """Whether a fault stands whatever the unknown values are."""
    if any(at[: len(path)] == path for path in unknown) or not _DEPENDS_ON_OTHERS.isdisjoint(keywords[:-1]):
        return False
    holds_unknown = any(path[: len(at)] == at for path in unknown)
    return not holds_unknown or keywords[-1] in _SEEN_WITHOUT_VALUES


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A schema ready for use, and what using it costs."""

    document: dict[str, Any]
    validator: jsonschema_rs.Draft202012Validator
    cost: SchemaCost

    def steps_for(self, value: object) -> int:
        """Schemas that are looked at for this value, at most."""
        count, depth = size_of(value)
        return self.cost.at_depth(0 if self.cost.is_plain else depth) * count


def _each_fault(compiled: _Compiled, value: object) -> list[str]:
    told: list[str] = []
    for error in compiled.validator.iter_errors(value):
        told.append(f"{_path(error.instance_path)}: {_shortened(error.message)}")
        if len(told) == MAX_PROBLEMS_TOLD:
            break
    return told


def _parts_at_the_top(compiled: _Compiled, value: object) -> list[str]:
    """Which properties do not fit, without saying why: an error tree can be exponentially larger than the schema."""
    document = compiled.document
    given: dict[str, Any] = value if isinstance(value, dict) else {}
    told = [f"{name}: is required" for name in document.get("required", ()) if name not in given]
    definitions: dict[str, Any] = {name: document[name] for name in ("$defs", "definitions") if name in document}
    properties = document.get("properties")
    for name, part in properties.items() if isinstance(properties, dict) else ():
        if name in given and not _fits(part, definitions, given[name]):
            told.append(f"{name}: does not fit its schema")
    return told[:MAX_PROBLEMS_TOLD] or ["(top level): does not fit the schema"]


def _fits(part: Any, definitions: dict[str, Any], value: object) -> bool:
    """Whether a value fits a part of a schema; a part that needs more than the definitions is not blamed."""
    try:
        return _compile({**definitions, "allOf": [part]}).is_valid(value)
    except InvalidSchemaError:
        return True


@lru_cache(maxsize=1024)
def _compiled(schema: bytes) -> _Compiled:
    document = orjson.loads(schema)
    if not isinstance(document, dict):
        document = {"allOf": [document]}
    return _Compiled(document, _compile(document), _cost(document))


def _cost(schema: dict[str, Any]) -> SchemaCost:
    try:
        cost = SchemaCost(schema)
        if cost.unfolded > MAX_UNFOLDED:
            raise InvalidSchemaError(
                "Its references unfold to more than can be checked: they lead to the same parts too often."
            )
    except UncountableSchemaError as error:
        raise InvalidSchemaError(str(error)) from error
    return cost


def _compile(schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    try:
        return jsonschema_rs.Draft202012Validator(schema, retriever=_refuse, pattern_options=_PATTERNS)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        where = _path(getattr(error, "instance_path", []))
        raise InvalidSchemaError(f"{where}: {_shortened(getattr(error, 'message', str(error)))}") from error


def _number_out_of_range(value: object) -> str:
    """A number that PostgreSQL gives back as a whole number of more than 64 bits, as a text; empty when there is none."""
    if isinstance(value, bool):
        return ""
    if isinstance(value, int | float):
        return str(value) if abs(value) >= _OUT_OF_RANGE else ""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for item in inner if (found := _number_out_of_range(item))), "")


def _refuse(uri: str) -> Any:
    raise ValueError("references out of the schema are not followed")


def _path(parts: list[str | int]) -> str:
    """`items[0].name`, or `(top level)`."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")
    return _shortened(path) or "(top level)"


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_MESSAGE_LENGTH else text[:_MAX_MESSAGE_LENGTH] + "..."
