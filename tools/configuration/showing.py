"""What an apply does, for people (a plan) and for machines (JSON)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from difflib import unified_diff
from typing import Any, Final

from tools.configuration.applying import Action, Change, Outcome, State
from tools.configuration.kinds import exported_kind
from tools.configuration.reading import Problem
from tools.configuration.texts import shown
from tools.configuration.writing import minimal_spec
from tools.configuration.yaml_values import arranged, write_yaml
from tools.documents import Spec

Paint = Callable[[str, str], str]
"""Colours a line: by `+`, `-`, `~`, or `!` for what needs attention."""

_SIGNS: Final = {Action.CREATE: "+", Action.CHANGE: "~", Action.REMOVE: "-"}
_SHORT: Final = 72
_STATES: Final = {
    State.LIVE: "",
    State.PROPOSED: " (needs a second person: proposed)",
    State.WAITING: " (needs a second person: proposed before, and not decided yet)",
    State.HELD_BACK: " (held back: it refers to something that is only proposed)",
}


def plan_lines(outcome: Outcome, *, paint: Paint, with_differences: bool) -> Iterator[str]:
    """One paragraph for each change; with differences, each field before and after."""
    for change in outcome.changes:
        sign = _SIGNS[change.action]
        yield paint(sign, f"{sign} {change.kind} {shown(change.name)}") + paint("!", _STATES[change.state])
        if change.note:
            yield f"    {shown(change.note)}"
        if with_differences:
            yield from _differences(change, paint)
        elif change.action is Action.CHANGE:
            yield f"    {', '.join(change.differences)}"


def summary(outcome: Outcome, *, done: bool) -> str:
    """The last line: how much was done, or is to be done."""
    counts = Counter(change.action for change in outcome.changes if change.state is State.LIVE)
    words = {Action.CREATE: "create", Action.CHANGE: "change", Action.REMOVE: "remove"}
    if done:
        words = {action: f"{word.removesuffix('e')}ed" for action, word in words.items()}
    said = [f"{counts[action]} {'' if done else 'to '}{word}" for action, word in words.items() if counts[action]]
    states = Counter(change.state for change in outcome.changes)
    said += [
        f"{states[state]} {state.value.replace('_', ' ')}"
        for state in State
        if state is not State.LIVE and states[state]
    ]
    if not said:
        return f"No changes: {_things(outcome.unchanged)} as the files say."
    return f"{', '.join(said)}; {outcome.unchanged} unchanged."


def as_json(outcome: Outcome, *, dry_run: bool, written: bool) -> dict[str, Any]:
    """The same for machines."""
    return {
        "dryRun": dry_run,
        "written": written,
        "changes": [
            {
                "action": change.action.value,
                "kind": change.kind,
                "name": change.name,
                "state": change.state.value,
                "note": change.note,
                "fields": change.differences,
            }
            for change in outcome.changes
        ],
        "unchanged": outcome.unchanged,
        "problems": [_problem(problem) for problem in outcome.problems],
        "warnings": [_problem(problem) for problem in outcome.warnings],
    }


def _problem(problem: Problem) -> dict[str, Any]:
    return {
        "message": problem.message,
        "file": problem.file,
        "line": problem.line,
        "document": problem.document,
        "kind": problem.kind,
        "name": problem.name,
        "field": problem.field,
    }


def _things(number: int) -> str:
    return "1 thing is" if number == 1 else f"{number} things are"


def _differences(change: Change, paint: Paint) -> Iterator[str]:
    if change.action is Action.CHANGE:
        for name, sides in change.differences.items():
            yield from _field(name, sides["before"], sides["after"], paint)
        return
    sign = _SIGNS[change.action]
    spec = change.after if change.before is None else change.before
    for line in _spec_lines(change, spec or {}):
        yield paint(sign, f"    {sign} {line}")


def _spec_lines(change: Change, spec: Spec) -> list[str]:
    said = minimal_spec(exported_kind(change.kind), change.name, spec)
    return _lines(write_yaml({name: arranged(value) for name, value in said.items()})) if said else []


def _field(name: str, before: Any, after: Any, paint: Paint) -> Iterator[str]:
    if _is_short(before) and _is_short(after):
        yield f"    {name}: {paint('-', _short(before))} -> {paint('+', _short(after))}"
        return
    yield f"    {name}:"
    for line in _unified(_as_lines(before), _as_lines(after)):
        yield paint(line[:1], f"      {line}")


def _unified(before: Iterable[str], after: Iterable[str]) -> Iterator[str]:
    """The lines that differ with two around them, without the heads."""
    lines = unified_diff(list(before), list(after), n=2, lineterm="")
    for number, line in enumerate(lines):
        if number > 2:
            yield "..." if line.startswith("@@") else line


def _is_short(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= _SHORT and "\n" not in value
    return not isinstance(value, dict | list) or not value or (isinstance(value, list) and len(_short(value)) <= _SHORT)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_short(item) for item in value)}]"
    if isinstance(value, dict):
        return "{}"
    return shown(write_yaml(value).removesuffix("\n").removesuffix("\n..."))


def _as_lines(value: Any) -> list[str]:
    if value is None:
        return []
    return _lines(value if isinstance(value, str) else write_yaml(arranged(value)))


def _lines(text: str) -> list[str]:
    return [shown(line) for line in text.splitlines()]
