"""What an object asks for: an answer, calls or a plan; or what is wrong with it, for the model to mend."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from orchestration.plans.definition import MAKE_PLAN
from orchestration.prompted_json.reading import ReadObject

ANSWER, THOUGHT = "answer", "thought"
_ASKS_TO_ACT = frozenset({"action", "actions", "plan"})
_NOTHING: tuple[Any, ...] = ("", None)  # some models name every member
_MOST_NAMED = 40


@dataclass(frozen=True, slots=True)
class Call:
    """A tool to be called; `arguments` as JSON text."""

    tool: str
    arguments: str


class InvalidAnswerError(ValueError):
    """The object asks for nothing that can be done; the text says why, to the model."""


def acts_first(members: dict[str, Any]) -> bool:
    """Whether calls are asked for before anything is answered: then an answer that follows is not shown."""
    asked = (name for name, value in members.items() if name == ANSWER or (name in _ASKS_TO_ACT and value is not None))
    return next(asked, ANSWER) != ANSWER


def asked_calls(found: ReadObject, tools: Collection[str]) -> list[Call]:
    """The calls that a whole object asks for; none when it is an answer. Raises InvalidAnswerError.

    An answer that stands before its calls may have been shown already: both are taken, as from a model that speaks before it calls.
    """
    if found.problem:
        raise InvalidAnswerError(found.problem)
    named = [name for name in found.members if name == ANSWER or name in _ASKS_TO_ACT]
    asked = [name for name in named if found.members[name] not in _NOTHING] or named
    if not asked:
        raise InvalidAnswerError('It has none of "answer", "action", "actions" and "plan".')
    if len(asked) > 1 and (asked[0] != ANSWER or len(asked) > 2):
        raise InvalidAnswerError(f"It has {' and '.join(map(_quoted, asked))}: give one of them.")
    if asked[-1] == ANSWER:
        return []
    return _calls(asked[-1], found.members[asked[-1]], tools)


def _calls(name: str, value: Any, tools: Collection[str]) -> list[Call]:
    if name == "plan":
        if MAKE_PLAN not in tools:
            raise InvalidAnswerError('There is no planning here: give an "action" or an "answer".')
        return [Call(MAKE_PLAN, _object(value, '"plan"'))]
    if name == "action":
        return [_call(value, '"action"', tools)]
    if not isinstance(value, list) or not value:
        raise InvalidAnswerError('"actions" must be a list of {"tool": ..., "arguments": {...}}.')
    return [_call(item, f"actions[{index}]", tools) for index, item in enumerate(value)]


def _call(value: Any, where: str, tools: Collection[str]) -> Call:
    if not isinstance(value, dict) or not isinstance(value.get("tool"), str):
        raise InvalidAnswerError(f'{where} must be {{"tool": "name", "arguments": {{...}}}}.')
    if value["tool"] not in tools:
        raise InvalidAnswerError(f"There is no tool {_quoted(value['tool'][:80])}. {_named(tools)}")
    return Call(value["tool"], _object(value.get("arguments", {}), f'"arguments" of {where}'))


def _object(value: Any, where: str) -> str:
    if not isinstance(value, dict):
        raise InvalidAnswerError(f"{where} must be a JSON object, not {_kind(value)}.")
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _named(tools: Collection[str]) -> str:
    if not tools:
        return 'You may call no tools now: give an "answer".'
    shown = sorted(tools)[:_MOST_NAMED]
    return f"The tools are: {', '.join(shown)}{', ...' if len(tools) > _MOST_NAMED else ''}."


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", str: "a text", list: "a list", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")


def _quoted(name: str) -> str:
    return f'"{name}"'
