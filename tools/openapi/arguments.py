"""What an operation is called with: parameters and body, as one flat object of arguments, and where each goes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tools.openapi.references import References
from tools.openapi.schemas import MAX_DESCRIPTION, SchemaWriter
from tools.openapi.unusable import UnusableOperationError

MAX_MERGED: Final = 60

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")
_IGNORED_HEADERS = frozenset({"accept", "content-type", "authorization"})  # OpenAPI says so
_FORM = "application/x-www-form-urlencoded"
_MANY_SHAPES = ("allOf", "anyOf", "oneOf", "not", "if", "patternProperties", "dependentSchemas", "$ref", "nullable")
_DEFAULT_STYLES = {"path": "simple", "header": "simple", "query": "form"}


@dataclass(slots=True)
class Arguments:
    """The arguments of a tool. `path` is the operation's, with arguments' names in it; the rest are settings of the handler."""

    path: str
    properties: dict[str, Any] = field(default_factory=dict)
    required: list[str] = field(default_factory=list)
    places: dict[str, dict[str, str]] = field(default_factory=dict)
    body: str = ""
    body_argument: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    definitions: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def schema(self) -> dict[str, Any]:
        """The schema of all arguments: no others are taken."""
        found: dict[str, Any] = {"type": "object", "properties": self.properties, "additionalProperties": False}
        if self.required:
            found["required"] = self.required
        return {**found, "$defs": self.definitions} if self.definitions else found

    def add(self, name: str, schema: Any, place: dict[str, str] | None, *, required: bool) -> str:
        """Add an argument under a name that is free, and give that name."""
        base = _NOT_IN_NAMES.sub("_", name).strip("_")[:60] or "argument"
        chosen, number = base, 2
        while chosen in self.properties:
            chosen, number = f"{base}_{number}", number + 1
        self.properties[chosen] = schema
        if place is not None:
            self.places[chosen] = place if chosen == name else {**place, "name": name}
        if required:
            self.required.append(chosen)
        return chosen


def read_arguments(
    path: str,
    method: str,
    item: Mapping[str, Any],
    operation: Mapping[str, Any],
    references: References,
    writer: SchemaWriter,
) -> Arguments:
    """The operation's parameters and body; raises UnusableOperationError, and what the writer raises."""
    found = Arguments(path)
    for parameter in _parameters(item, operation, references):
        _add_parameter(found, parameter, references, writer)
    _check_path(found)
    body = references.resolved(operation.get("requestBody"))
    if isinstance(body, dict):
        if method in ("get", "head"):
            found.notes.append(
                f"The body that the document describes is left out: {method.upper()} requests have none."
            )
        else:
            _add_body(found, body, references, writer)
    found.definitions = writer.definitions()
    return found


# --- parameters


