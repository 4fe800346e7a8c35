"""The JSON Schema of the files, for editors and for checks before `apply`; published as `docs/registry.schema.json`."""

from __future__ import annotations

from typing import Any, Final

from tools.configuration.fields import FieldDescription, described_fields
from tools.configuration.kinds import configuration_of, exported_kinds
from tools.documents import DocumentKind
from tools.schemas import DIALECT

API_VERSION: Final = "agentbackend/v1"

_TYPES: Final = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
_WORDS: Final[dict[type, str]] = {
    str: "text",
    bool: "true or false",
    int: "whole number",
    float: "number",
    list: "list of texts",
    dict: "object",
}


def schema_of_files() -> dict[str, Any]:
    """The schema of one document."""
    kinds = exported_kinds()
    return {
        "$schema": DIALECT,
        "title": "agentbackend registry document",
        "description": "One document of `manage.py registry export` and `apply`; docs/configuration_as_code.md describes it.",
        "type": "object",
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"enum": [kind.name for kind in kinds]},
            "name": {"type": "string", "minLength": 1},
            "spec": {"type": ["object", "null"]},
        },
        "required": ["apiVersion", "kind", "name"],
        "additionalProperties": False,
        "allOf": [
            {
                "if": {"properties": {"kind": {"const": kind.name}}, "required": ["kind"]},
                "then": {"$ref": f"#/$defs/{kind.name}"},
            }
            for kind in kinds
        ],
        "$defs": {kind.name: _document(kind) for kind in kinds},
    }


def _document(kind: DocumentKind) -> dict[str, Any]:
    configuration = configuration_of(kind)
    fields = described_fields(kind)
    spec: dict[str, Any] = {"type": ["object", "null"], "properties": {field.name: _field(field) for field in fields}}
    required = [field.name for field in fields if field.is_required]
    if required and kind.name == "Tool":  # of a function of the service the code says the rest
        spec["dependentRequired"] = {"handler": [name for name in required if name != "handler"]}
    elif required:
        spec |= {"type": "object", "required": required}
    spec["additionalProperties"] = False
    document: dict[str, Any] = {
        "description": configuration.about,
        "properties": {"name": {"pattern": configuration.name_pattern}, "spec": spec},
    }
    return {**document, "required": ["spec"]} if "required" in spec else document


def _field(field: FieldDescription) -> dict[str, Any]:
    found: dict[str, Any] = {"description": field.meaning} if field.meaning else {}
    kind = _TYPES[field.type]
    found["type"] = [kind, "null"] if field.is_nullable else kind
    if field.choices:
        understood = [field.default] if field.default == "" and "" not in field.choices else []
        found["enum"] = [*field.choices, *understood, *([None] if field.is_nullable else [])]
    if field.items is not None:
        found["items"] = {key: value for key, value in _field(field.items).items() if key != "description"}
    elif field.type is list:
        found["items"] = {"type": "string"}
    if field.pattern and field.may_be_empty:
        found["anyOf"] = [{"const": ""}, {"pattern": field.pattern}]
    elif field.pattern:
        found["pattern"] = field.pattern
    for key, value in (("minimum", field.minimum), ("maximum", field.maximum), ("maxLength", field.max_length)):
        if value is not None:
            found[key] = int(value) if float(value).is_integer() else value
    if field.type is str and not field.may_be_empty:
        found["minLength"] = 1
    return found if field.is_required else {**found, "default": field.default}


def reference() -> str:
    """The tables of the documentation, as Markdown: a test holds docs/configuration_as_code.md against them."""
    return "\n\n".join(_table(kind) for kind in exported_kinds())


def _table(kind: DocumentKind) -> str:
    lines = [
        f"### {kind.name}",
        configuration_of(kind).about,
        "",
        "| field | type | default | meaning |",
        "|---|---|---|---|",
    ]
    lines += [_row(field) for field in described_fields(kind)]
    return "\n".join(lines)


def _row(field: FieldDescription) -> str:
    kind = ", ".join(f"`{choice}`" for choice in field.choices) or _WORDS[field.type]
    bounds = _bounds(field)
    return f"| `{field.name}` | {kind}{bounds} | {_default(field)} | {field.meaning.replace('|', chr(92) + '|')} |"


def _bounds(field: FieldDescription) -> str:
    low, high = field.minimum, field.maximum
    if low is not None and high is not None:
        return f", {low:g} to {high:g}" if high < 1e6 else f", {low:g} to {high:.0f}"
    if low is not None:
        return f", at least {low:g}"
    return f", at most {field.max_length} characters" if field.max_length and not field.choices else ""


def _default(field: FieldDescription) -> str:
    if field.is_required:
        return "must be given"
    if field.default in ("", [], None):
        return "empty" if field.type in (str, list) else "none"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    return f"`{field.default:g}`" if isinstance(field.default, float) else f"`{field.default}`"
