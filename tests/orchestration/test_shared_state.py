"""The shared state: the client's keys are its own, and what is told by patches is what the state becomes."""

from __future__ import annotations

from typing import Any

import pytest

from orchestration import events as ev
from orchestration.shared_state import SharedState, patched


def plan(*statuses: str, revision: int = 1) -> dict[str, Any]:
    steps = [{"id": f"s{n}", "tool": "t", "status": status} for n, status in enumerate(statuses)]
    return {"goal": "g", "revision": revision, "steps": steps}


def folded(told: list[ev.Event], value: Any = None) -> Any:
    """The state of a client that was told this."""
    for event in told:
        assert isinstance(event, ev.StateSnapshot | ev.StateDelta)
        value = event.snapshot if isinstance(event, ev.StateSnapshot) else patched(value, event.delta)
    return value


def test_a_plan_is_told_by_a_snapshot_and_then_by_what_changes() -> None:
    told: list[ev.Event] = []
    state = SharedState({"theme": "dark"}, told.append)
    state.show_plan(plan("running", "pending"))
    state.show_plan(plan("done", "running"))
    state.show_plan(plan("done", "running"))
    failed = plan("done", "failed")
    failed["steps"][1]["error"] = "It broke."
    state.show_plan(failed)
    assert [type(event) for event in told] == [ev.StateSnapshot, ev.StateDelta, ev.StateDelta]
    assert isinstance(told[1], ev.StateDelta)
    assert [operation["path"] for operation in told[1].delta] == ["/plan/steps/0/status", "/plan/steps/1/status"]
    assert folded(told) == state.value == {"theme": "dark", "plan": failed}
    state.show_plan(plan("pending", revision=2))
    assert folded(told) == state.value == {"theme": "dark", "plan": plan("pending", revision=2)}
    assert state.changed


@pytest.mark.parametrize("taken", [{"plan": "gold"}, {"plan": {"steps": 3}}, ["a", "list"], "a text", 7])
def test_a_state_that_is_the_applications_own_is_left_alone(taken: Any) -> None:
    told: list[ev.Event] = []
    state = SharedState(taken, told.append)
    state.show_plan(plan("running"))
    assert (state.value, told, state.changed) == (taken, [], False)


PATCHES = [
    ({"a": 1}, [{"op": "add", "path": "/b", "value": [1]}, {"op": "add", "path": "/b/-", "value": 2}], {"a": 1, "b": [1, 2]}),
    ({"a": [1, 2, 3]}, [{"op": "remove", "path": "/a/1"}, {"op": "replace", "path": "/a/0", "value": 9}], {"a": [9, 3]}),
    ({"a/b": {"~": 1}}, [{"op": "replace", "path": "/a~1b/~0", "value": 2}], {"a/b": {"~": 2}}),
    ({"a": 1}, [{"op": "replace", "path": "", "value": None}], None),
    ({"a": 1, "b": 2}, [{"op": "remove", "path": "/a"}], {"b": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("document", "operations", "expected"), PATCHES)
def test_patches_are_applied_as_rfc_6902_says(document: Any, operations: list[dict[str, Any]], expected: Any) -> None:
    assert patched(document, operations) == expected


@pytest.mark.parametrize("path", ["/missing/x", "/a/5", "/n/x"])
def test_a_patch_that_does_not_fit_is_refused(path: str) -> None:
    with pytest.raises((LookupError, ValueError)):
        patched({"a": [], "n": 1}, [{"op": "replace", "path": path, "value": 1}])
