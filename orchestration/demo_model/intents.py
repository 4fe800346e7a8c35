"""What the demo model understands of a user's message: wishes for tools, by plain patterns."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

_CITIES = re.compile(
    r"\bin ((?:[A-Z][\w'-]*(?: [A-Z][\w'-]*)*)(?:(?:, | and |, and )(?:in )?[A-Z][\w'-]*(?: [A-Z][\w'-]*)*)*)"
)
_SEPARATOR = re.compile(r", and |, | and ")
_SIGNS = re.compile(r"[-+(\d][\d\s.+\-*/%^()]*")
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?|\d\d?/\d\d?/\d{4}")
_NOTE = re.compile(
    r"^\s*(?:note|remember)\s*:?\s+(?P<title>.+?)\s*(?:=|:| is | as )\s*(?P<content>.+)$", re.IGNORECASE | re.DOTALL
)
_SHOW_NOTE = re.compile(
    r"(?:show|read|get|what is)\s+(?:my |the )?note\s+(?:on |about |called )?[\"']?(?P<title>[^\"'?]+)", re.IGNORECASE
)
_ASK_ANOTHER = re.compile(
    r"\b(?:ask|tell|have) (?:the )?(?P<agent>researcher|sample)\b(?: agent\b)?(?: to| about|:)? (?P<task>.+)",
    re.IGNORECASE | re.DOTALL,
)
_FRONTEND_HINTS = {
    "get_client_time": ("what time", "my time", "clock"),
    "ask_user": ("ask me", "question for me"),
    "set_theme": ("theme", "dark mode", "light mode"),
}


@dataclass(frozen=True, slots=True)
class Wish:
    """A tool to call with these arguments."""

    tool: str
    arguments: dict[str, Any] = field(default_factory=dict)


def wishes(text: str, offered: dict[str, dict[str, Any]]) -> list[Wish]:
    """What the text asks for, as far as tools for it are offered; `offered` maps names to JSON Schemas."""
    found = _delegation(text) or _notes(text) or [*_weather(text), *_arithmetic(text), *_debug(text)]
    understood = {wish.tool for wish in found}
    found += [wish for wish in _frontend(text, offered) if wish.tool not in understood]
    return [wish for wish in found if wish.tool in offered]


def _weather(text: str) -> list[Wish]:
    if "weather" not in text.lower():
        return []
    cities = [city for match in _CITIES.findall(text) for city in _SEPARATOR.split(match)]
    return [Wish("get_weather_tool", {"location": city}) for city in dict.fromkeys(cities or ["London"])]


def _arithmetic(text: str) -> list[Wish]:
    for found in _SIGNS.finditer(text):
        expression = found.group().strip().rstrip(" .+-*/%^(")
        if expression.count(")") > expression.count("("):
            expression = expression.rstrip(" )")
        if any(sign in expression[1:] for sign in "+-*/%^") and not _DATE.fullmatch(expression):
            return [Wish("calculator_tool", {"expression": expression.replace("^", "**")})]
    return []


def _notes(text: str) -> list[Wish]:
    shown = _SHOW_NOTE.search(text)
    if shown:
        return [Wish("get_note_tool", {"title": shown["title"].strip()})]
    written = _NOTE.match(text)
    if written:
        return [Wish("add_note_tool", {"title": written["title"].strip(" \"'"), "content": written["content"].strip()})]
    return []


def _delegation(text: str) -> list[Wish]:
    asked = _ASK_ANOTHER.search(text)
    return [Wish(f"delegate_to_{asked['agent'].lower()}", {"task": asked["task"].strip()})] if asked else []


def _debug(text: str) -> list[Wish]:
    return [Wish("admin_debug_tool")] if "debug" in text.lower() else []


def _frontend(text: str, offered: dict[str, dict[str, Any]]) -> list[Wish]:
    lowered = text.lower()
    known = [name for name, hints in _FRONTEND_HINTS.items() if any(hint in lowered for hint in hints)]
    named = [name for name in offered if name.lower() in lowered]
    return [Wish(name, _sample_arguments(offered.get(name, {}), text)) for name in dict.fromkeys([*known, *named])]


def _sample_arguments(schema: dict[str, Any], text: str) -> dict[str, Any]:
    """Arguments that fit a frontend tool's schema: a word of the text where one fits, else the plainest value."""
    properties = schema.get("properties") or {}
    return {name: _sample(name, properties.get(name) or {}, text) for name in schema.get("required") or ()}


def _sample(name: str, schema: dict[str, Any], text: str) -> Any:
    if schema.get("enum"):
        return next((value for value in schema["enum"] if str(value).lower() in text.lower()), schema["enum"][0])
    if name == "theme":
        return "dark" if "dark" in text.lower() else "light"
    if name == "question":
        return "Shall I go on?"
    samples: dict[str, Any] = {"integer": 1, "number": 1, "boolean": True, "array": [], "object": {}}
    return samples.get(schema.get("type", "string"), text)


def sample_value(schema: Any, text: str) -> Any:
    """A value for an output schema: the text where one fits, else the plainest value."""
    if not isinstance(schema, dict):
        return text
    if "const" in schema or schema.get("enum"):
        return schema["const"] if "const" in schema else schema["enum"][0]
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        properties = schema.get("properties") or {}
        return {name: sample_value(properties.get(name), text) for name in schema.get("required") or properties}
    if kind == "array":
        return [sample_value(schema.get("items"), text)] * schema.get("minItems", 0)
    if kind in ("integer", "number"):
        return schema.get("minimum", schema.get("maximum", 1))
    return {"boolean": True, "null": None}.get(kind, text[: schema.get("maxLength", len(text))])
