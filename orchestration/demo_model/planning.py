"""Plans that the demo model makes, and calls that it repeats: what it calls next after the results so far."""

from __future__ import annotations

import re
from typing import Any

import orjson

from orchestration.plans.definition import MAKE_PLAN as MAKE_PLAN

_PLAN = re.compile(r"demo:\s*plan\s+(?P<document>\{.*\})", re.IGNORECASE | re.DOTALL)
_REVISE = re.compile(r"demo:\s*plan-revise", re.IGNORECASE)
_COMPARE = re.compile(
    r"^\s*plan:.*\bweather in (?P<one>[\w'-]+(?: [A-Z][\w'-]*)*) and (?P<other>[\w'-]+(?: [A-Z][\w'-]*)*)",
    re.IGNORECASE,
)
_INSIST = re.compile(
    r"demo:\s*insist\s+(?P<tool>[A-Za-z0-9_-]{1,64})\s*(?P<arguments>\{.*\})?", re.IGNORECASE | re.DOTALL
)
_RETRY = re.compile(
    r"demo:\s*retry\s+(?P<tool>[A-Za-z0-9_-]{1,64})\s*(?P<arguments>\{.*\})?", re.IGNORECASE | re.DOTALL
)

Call = tuple[str, str]
Result = tuple[str, dict[str, Any], str]


def next_call(text: str, results: list[Result]) -> Call | None:
    """The plan or the repeated call that the text asks for, after these results; None when it asks for none, or no more."""
    if found := _INSIST.search(text):
        return found["tool"], found["arguments"] or "{}"
    if found := _RETRY.search(text):
        may_retry = not results or (len(results) < 3 and can_retry(results[-1][2]))
        return (found["tool"], found["arguments"] or "{}") if may_retry else None
    if found := _PLAN.search(text):
        return None if results else (MAKE_PLAN, found["document"])
    if _REVISE.search(text):
        return _revised(len(results))
    if found := _COMPARE.search(text):
        return None if results else (MAKE_PLAN, _written(_comparison(found["one"], found["other"])))
    return None


def concerns(text: str) -> bool:
    """Whether the text asks for a plan or a repeated call."""
    return any(pattern.search(text) for pattern in (_INSIST, _RETRY, _PLAN, _REVISE, _COMPARE))


def can_retry(content: str) -> bool:
    """Whether the report of a failure says that the same call can help."""
    try:
        return bool(orjson.loads(content)["error"]["retry"]["same_arguments"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return False


def told(content: str) -> str:
    """The result of a plan, in words."""
    try:
        report = orjson.loads(content)
        steps = report["steps"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return f"The plan was not carried out: {content[:600]}"
    return f"The plan is {report['plan']}: " + "; ".join(_step_told(step) for step in steps) + "."


def _step_told(step: dict[str, Any]) -> str:
    if step["status"] == "done":
        return f"{step['id']} gave {_written(step['result'])[:300]}"
    if step["status"] == "failed":
        return f"{step['id']} failed ({step['error']['kind']})"
    return f"{step['id']} was {step['status']}"


def _comparison(one: str, other: str) -> dict[str, Any]:
    weather = [
        {"id": name, "tool": "get_weather_tool", "arguments": {"location": city}, "purpose": f"The weather in {city}"}
        for name, city in (("first", one), ("second", other))
    ]
    values = {name: {"$from": name, "path": "/temperature_c"} for name in ("first", "second")}
    difference = {
        "id": "difference",
        "tool": "calculator_tool",
        "arguments": {"expression": "first - second", "values": values},
        "purpose": "How much warmer it is in the first place",
    }
    return {"goal": f"Compare the weather in {one} and {other}", "steps": [*weather, difference]}


def _revised(plans_so_far: int) -> Call | None:
    """A plan with a step that fails, then one that goes on from what the first has found."""
    if plans_so_far == 0:
        steps: list[dict[str, Any]] = [
            {"id": "sum", "tool": "calculator_tool", "arguments": {"expression": "6*7"}},
            {"id": "place", "tool": "get_weather_tool", "arguments": {"location": "Nowhere"}},
            {"id": "note", "tool": "get_note_tool", "arguments": {"title": {"$from": "place", "path": "/condition"}}},
        ]
        return MAKE_PLAN, _written({"goal": "A plan that does not work out", "steps": steps})
    if plans_so_far == 1:
        values = {"sum": {"$from": "sum"}, "there": {"$from": "again", "path": "/temperature_c"}}
        steps = [
            {"id": "again", "tool": "get_weather_tool", "arguments": {"location": "Oslo"}},
            {"id": "total", "tool": "calculator_tool", "arguments": {"expression": "sum + there", "values": values}},
        ]
        return MAKE_PLAN, _written({"goal": "The same with another place", "steps": steps})
    return None


def _written(value: Any) -> str:
    return orjson.dumps(value).decode()