def _parameters(item: Mapping[str, Any], operation: Mapping[str, Any], references: References) -> list[dict[str, Any]]:
    """Those of the path, replaced and followed by those of the operation."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for level in (item.get("parameters"), operation.get("parameters")):
        for entry in level if isinstance(level, list) else []:
            parameter = references.resolved(entry)
            if not isinstance(parameter, dict) or not all(
                isinstance(parameter.get(key), str) for key in ("name", "in")
            ):
                raise UnusableOperationError("The document is broken here: a parameter has no `name` or no `in`.")
            found[parameter["name"], parameter["in"]] = parameter
    return list(found.values())


def _add_parameter(found: Arguments, parameter: dict[str, Any], references: References, writer: SchemaWriter) -> None:
    name, place = parameter["name"], parameter["in"]
    if place == "header" and name.lower() in _IGNORED_HEADERS:
        return
    required = parameter.get("required") is True or place == "path"
    problem = _problem_of(parameter, references)
    if problem and required:
        raise UnusableOperationError(f"The parameter {name[:64]!r} {problem}.")
    if problem:
        found.notes.append(f"The optional parameter {name[:64]!r} is left out: it {problem}.")
        return
    schema = writer.converted(_schema_of(parameter))
    said = parameter.get("description")
    if isinstance(schema, dict) and isinstance(said, str) and "description" not in schema:
        schema = {**schema, "description": said[:MAX_DESCRIPTION]}
    where = {"in": place, **_lists(parameter, place)}
    if place != "path":
        found.add(name, schema, where, required=required)
    elif f"{{{name}}}" not in found.path:
        raise UnusableOperationError(f"The path has no {{{name[:64]}}}, which the document describes.")
    else:
        argument = found.add(name, schema, None, required=True)
        found.places[argument] = where  # the template names the argument itself
        found.path = found.path.replace(f"{{{name}}}", f"{{{argument}}}")


def _check_path(found: Arguments) -> None:
    unknown = [name for name in _PLACEHOLDER.findall(found.path) if found.places.get(name, {}).get("in") != "path"]
    if unknown:
        raise UnusableOperationError(f"The path has {{{unknown[0][:64]}}}, which the document does not describe.")


def _problem_of(parameter: Mapping[str, Any], references: References) -> str:
    """Why the parameter cannot be sent; empty when it can."""
    place = parameter["in"]
    if place not in _DEFAULT_STYLES:
        return f"is one in {place[:32]!r}, which tools do not send"
    if "content" in parameter:
        content = parameter["content"]
        return "" if isinstance(content, dict) and list(content) == ["application/json"] else "is not written as JSON"
    style = parameter.get("style", _DEFAULT_STYLES[place])
    schema = references.resolved(parameter.get("schema", {}))
    kinds = _kinds(schema)
    if not kinds & {"array", "object"}:
        return "" if style in ("simple", "form", "spaceDelimited", "pipeDelimited", "deepObject") else _styled(style)
    if style != _DEFAULT_STYLES[place]:
        return _styled(style)
    return "is an object, which can be written in several ways" if "object" in kinds else ""


def _styled(style: Any) -> str:
    return f"is written in the style {str(style)[:32]!r}, which tools do not use"


def _kinds(schema: Any) -> set[str]:
    if not isinstance(schema, dict):
        return set()
    kind = schema.get("type")
    kinds = (
        {kind}
        if isinstance(kind, str)
        else {item for item in kind if isinstance(item, str)}
        if isinstance(kind, list)
        else set()
    )
    return kinds | ({"object"} if isinstance(schema.get("properties"), dict) else set())


def _schema_of(parameter: Mapping[str, Any]) -> Any:
    if "content" in parameter:
        media = parameter["content"]["application/json"]
        return media.get("schema", {}) if isinstance(media, dict) else {}
    return parameter.get("schema", {})


def _lists(parameter: Mapping[str, Any], place: str) -> dict[str, str]:
    if "content" in parameter:
        return {"lists": "json"}
    return {"lists": "comma"} if place == "query" and parameter.get("explode") is False else {}


# --- the body


def _add_body(found: Arguments, body: Mapping[str, Any], references: References, writer: SchemaWriter) -> None:
    media_type, media = _media(body)
    found.body = "form" if media_type == _FORM else "json"
    if found.body == "json" and media_type != "application/json":
        found.headers["Content-Type"] = media_type
    schema = media.get("schema", {}) if isinstance(media, dict) else {}
    required = body.get("required") is True
    whole = references.resolved(schema)
    if _can_be_merged(whole, found, required):
        _merge(found, whole, writer, required=required)
        return
    if found.body == "form" and "object" not in _kinds(whole):
        raise UnusableOperationError("Its form is not described as an object with fields.")
    converted = writer.converted(schema)
    if isinstance(converted, dict) and "description" not in converted and isinstance(body.get("description"), str):
        converted = {**converted, "description": body["description"][:MAX_DESCRIPTION]}
    found.body_argument = found.add("body", converted, None, required=required)


def _media(body: Mapping[str, Any]) -> tuple[str, Any]:
    """The form of the body that a tool can write, JSON before others."""
    content = body.get("content")
    types = {name.partition(";")[0].strip().lower(): name for name in content} if isinstance(content, dict) else {}
    wanted = [name for name in types if name == "application/json"]
    wanted += [name for name in types if name.endswith("+json")] + [name for name in types if name in (_FORM, "*/*")]
    if not isinstance(content, dict) or not wanted:
        raise UnusableOperationError(
            f"Its body is {', '.join(types)[:200] or 'not described'}: tools send JSON and forms."
        )
    chosen = wanted[0]
    return ("application/json" if chosen == "*/*" else chosen), content[types[chosen]]


def _can_be_merged(schema: Any, found: Arguments, required: bool) -> bool:
    """Whether the body's fields can stand beside the parameters: a plain object whose names are free.

    A body that may be left out and then has needed fields cannot be told apart any more, so it stays one argument.
    """
    if not isinstance(schema, dict) or any(word in schema for word in _MANY_SHAPES):
        return False
    properties = schema.get("properties")
    if (
        schema.get("type", "object") != "object"
        or not isinstance(properties, dict)
        or not 0 < len(properties) <= MAX_MERGED
    ):
        return False
    if isinstance(schema.get("additionalProperties"), dict) or (schema.get("required") and not required):
        return False
    return all(_NOT_IN_NAMES.sub("_", name).strip("_") not in found.properties for name in properties)


def _merge(found: Arguments, schema: dict[str, Any], writer: SchemaWriter, *, required: bool) -> None:
    converted = writer.converted(schema)
    assert isinstance(converted, dict)
    needed = converted.get("required", [])
    for name, item in converted.get("properties", {}).items():
        found.add(name, item, {"in": "body"}, required=name in needed)
    if not required:
        found.body = "form" if found.body == "form" else ""
