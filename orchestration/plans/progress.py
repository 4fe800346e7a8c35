"""How far a plan is: what clients see of it in the shared state, and what the model is told in the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import orjson

from orchestration.failure_report import told_to_the_model
from orchestration.plans.reading import Plan, PlanStep
from orchestration.plans.references import value_of
from tools.calls import FailureKind, SideEffects

MAX_RESULTS_LENGTH: Final = 48 * 1024
MAX_REASON_LENGTH: Final = 500
_STOPPED = "The run was stopped before this step was made."


class StepStatus(StrEnum):
    """Where a step of a plan stands."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


_UNFULFILLED = frozenset({StepStatus.FAILED, StepStatus.SKIPPED})
_ENDED = _UNFULFILLED | {StepStatus.DONE}


@dataclass(slots=True)
class _Standing:
    """One step: its status, its result as a message where a call was made, and why it was not done where it was not."""

    status: StepStatus = StepStatus.PENDING
    message: dict[str, Any] | None = None
    reason: str = ""


@dataclass(slots=True)
class PlanProgress:
    """A plan that is being carried out, in its `revision` (1 for the first plan for a question)."""

    plan: Plan
    revision: int = 1
    _steps: dict[str, _Standing] = field(init=False)

    def __post_init__(self) -> None:
        self._steps = {step.id: _Standing() for step in self.plan.steps}

    def take_ready(self, at_most: int) -> Iterator[PlanStep]:
        """The steps that can begin now, in the plan's order, now taken for running; no more than `at_most` run at a time.

        Steps that cannot be made any more are skipped.
        """
        self._skip_hopeless()
        room = at_most - sum(standing.status is StepStatus.RUNNING for standing in self._steps.values())
        for step in self.plan.steps:
            if room <= 0:
                return
            if self._is(step.id, StepStatus.PENDING) and all(self._is(need, StepStatus.DONE) for need in step.needs):
                self._steps[step.id].status = StepStatus.RUNNING
                room -= 1
                yield step

    def settle(self, step_id: str, message: dict[str, Any]) -> None:
        """The step's call was made, and this is its result."""
        standing = self._steps[step_id]
        standing.message = message
        standing.status = StepStatus.FAILED if message.get("error") else StepStatus.DONE
        standing.reason = str(message["content"]) if message.get("error") else ""

    def fail(self, step_id: str, reason: str) -> None:
        """The step's call could not be made."""
        self._steps[step_id].status, self._steps[step_id].reason = StepStatus.FAILED, reason

    def wait(self, step_id: str) -> None:
        """A person must decide about the step's call."""
        self._steps[step_id].status = StepStatus.WAITING

    def stop(self, reason: str = _STOPPED) -> None:
        """Skip what has not ended."""
        for standing in self._steps.values():
            if standing.status not in _ENDED:
                standing.status, standing.reason = StepStatus.SKIPPED, reason

    def document(self) -> dict[str, Any]:
        """The plan as the shared state shows it."""
        shown = []
        for step in self.plan.steps:
            standing = self._steps[step.id]
            one = {"id": step.id, "tool": step.tool, "status": standing.status.value}
            if step.purpose:
                one["purpose"] = step.purpose
            if standing.reason and standing.status in _UNFULFILLED:
                one["error"] = _cut(standing.reason, MAX_REASON_LENGTH)
            shown.append(one)
        return {"goal": self.plan.goal, "revision": self.revision, "steps": shown}

    def report(self, side_effects: Mapping[str, SideEffects], limits_left: dict[str, Any] | None = None) -> str:
        """What the model is told of the whole, as JSON; long results are cut to their share. `limits_left`: what the run may still
        use, told where something is left to do."""
        done = sum(standing.status is StepStatus.DONE for standing in self._steps.values())
        share = MAX_RESULTS_LENGTH // max(1, done)
        steps = [self._told(step, share, side_effects) for step in self.plan.steps]
        whole: dict[str, Any] = {
            "plan": "done" if done == len(steps) else "not all done",
            "revision": self.revision,
            "steps": steps,
        }
        if done < len(steps) or any("took_effect" in step for step in steps):
            whole["note"] = (
                "Steps that are done stay done: do not make their calls again. A new plan may refer to their results by their ids."
            )
        if done < len(steps) and limits_left:
            whole["limits_left"] = limits_left
        return orjson.dumps(whole).decode()

    def _told(self, step: PlanStep, share: int, side_effects: Mapping[str, SideEffects]) -> dict[str, Any]:
        standing = self._steps[step.id]
        told: dict[str, Any] = {"id": step.id, "tool": step.tool, "status": standing.status.value}
        if standing.status is StepStatus.DONE and standing.message is not None:
            content = str(standing.message["content"])
            told["result"] = value_of(content) if len(content) <= share else content[:share]
            if len(content) > share:
                told["cut"] = True
            if side_effects.get(step.tool, SideEffects.UNSAFE) is not SideEffects.IDEMPOTENT:
                told["took_effect"] = True
        elif standing.status is StepStatus.FAILED:
            report = told_to_the_model(standing.message) if standing.message is not None else None
            kind = FailureKind.BAD_ARGUMENTS if standing.message is None else FailureKind.UNAVAILABLE
            told["error"] = report["error"] if report else {"kind": kind.value, "message": standing.reason}
        elif standing.reason:
            told["because"] = standing.reason
        return told

    def _skip_hopeless(self) -> None:
        """Skip what waits for a step that failed or was skipped, and what waits for that in turn."""
        found = True
        while found:
            found = False
            for step in self.plan.steps:
                missing = sorted(need for need in step.needs if self._steps[need].status in _UNFULFILLED)
                if missing and self._is(step.id, StepStatus.PENDING):
                    self._steps[step.id].status = StepStatus.SKIPPED
                    self._steps[step.id].reason = f"It needs {', '.join(missing)}, which did not succeed."
                    found = True

    def _is(self, step_id: str, status: StepStatus) -> bool:
        return self._steps[step_id].status is status


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + "..."
