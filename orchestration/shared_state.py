"""The state that a thread's client and its runs share (AG-UI): a JSON value, told by snapshot and by JSON Patch (RFC 6902).

The client's own keys are its own: what a run adds stands under one key, and where that key is taken by something else, or the state
is no object, the run keeps its hands off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from orchestration import events as ev
from tools import json_pointer
from tools.json_values import same_json

PLAN_KEY: Final = "plan"


def patched(document: Any, operations: Sequence[dict[str, Any]]) -> Any:
    """The document after `add`, `replace` and `remove` operations; it is not changed itself.

    Raises LookupError or ValueError when an operation does not fit it.
    """
    for operation in operations:
        tokens = json_pointer.parse(operation["path"])
        document = _changed(document, tokens, operation["op"], operation.get("value"))
    return document


def _changed(document: Any, tokens: tuple[str, ...], operation: str, value: Any) -> Any:
    if not tokens:
        return value
    name, rest = tokens[0], tokens[1:]
    if isinstance(document, dict):
        if rest or operation == "replace":
            json_pointer.find(document, (name,))
        inner = _changed(document[name], rest, operation, value) if rest else value
        changed: Any = {**document, name: inner}
        if not rest and operation == "remove":
            del changed[name]
        return changed
    if not isinstance(document, list):
        raise json_pointer.NothingThereError(name)
    changed = list(document)
    if not rest and operation == "add":
        changed.insert(len(changed) if name == "-" else int(name), value)
    elif not rest and operation == "remove":
        del changed[int(name)]
    else:
        changed[int(name)] = _changed(changed[int(name)], rest, operation, value)
    return changed


@dataclass(slots=True)
class SharedState:
    """The state in one run. `emit` writes an event; `told`: whether readers of the run have had a snapshot; `changed`: whether the
    run has made it another than the thread holds."""

    value: Any
    emit: Callable[[ev.Event], None]
    told: bool = False
    changed: bool = False

    def open(self) -> None:
        """Tell the state with which the run begins; nothing where there is none."""
        if self.value not in (None, {}):
            self._snapshot()

    def plan(self) -> dict[str, Any] | None:
        """The plan that stands in the state, if any."""
        found = self.value.get(PLAN_KEY) if isinstance(self.value, dict) else None
        return found if _is_plan(found) else None

    def show_plan(self, plan: dict[str, Any]) -> None:
        """Put a plan into the state, or bring the one that stands there to this; tells only what is new."""
        if not self._is_ours_to_change():
            return
        before = self.plan()
        if before is not None and same_json(before, plan):
            return
        operations = _differences(before, plan)
        self.value = patched(self.value or {}, operations)
        self.changed = True
        if self.told:
            self.emit(ev.StateDelta(delta=operations))
        else:
            self._snapshot()

    def _is_ours_to_change(self) -> bool:
        if self.value is None:
            return True
        return isinstance(self.value, dict) and (PLAN_KEY not in self.value or _is_plan(self.value[PLAN_KEY]))

    def _snapshot(self) -> None:
        self.told = True
        self.emit(ev.StateSnapshot(snapshot=self.value))


def _is_plan(value: Any) -> bool:
    """Whether a value is a plan as a run has written it, and not something of the application's under the same name."""
    return isinstance(value, dict) and isinstance(value.get("revision"), int) and isinstance(value.get("steps"), list)


def _differences(before: dict[str, Any] | None, after: dict[str, Any]) -> list[dict[str, Any]]:
    """Operations that bring one plan to another: the fields of steps that changed, or all of it where it is another plan."""
    if before is None:
        return [{"op": "add", "path": f"/{PLAN_KEY}", "value": after}]
    if _outline(before) != _outline(after):
        return [{"op": "replace", "path": f"/{PLAN_KEY}", "value": after}]
    found: list[dict[str, Any]] = []
    for index, (old, new) in enumerate(zip(before["steps"], after["steps"], strict=True)):
        at = f"/{PLAN_KEY}/steps/{index}"
        found += [{"op": "remove", "path": f"{at}/{name}"} for name in old if name not in new]
        found += [
            {"op": "replace" if name in old else "add", "path": f"{at}/{name}", "value": value}
            for name, value in new.items()
            if name not in old or not same_json(old[name], value)
        ]
    return found


def _outline(plan: dict[str, Any]) -> Any:
    """What makes a plan that plan: everything but how its steps stand."""
    steps = [step.get("id") if isinstance(step, dict) else None for step in plan["steps"]]
    return {name: value for name, value in plan.items() if name != "steps"}, steps
