"""Form fields for the arguments of a tool, made from its input schema: one for each property of a flat object.

Everything that a schema says is somebody's text, perhaps a stranger's (an MCP server's), and the theme writes help texts as they are:
so it is escaped here. What has no simple field (lists, objects, choices between schemas) is written as JSON.
"""

from __future__ import annotations

import json
from typing import Any, Final

from django import forms
from django.utils.html import escape
from django.utils.text import Truncator
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from tools.admin.forms import IndentedJSONField

MOST_FIELDS: Final = 50
LONG_TEXT: Final = 200

_MOST_HELP = 400
_NOT_FLAT = frozenset({"$ref", "allOf", "anyOf", "oneOf", "if", "not", "dependentSchemas", "patternProperties"})
_LEFT_OUT: Final = ""
_EXAMPLES: Final[dict[str, Any]] = {
    "string": "",
    "integer": 0,
    "number": 0,
    "boolean": False,
    "array": [],
    "object": {},
}


def fields_of(schema: dict[str, Any]) -> dict[str, forms.Field] | None:
    """A field for each property, by the property's name; None where only JSON can say what the schema allows."""
    properties = schema.get("properties")
    if not isinstance(properties, dict) or _NOT_FLAT & set(schema) or len(properties) > MOST_FIELDS:
        return None
    required = schema.get("required", [])
    return {name: _field(name, _as_object(part), required=name in required) for name, part in properties.items()}


def value_of(field: forms.Field, cleaned: Any) -> Any:
    """What a field says as a JSON value; `...` where it says nothing, and the argument is left out."""
    if cleaned is None or cleaned == _LEFT_OUT:
        return ...
    return json.loads(cleaned) if isinstance(field, _ChoiceOfValues) else cleaned


def example_of(schema: dict[str, Any]) -> dict[str, Any]:
    """Arguments to begin with: each required property with its default, first choice, or an empty value."""
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return {}
    return {
        name: _example(_as_object(properties.get(name))) for name in schema.get("required", []) if name in properties
    }


class _ChoiceOfValues(forms.ChoiceField):
    """A choice of JSON values; the choices are written as JSON."""


def _field(name: str, part: dict[str, Any], *, required: bool) -> forms.Field:
    common: dict[str, Any] = {"label": name, "required": required, "help_text": _help(part)}
    if "default" in part:
        common["initial"] = part["default"]
    choices = [part["const"]] if "const" in part else part.get("enum")
    kind = _type_of(part)
    if choices is not None or kind == "boolean":
        return _choice(choices if choices is not None else [True, False], common)
    if _NOT_FLAT & set(part):
        return IndentedJSONField(rows=4, **_json_initial(common))
    if kind == "string":
        return forms.CharField(strip=False, widget=_text_widget(part), **common)
    if kind == "integer":
        return forms.IntegerField(widget=UnfoldAdminIntegerFieldWidget, **common)
    if kind == "number":
        return forms.FloatField(widget=UnfoldAdminDecimalFieldWidget(attrs={"step": "any"}), **common)
    return IndentedJSONField(rows=4, **_json_initial(common))


def _choice(values: list[Any], common: dict[str, Any]) -> forms.Field:
    written = [(json.dumps(value), value if isinstance(value, str) else json.dumps(value)) for value in values]
    leave_out = (
        [] if common["required"] and "initial" not in common and len(values) == 1 else [(_LEFT_OUT, "(left out)")]
    )
    if "initial" in common:
        common["initial"] = json.dumps(common["initial"])
    return _ChoiceOfValues(choices=[*leave_out, *written], widget=UnfoldAdminSelectWidget, **common)


def _json_initial(common: dict[str, Any]) -> dict[str, Any]:
    """An empty text for a value that is not given: `null` would be one."""
    return {**common, "help_text": f"{common['help_text']} As JSON.".strip()}


def _text_widget(part: dict[str, Any]) -> forms.Widget:
    longest = part.get("maxLength")
    if isinstance(longest, int) and longest > LONG_TEXT:
        widget: forms.Widget = UnfoldAdminTextareaWidget(attrs={"rows": 4})
    else:
        widget = UnfoldAdminTextInputWidget()
    return widget


def _type_of(part: dict[str, Any]) -> str:
    """The one type, beside null; empty where there are several or none."""
    kinds = part.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else [kind for kind in kinds if kind != "null"]
    return str(kinds[0]) if len(kinds) == 1 else ""


def _help(part: dict[str, Any]) -> str:
    told = [text for text in (part.get("title"), part.get("description")) if isinstance(text, str) and text]
    return escape(Truncator(": ".join(told)).chars(_MOST_HELP))


def _example(part: dict[str, Any]) -> Any:
    for key in ("default", "const"):
        if key in part:
            return part[key]
    for key in ("examples", "enum"):
        if isinstance(part.get(key), list) and part[key]:
            return part[key][0]
    return _EXAMPLES.get(_type_of(part))


def _as_object(part: Any) -> dict[str, Any]:
    """A property's schema may also be true or false."""
    return part if isinstance(part, dict) else {}
