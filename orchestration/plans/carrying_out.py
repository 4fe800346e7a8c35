"""Carrying out plans: each step through the one door as soon as what it needs is there, independent steps side by side."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import orjson

from orchestration.capabilities import Capabilities
from orchestration.interrupts import Question
from orchestration.plans.in_messages import (
    PlanCall,
    StepPlace,
    earlier_plans,
    find_plan_call,
    has_begun,
    plan_of,
    step_results,
    values_of,
)
from orchestration.plans.progress import PlanProgress
from orchestration.plans.reading import InvalidPlanError, Plan, PlanStep, Surroundings, read_begun_plan, read_plan
from orchestration.plans.references import UnresolvableError, resolved
from orchestration.run_record import RunRecord
from tools.calls import ToolCall, ToolOutcome, ToolResult
from tools.door import MAX_ARGUMENT_BYTES

MAX_SIDE_BY_SIDE: Final = 5
_PASSED_OVER = "The user said something else instead of deciding about the plan's open question."


class StepCaller(Protocol):
    """Makes a step's call: its result as a message, or the question whether it may be made."""

    async def __call__(
        self, call: ToolCall, capabilities: Capabilities, *, place: StepPlace
    ) -> dict[str, Any] | Question:
        """Make the call; `place` is where it stands in the conversation."""
        ...


@dataclass(slots=True)
class PlanCalls:
    """The plans of one run."""

    record: RunRecord
    make_call: StepCaller
    _under_way: dict[str, PlanProgress] = field(default_factory=dict)

    async def carry_out(self, call: ToolCall, capabilities: Capabilities) -> ToolResult | list[Question]:
        """Check the plan and run what of it has not run yet: what came of it, or what a person must decide before it goes on."""
        messages = self.record.conversation.all()
        found = find_plan_call(messages, call.id)
        if found is None:
            raise LookupError(f"no message holds the plan {call.id}")
        try:
            progress = self._begun(found, capabilities)
        except InvalidPlanError as error:
            return _invalid(error)
        self._under_way[call.id] = progress
        self._show(progress)
        if self._is_passed_over(found):
            progress.stop(_PASSED_OVER)
            self._show(progress)
        elif questions := await self._run(found, progress, capabilities):
            return questions
        del self._under_way[call.id]
        return ToolResult(ToolOutcome.OK, progress.report(capabilities.side_effects, self.record.limits_left()))

    def left_open(self) -> list[ToolCall]:
        """Plans that waited for what this run's decisions decide."""
        conversation = self.record.conversation
        decided = {decision.call.id for decision in self.record.task.decisions}
        waited = {
            plan_of(message)
            for message in conversation.all()
            for call in message.get("toolCalls", ())
            if call["id"] in decided
        }
        unanswered = {call["id"] for call in conversation.unanswered()}
        found = (find_plan_call(conversation.all(), plan) for plan in sorted(waited & unanswered))
        return [plan.call for plan in found if plan is not None]

    def stopped(self, call_id: str) -> str | None:
        """What is told of a plan that the run's end has stopped, in its shared state too; None when nothing of it has begun."""
        progress = self._under_way.pop(call_id, None)
        messages = self.record.conversation.all()
        found = find_plan_call(messages, call_id)
        if progress is None and found is not None and has_begun(messages, call_id):
            progress = self._progress(found, read_begun_plan(found.call.arguments))
        if progress is None:
            return None
        for step, message in step_results(messages, call_id).items():
            progress.settle(step, message)
        progress.stop()
        self._show(progress)
        return progress.report({})

    def _begun(self, found: PlanCall, capabilities: Capabilities) -> PlanProgress:
        """The plan with what is known of its steps. It is checked before anything of it runs."""
        messages = self.record.conversation.all()
        if has_begun(messages, found.call.id):
            return self._progress(found, read_begun_plan(found.call.arguments))
        surroundings = Surroundings(capabilities.plannable, capabilities.frontend, self._earlier(found.call.id).keys())
        return self._progress(found, read_plan(found.call.arguments, surroundings))

    def _progress(self, found: PlanCall, plan: Plan) -> PlanProgress:
        messages = self.record.conversation.all()
        progress = PlanProgress(plan, revision=len(earlier_plans(messages, found.call.id)) + 1)
        for step, message in step_results(messages, found.call.id).items():
            progress.settle(step, message)
        return progress

    def _is_passed_over(self, found: PlanCall) -> bool:
        """Whether the user went on with something else while the plan of an earlier run waited for an answer."""
        is_earlier = any(message["id"] == found.message_id for message in self.record.conversation.known)
        return is_earlier and not self.record.task.run_input.resume

    async def _run(self, found: PlanCall, progress: PlanProgress, capabilities: Capabilities) -> list[Question]:
        asked: dict[str, Question] = {}

        async def one(step: PlanStep) -> None:
            await self._step(found, step, progress, capabilities, asked)
            begin_ready()

        def begin_ready() -> None:
            for step in list(progress.take_ready(MAX_SIDE_BY_SIDE)):
                group.create_task(one(step))
            self._show(progress)

        try:
            async with asyncio.TaskGroup() as group:
                begin_ready()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        return [asked[step.id] for step in progress.plan.steps if step.id in asked]

    async def _step(
        self,
        found: PlanCall,
        step: PlanStep,
        progress: PlanProgress,
        capabilities: Capabilities,
        asked: dict[str, Question],
    ) -> None:
        try:
            arguments = self._arguments(found, step)
        except UnresolvableError as error:
            progress.fail(step.id, str(error))
            return
        call = ToolCall(found.step_call_id(step.id), step.tool, arguments)
        outcome = await self.make_call(call, capabilities, place=found.place(step.id))
        if isinstance(outcome, Question):
            asked[step.id] = outcome
            progress.wait(step.id)
            return
        self.record.conversation.add(outcome)
        progress.settle(step.id, outcome)

    def _arguments(self, found: PlanCall, step: PlanStep) -> str:
        """The step's arguments with the values that they refer to, as JSON; raises UnresolvableError."""
        own = values_of(step_results(self.record.conversation.all(), found.call.id))
        try:
            text = orjson.dumps(resolved(step.arguments, self._earlier(found.call.id) | own)).decode()
        except (orjson.JSONEncodeError, KeyError) as error:
            raise UnresolvableError("Its arguments cannot be written with the results that they refer to.") from error
        if len(text) > MAX_ARGUMENT_BYTES:
            raise UnresolvableError(
                f"With the results that they refer to its arguments are longer than {MAX_ARGUMENT_BYTES} bytes."
            )
        return text

    def _earlier(self, call_id: str) -> dict[str, Any]:
        """Values of the finished steps of earlier plans for the same question; of the same id the latest."""
        messages = self.record.conversation.all()
        values: dict[str, Any] = {}
        for plan in earlier_plans(messages, call_id):
            values |= values_of(step_results(messages, plan))
        return values

    def _show(self, progress: PlanProgress) -> None:
        self.record.shared_state.show_plan(progress.document())


def _invalid(error: InvalidPlanError) -> ToolResult:
    """The result of a plan that cannot be carried out."""
    told = "; ".join(f"{problem.at or 'the plan'}: {problem.text}" for problem in error.problems)
    message = f"The plan cannot be carried out, and nothing of it was. {told}"
    places = [{"at": problem.at, "problem": problem.text} for problem in error.problems]
    return ToolResult(
        ToolOutcome.INVALID_ARGUMENTS, message, error=message, retryable=True, details={"problems": places}
    )
