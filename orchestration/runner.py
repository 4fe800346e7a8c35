"""The runner: think, act, record, until the model answers, a limit is reached, or the run is cancelled.

One task runs one run, outside any request. Everything it does goes through the run's journal; a tool call waits until its intent
is committed, tokens wait for nothing of their own. Whatever happens, the run ends in one terminal event.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from opentelemetry import trace

from agentbackend.foundation import metrics
from agentbackend.foundation.identifiers import uuid7
from agentbackend.foundation.problems import PROBLEMS, Problem
from agentbackend.foundation.writer import LeaseLostError, UnitRejectedError, WriterStoppedError
from audit import actions
from audit.entry import AuditEntry, Outcome, Target, entry
from orchestration import events as ev
from orchestration import history
from orchestration.interrupts import Question, QuestionKind, ask_about
from orchestration.journal import RunJournal
from orchestration.lease import Lease
from orchestration.model_port import ModelError, ModelPort, ModelRequest, Usage
from orchestration.model_turn import ModelTurn, StreamedTurn
from orchestration.resuming import MODEL_TURN_STEP, RECOVERED_EVENT, ResumePoint
from orchestration.run_task import Conversation, RunCancelledError, RunLimits, RunReleasedError, RunTask, Totals
from tools.calls import CallContext, SideEffects, ToolCall, ToolDefinition, ToolOutcome, ToolResult
from tools.door import call_tool
from tools.registry import offered_tools

logger = logging.getLogger(__name__)
tracer = trace.get_tracer("orchestration")

_STOPPED_TEXT = (
    "I stopped here: this took {turns} steps, which is as many as one answer may take. Ask me to go on if that helps."
)


@dataclass(slots=True)
class Runner:
    """Carries out one run. `execute` returns when the run's terminal event is committed, or raises when the lease is gone."""

    task: RunTask
    journal: RunJournal
    lease: Lease
    model_port: ModelPort
    limits: RunLimits
    stop_reason: BaseException | None = None
    _totals: Totals = field(init=False)
    _step_number: int = 0
    _open_steps: dict[UUID, dict[str, Any]] = field(default_factory=dict)
    _results: dict[str, dict[str, Any]] = field(default_factory=dict)
    _conversation: Conversation = field(init=False)

    def __post_init__(self) -> None:
        point = self.task.resume
        self._totals = Totals.at(point)
        self._conversation = Conversation.of(self.task)
        self._step_number = point.last_step_number if point else 0

    async def execute(self) -> None:
        """Run to the end. Raises LeaseLostError, WriterStoppedError or RunReleasedError when the run is no longer ours."""
        try:
            if self.stop_reason is not None:  # asked for before this process had taken it up
                raise asyncio.CancelledError
            async with asyncio.timeout(self.limits.max_seconds):
                await self._answer()
        except (LeaseLostError, WriterStoppedError, RunReleasedError):
            raise
        except UnitRejectedError:
            self.journal.discard_rejected()
            await self._fail("internal_error", "The run could not be recorded.")
        except TimeoutError:
            await self._fail("run_timeout", f"The run took longer than {self.limits.max_seconds:g} seconds.")
        except ModelError as error:
            await self._fail(error.code, error.message)
        except Problem as problem:
            await self._fail(problem.code, problem.detail)
        except asyncio.CancelledError:
            await self._stopped()
        except Exception:
            logger.exception("a run failed")
            await self._fail("internal_error", "The run failed for a reason inside the service.")

    async def _stopped(self) -> None:
        """The task was cancelled: by a cancellation of the run, or because this process gives the run away."""
        if not isinstance(self.stop_reason, RunCancelledError):
            raise self.stop_reason or RunReleasedError("the run's task was cancelled")
        if self.journal.open_items.ended:  # it came too late: the end is on its way to the log
            await self.journal.flush()
            return
        self._open_once()
        self._settle_calls()
        self._close_open_items("cancelled")
        await self._finish("cancelled", {"type": "cancelled"}, actions.RUN_CANCELLED)

    # --- the loop

    async def _answer(self) -> None:
        self._open_once()
        if not self.task.awaits_answer:
            await self._finish("finished", {"type": "success"}, actions.RUN_FINISHED)
            return
        plan = self._turn_plan(await offered_tools(self.task.actor, self.task.agent.tools))
        questions = await self._carry_out_decisions(plan)
        if questions:
            await self._finish_interrupted(questions)
            return
        if pending := self._left_to_the_client(plan):
            await self._finish_pending(pending)
            return
        turn = self.task.resume.turn if self.task.resume else None
        if turn is not None:
            self._check_finish(turn)
        while turn is not None or self._totals.turns < self.limits.max_iterations:
            turn = turn or await self._think(plan)
            if not turn.tool_calls:
                await self._finish_answered(turn)
                return
            pending, questions = await self._act(turn, plan)
            if questions:
                await self._finish_interrupted(questions)
                return
            if pending:
                await self._finish_pending(pending)
                return
            turn = None
        await self._finish_stopped()

    def _open_once(self) -> None:
        """Open the run's stream, or go on where a predecessor left it."""
        if self.journal.open_items.started:
            return
        point = self.task.resume
        if point is None or not point.log.open_items.started:
            self._open()
        else:
            self._reopen(point)

    def _open(self) -> None:
        given = self.task.run_input
        self.journal.emit(
            ev.RunStarted(
                thread_id=given.thread_id,
                run_id=given.run_id,
                protocol_version=ev.PROTOCOL_VERSION,
                parent_run_id=given.parent_run_id or ev.UNSET,
            )
        )
        if not self.task.client_agrees:
            self.journal.emit(ev.MessagesSnapshot(messages=self._conversation.all()))
        state = given.state if given.state not in (None, {}) else self.task.thread_state
        if state not in (None, {}):
            self.journal.emit(ev.StateSnapshot(snapshot=state))

    def _reopen(self, point: ResumePoint) -> None:
        """Say that the run goes on elsewhere, which messages are void, close what was open, and restate what holds."""
        self.journal.open_items = point.log.open_items
        value = {"attempt": point.attempt, "discarded": point.discarded}
        self.journal.emit(ev.Custom(name=RECOVERED_EVENT, value=value))
        for step in point.open_steps:
            self.journal.step_ended(step.id, status="interrupted", detail=step.detail, at=datetime.now(UTC))
        for event in self.journal.open_items.closing_events():
            self.journal.emit(event)
        restated = [*self._conversation.all(), *point.restated_reasoning()]
        self.journal.emit(ev.MessagesSnapshot(messages=restated))
        self.journal.audit(self._entry(actions.RUN_RECOVERED, details=value))

    def _turn_plan(self, backend_tools: Sequence[ToolDefinition]) -> _TurnPlan:
        backend = {tool.name: tool for tool in backend_tools}
        frontend = [tool for tool in self.task.run_input.tools if tool.name not in backend]
        wire = [_wire_tool(tool.name, tool.description, tool.input_schema) for tool in backend_tools]
        wire += [_wire_tool(tool.name, tool.description, tool.parameters) for tool in frontend]
        system = history.system_prompt(self.task.agent.instructions, self.task.run_input.context)
        side_effects = {tool.name: tool.side_effects for tool in backend_tools}
        return _TurnPlan(system, wire, frozenset(tool.name for tool in frontend), side_effects)

    # --- think

    async def _think(self, plan: _TurnPlan) -> StreamedTurn:
        self._totals.turns += 1
        number = self._totals.turns
        step_name = f"{MODEL_TURN_STEP}{number}"
        step_id = self._start_step("model_turn", step_name, {"model": self.task.model})
        started = datetime.now(UTC)
        with tracer.start_as_current_span("model turn", attributes={"gen_ai.request.model": self.task.model}):
            turn = await self._stream_turn(plan, step_id, step_name)
        self._totals.add(turn.usage)
        _count_tokens(turn.usage)
        self._conversation.add(*turn.messages())
        self._end_step(step_id, step_name, "finished", turn.journal_detail())
        withheld = "model_content_filter" if turn.finish_reason == "content_filter" else ""
        self.journal.audit(
            self._entry(
                actions.MODEL_TURN,
                outcome=Outcome.FAILURE if withheld else Outcome.SUCCESS,
                reason=withheld,
                details=_turn_details(turn, self.task.model, started),
            )
        )
        metrics.model_turns.labels(outcome=withheld or "ok").inc()
        self._check_finish(turn)
        return turn

    async def _stream_turn(self, plan: _TurnPlan, step_id: UUID, step_name: str) -> StreamedTurn:
        try:
            return await self._stream_once(plan, with_media=True)
        except ModelError as error:
            if error.code == "model_refused" and history.has_media(self._conversation.all()):
                logger.info("the model refused the request; trying again without media")
                return await self._stream_once(plan, with_media=False)
            self._end_step(step_id, step_name, "failed", {"error": error.code})
            metrics.model_turns.labels(outcome=error.code).inc()
            details = {"model": self.task.model, "code": error.code}
            self.journal.audit(
                self._entry(actions.MODEL_TURN, outcome=Outcome.FAILURE, reason=error.code, details=details)
            )
            raise

    async def _stream_once(self, plan: _TurnPlan, *, with_media: bool) -> StreamedTurn:
        shown = history.trim(self._conversation.all(), self.task.agent.history_token_budget)
        request = ModelRequest(
            model=self.task.model,
            messages=history.to_model(shown, system=plan.system, with_media=with_media),
            tools=plan.tools,
            temperature=self.task.agent.temperature,
            max_output_tokens=self.task.agent.max_output_tokens,
        )
        void = self.task.resume.discarded if self.task.resume else ()
        turn = ModelTurn(self.journal, taken_call_ids=self._conversation.call_ids().union(void))
        await self.lease.ensure()
        asked_at = time.monotonic()
        try:
            async with self.model_port.stream(request) as batches:
                async for batch in batches:
                    if asked_at:
                        metrics.first_token_seconds.observe(time.monotonic() - asked_at)
                        asked_at = 0.0
                    turn.take(batch)
                    if self.journal.bytes > self.limits.max_bytes:
                        raise Problem("run_too_large", f"The run wrote more than {self.limits.max_bytes} bytes.")
                    await self.journal.room()
        finally:
            streamed = turn.close()
            if not turn.finished:
                self._keep_partial_text(streamed)
        return streamed

    def _keep_partial_text(self, turn: StreamedTurn) -> None:
        """What a broken turn has shown stays in the thread; calls that were not complete do not."""
        if turn.text:
            self._conversation.add({"id": turn.message_id, "role": "assistant", "content": turn.text})

    def _check_finish(self, turn: StreamedTurn) -> None:
        if turn.finish_reason == "content_filter":
            raise Problem("model_content_filter", "The model's provider withheld the answer.")
        if not turn.text and not turn.tool_calls and not turn.trailing_text:
            raise Problem("model_invalid_response", "The model gave an empty answer.")

    # --- act

    async def _carry_out_decisions(self, plan: _TurnPlan) -> list[Question]:
        """What was decided about calls that earlier runs had asked about; returns what must be asked again."""
        if not self.task.decisions:
            return []
        open_ids = self._conversation.call_ids()
        decided = [decision for decision in self.task.decisions if decision.call.id in open_ids]
        known = self.task.resume.calls if self.task.resume else {}
        left = [d for d in decided if d.call.id not in known or known[d.call.id].message is None]
        return await self._side_by_side(
            [self._call(d.call, plan, instead=d.declined, approved=d.approved) for d in left]
        )

    def _left_to_the_client(self, plan: _TurnPlan) -> list[str]:
        """Calls of the client's tools that stood beside a question: the question ended that run, so now it is their turn."""
        if not self.task.decisions:
            return []
        return [call["id"] for call in self._conversation.unanswered() if call["function"]["name"] in plan.frontend]

    async def _act(self, turn: StreamedTurn, plan: _TurnPlan) -> tuple[list[str], list[Question]]:
        """Call the turn's tools side by side; returns the ids of the calls that are the client's to make, and what must be asked."""
        pending = [call.id for call in turn.tool_calls if call.name in plan.frontend]
        ours = [call for call in turn.tool_calls if call.name not in plan.frontend]
        cut_off = turn.tool_calls[-1] if turn.finish_reason == "length" else None
        questions = await self._side_by_side(
            [self._call(call, plan, instead=_CUT_OFF if call is cut_off else None) for call in ours]
        )
        self._conversation.add(*turn.trailing_message())
        return pending, questions

    async def _side_by_side(self, calls: Sequence[Coroutine[Any, Any, dict[str, Any] | Question]]) -> list[Question]:
        """Make the calls at once; their results enter the conversation in the calls' order."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(call) for call in calls]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        results = [task.result() for task in tasks]
        self._conversation.add(*(result for result in results if not isinstance(result, Question)))
        return [result for result in results if isinstance(result, Question)]

    async def _call(
        self, call: ToolCall, plan: _TurnPlan, *, instead: ToolResult | None = None, approved: bool = False
    ) -> dict[str, Any] | Question:
        """One call: its result as a message, or the question whether it may be made. `instead`: it is not made, and this is told;
        `approved`: a person has said yes to it."""
        known = self.task.resume.calls.get(call.id) if self.task.resume else None
        if known is not None and known.message is not None:
            self._results[call.id] = known.message
            return known.message
        now_said = plan.side_effects.get(call.name)
        if known is not None and known.may_have_happened and SideEffects.UNSAFE in (known.side_effects, now_said):
            return ask_about(call, QuestionKind.REPEAT)
        step = _CallStep(self, call, now_said or SideEffects.UNSAFE)
        result = instead or await self._through_the_door(call, step, approved=approved)
        if result.outcome is ToolOutcome.NEEDS_APPROVAL:
            step.wait_for_a_person()
            return ask_about(call, QuestionKind.APPROVAL)
        return step.end(result)

    async def _through_the_door(self, call: ToolCall, recorder: _CallStep, *, approved: bool) -> ToolResult:
        context = CallContext(
            actor=self.task.actor,
            recorder=recorder,
            allowed_tools=self.task.agent.tools,
            run_id=self.task.id,
            thread_id=self.task.thread_id,
            request_id=self.task.request_id,
            trace_id=self.task.trace_id,
            approved=approved,
        )
        with tracer.start_as_current_span("tool call", attributes={"gen_ai.tool.name": call.name[:64]}):
            return await call_tool(call, context)

    # --- the end

    async def _finish_answered(self, turn: StreamedTurn) -> None:
        result = {"finishReason": "length"} if turn.finish_reason == "length" else None
        await self._finish("finished", {"type": "success"}, actions.RUN_FINISHED, result=result)

    async def _finish_pending(self, pending: list[str]) -> None:
        outcome = {"type": "success", "pendingToolCallIds": pending}
        await self._finish("finished", outcome, actions.RUN_FINISHED)

    async def _finish_interrupted(self, questions: Sequence[Question]) -> None:
        """A person must decide: the run ends, and the thread's next run brings the answers."""
        self.journal.interrupted(self.task.thread_id, questions)
        outcome = {"type": "interrupt", "interrupts": [question.as_interrupt() for question in questions]}
        await self._finish("interrupted", outcome, actions.RUN_INTERRUPTED)

    async def _finish_stopped(self) -> None:
        """The limit of model turns: say so, as a message, so that every client shows it."""
        text = _STOPPED_TEXT.format(turns=self._totals.turns)
        message_id = str(uuid7())
        self.journal.emit(ev.TextMessageStart(message_id=message_id, role="assistant"))
        self.journal.emit_delta(ev.TextMessageContent(message_id=message_id, delta=text))
        self.journal.emit(ev.TextMessageEnd(message_id=message_id))
        self._conversation.add({"id": message_id, "role": "assistant", "content": text})
        result = {"stopped": "max_iterations", "iterations": self._totals.turns}
        await self._finish(
            "finished", {"type": "success"}, actions.RUN_FINISHED, result=result, reason="max_iterations"
        )

    async def _finish(
        self,
        status: str,
        outcome: dict[str, Any],
        action: str,
        *,
        result: dict[str, Any] | None = None,
        reason: str = "",
    ) -> None:
        given = self.task.run_input
        self.journal.emit(
            ev.RunFinished(
                thread_id=given.thread_id,
                run_id=given.run_id,
                outcome=outcome,
                result=ev.UNSET if result is None else result,
                usage=self._totals.as_usage(self.task.model),
            )
        )
        self._end_rows(status, outcome)
        self.journal.audit(
            self._entry(action, reason=reason, details={"turns": self._totals.turns, "outcome": outcome["type"]})
        )
        await self.journal.flush()

    async def _fail(self, code: str, message: str) -> None:
        """End the run with an error that the user sees; raises what the journal raises when the run is no longer ours."""
        if self.journal.open_items.ended:  # the time ran out while the end was being written
            await self.journal.flush()
            return
        self._settle_calls()
        self._close_open_items("failed")
        self.journal.emit(ev.RunError(message=message, code=code, usage=self._totals.as_usage(self.task.model)))
        self._end_rows("failed", None, code, message)
        self.journal.audit(self._entry(actions.RUN_FAILED, outcome=Outcome.FAILURE, reason=code))
        self.journal.audit(
            self._entry(actions.ERROR_SHOWN, outcome=Outcome.FAILURE, reason=code, details={"message": message})
        )
        await self.journal.flush()
        logger.warning("a run failed", extra={"code": code, "acts_next": PROBLEMS[code].acts_next.value})

    def _settle_calls(self) -> None:
        """Give each call of ours that has no result one, so that the thread's next run knows what may have happened."""
        begun = {detail["toolCallId"]: detail for detail in self._open_steps.values() if "toolCallId" in detail}
        for call in self._conversation.unanswered():
            message = self._results.get(call["id"])
            if message is None and call["id"] in begun:
                content = _MAY_HAVE_HAPPENED if begun[call["id"]].get("permitted") else _NOT_MADE
                message = {"id": str(uuid7()), "role": "tool", "toolCallId": call["id"], "content": content}
                self.journal.emit(
                    ev.ToolCallResult(message_id=message["id"], tool_call_id=call["id"], content=content, role="tool")
                )
            if message is not None:
                self._conversation.add(message)

    def _close_open_items(self, status: str) -> None:
        for event in self.journal.open_items.closing_events():
            self.journal.emit(event)
        for step_id, detail in self._open_steps.items():
            self.journal.step_ended(step_id, status=status, detail=detail, at=datetime.now(UTC))
        self._open_steps.clear()

    def _end_rows(self, status: str, outcome: dict[str, Any] | None, code: str = "", message: str = "") -> None:
        now = datetime.now(UTC)
        metrics.runs_ended.labels(status=status).inc()
        tokens = sum(history.estimate_tokens(added) for added in self._conversation.added)
        self.journal.turn_ended(
            response=self._conversation.response, messages=self._conversation.added, token_estimate=tokens, at=now
        )
        self.journal.run_ended(
            {
                "status": status,
                "outcome": None if outcome is None else ev.as_json(outcome),
                "error_code": code,
                "error_message": message,
                "model": self.task.model,
                "model_turns": self._totals.turns,
                "input_tokens": self._totals.input_tokens,
                "output_tokens": self._totals.output_tokens,
                "last_seq": self.journal.last_seq,
                "event_bytes": self.journal.bytes,
                "finished_at": now,
                "lease_expires_at": None,
            }
        )

    # --- steps and audit

    def _start_step(self, kind: str, name: str, detail: dict[str, Any]) -> UUID:
        self._step_number += 1
        self.journal.emit(ev.StepStarted(step_name=name))
        step_id = self.journal.step_started(number=self._step_number, kind=kind, name=name, detail=detail)
        self._open_steps[step_id] = detail
        return step_id

    def _end_step(self, step_id: UUID, name: str, status: str, detail: dict[str, Any]) -> None:
        self._open_steps.pop(step_id, None)
        self.journal.emit(ev.StepFinished(step_name=name))
        self.journal.step_ended(step_id, status=status, detail=detail, at=datetime.now(UTC))

    def _entry(
        self,
        action: str,
        *,
        outcome: Outcome = Outcome.SUCCESS,
        reason: str = "",
        details: dict[str, Any] | None = None,
    ) -> AuditEntry:
        return entry(
            action,
            actor=self.task.actor,
            outcome=outcome,
            target=Target("run", str(self.task.id)),
            reason=reason,
            run_id=self.task.id,
            thread_id=self.task.thread_id,
            request_id=self.task.request_id,
            trace_id=self.task.trace_id,
            details=details,
        )


@dataclass(frozen=True, slots=True)
class _TurnPlan:
    """What is the same in each model turn of a run: the system prompt and the tools, ours first."""

    system: str
    tools: list[dict[str, Any]]
    frontend: frozenset[str]
    side_effects: dict[str, SideEffects]


class _CallStep:
    """A tool call as a step, and the recorder of the tools' door: the step enters the journal with the door's decision.

    So a step that has begun tells whether the call was permitted, and a call without a step was never made.
    """

    def __init__(self, runner: Runner, call: ToolCall, side_effects: SideEffects) -> None:
        self._runner = runner
        self._call = call
        self._side_effects = side_effects
        self._name = f"tool call {call.name} {call.id}"
        self._id: UUID | None = None
        self._detail: dict[str, Any] = {"toolCallId": call.id, "name": call.name, "arguments": call.arguments}

    async def record(self, audit_entry: AuditEntry) -> None:
        """Returns once the entry is committed under the run's fence and the lease holds."""
        self._begin(permitted=audit_entry.action == actions.TOOL_ALLOWED)
        await self._runner.journal.record(audit_entry)
        await self._runner.lease.ensure()

    def note(self, audit_entry: AuditEntry) -> None:
        """Committed with what the run writes next."""
        self._runner.journal.audit(audit_entry)

    def end(self, result: ToolResult) -> dict[str, Any]:
        """Write the result; returns it as a message."""
        step_id = self._begin(permitted=False)
        message = _tool_message(self._call, result)
        metadata = {"error": {"code": result.outcome.value, "retryable": result.retryable}}
        self._runner.journal.emit(
            ev.ToolCallResult(
                message_id=message["id"],
                tool_call_id=self._call.id,
                content=message["content"],
                role="tool",
                metadata=ev.UNSET if result.ok else metadata,
            )
        )
        ended = {"outcome": result.outcome.value, "message": message, "durationMs": round(result.duration_ms, 1)}
        self._runner._end_step(step_id, self._name, "finished" if result.ok else "failed", {**self._detail, **ended})
        self._runner._results[self._call.id] = message
        return message

    def wait_for_a_person(self) -> None:
        """The call is not made in this run: its step ends without a result."""
        self._runner._end_step(self._begin(permitted=False), self._name, "interrupted", self._detail)

    def _begin(self, *, permitted: bool) -> UUID:
        if self._id is None:
            self._detail |= {"permitted": permitted, "sideEffects": self._side_effects.value}
            self._id = self._runner._start_step("tool_call", self._name, self._detail)
        return self._id


_MAY_HAVE_HAPPENED = (
    "This call was under way when the run was stopped, so it is not known whether it took effect. Do not make it again unless the "
    "user asks for it."
)
_NOT_MADE = "The run was stopped before this call was made."
_CUT_OFF = ToolResult(
    ToolOutcome.INVALID_ARGUMENTS,
    "The call was cut off because your answer reached its length limit. Call the tool again with shorter arguments.",
    error="cut off",
    retryable=True,
)


def _count_tokens(usage: Usage | None) -> None:
    if usage is not None:
        metrics.model_tokens.labels(kind="input").inc(usage.input_tokens)
        metrics.model_tokens.labels(kind="output").inc(usage.output_tokens)


def _wire_tool(name: str, description: str, schema: Any) -> dict[str, Any]:
    parameters = schema or {"type": "object", "properties": {}}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def _tool_message(call: ToolCall, result: ToolResult) -> dict[str, Any]:
    message = {"id": str(uuid7()), "role": "tool", "toolCallId": call.id, "content": ev.clean_text(result.content)}
    if not result.ok:
        message["error"] = ev.clean_text(result.error or result.outcome.value)
    return message


def _turn_details(turn: StreamedTurn, model: str, started: datetime) -> dict[str, Any]:
    return {
        "model": model,
        "finish_reason": turn.finish_reason,
        "tool_calls": [call.name for call in turn.tool_calls],
        "text": turn.text,
        "duration_ms": round((datetime.now(UTC) - started).total_seconds() * 1000),
        "usage": None if turn.usage is None else turn.usage.as_dict(),
    }
