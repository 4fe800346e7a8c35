"""Tool calls and delegations of a run: each through its door, side by side, a step whose intent is committed before it is made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from opentelemetry import trace

from a2a.delegation import Handover, delegate, directory
from a2a.hops import hops_of_run
from agentbackend.foundation.identifiers import uuid7
from audit import actions
from audit.entry import AuditEntry
from orchestration import events as ev
from orchestration.capabilities import Capabilities
from orchestration.delegating import SubagentEvents
from orchestration.interrupts import Question, QuestionKind, ask_about
from orchestration.lease import Lease
from orchestration.model_turn import StreamedTurn
from orchestration.run_record import RunRecord
from tools.calls import CallContext, SideEffects, ToolCall, ToolOutcome, ToolResult
from tools.door import call_tool

tracer = trace.get_tracer("orchestration")


@dataclass(slots=True)
class ToolCalls:
    """The tool calls of one run. `goes_on_elsewhere`: whether, when a call is cancelled, a successor will carry it out."""

    record: RunRecord
    lease: Lease
    goes_on_elsewhere: Callable[[], bool] = lambda: False

    async def carry_out_decisions(self, capabilities: Capabilities) -> list[Question]:
        """What was decided about calls that earlier runs had asked about; returns what must be asked again."""
        task = self.record.task
        if not task.decisions:
            return []
        open_ids = self.record.conversation.call_ids()
        decided = [decision for decision in task.decisions if decision.call.id in open_ids]
        known = task.resume.calls if task.resume else {}
        left = [d for d in decided if d.call.id not in known or known[d.call.id].message is None]
        return await self._side_by_side(
            [self._call(d.call, capabilities, instead=d.declined, approved=d.approved) for d in left]
        )

    def left_to_the_client(self, capabilities: Capabilities) -> list[str]:
        """Calls of the client's tools that stood beside a question: the question ended that run, so now it is their turn."""
        if not self.record.task.decisions:
            return []
        unanswered = self.record.conversation.unanswered()
        return [call["id"] for call in unanswered if call["function"]["name"] in capabilities.frontend]

    async def act(self, turn: StreamedTurn, capabilities: Capabilities) -> tuple[list[str], list[Question]]:
        """Call the turn's tools side by side; returns the ids of the calls that are the client's to make, and what must be asked."""
        pending = [call.id for call in turn.tool_calls if call.name in capabilities.frontend]
        ours = [call for call in turn.tool_calls if call.name not in capabilities.frontend]
        cut_off = turn.tool_calls[-1] if turn.finish_reason == "length" else None
        questions = await self._side_by_side(
            [self._call(call, capabilities, instead=_CUT_OFF if call is cut_off else None) for call in ours]
        )
        self.record.conversation.add(*turn.trailing_message())
        return pending, questions

    def settle(self) -> None:
        """Give each call of ours that has no result one, so that the thread's next run knows what may have happened."""
        record = self.record
        begun = {detail["toolCallId"]: detail for detail in record.open_steps.values() if "toolCallId" in detail}
        for call in record.conversation.unanswered():
            message = record.results.get(call["id"])
            if message is None and call["id"] in begun:
                content = _MAY_HAVE_HAPPENED if begun[call["id"]].get("permitted") else _NOT_MADE
                message = {"id": str(uuid7()), "role": "tool", "toolCallId": call["id"], "content": content}
                record.journal.emit(
                    ev.ToolCallResult(message_id=message["id"], tool_call_id=call["id"], content=content, role="tool")
                )
            if message is not None:
                record.conversation.add(message)

    async def _side_by_side(self, calls: Sequence[Coroutine[Any, Any, dict[str, Any] | Question]]) -> list[Question]:
        """Make the calls at once; their results enter the conversation in the calls' order."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(call) for call in calls]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        results = [task.result() for task in tasks]
        self.record.conversation.add(*(result for result in results if not isinstance(result, Question)))
        return [result for result in results if isinstance(result, Question)]

    async def _call(
        self,
        call: ToolCall,
        capabilities: Capabilities,
        *,
        instead: ToolResult | None = None,
        approved: bool = False,
    ) -> dict[str, Any] | Question:
        """One call: its result as a message, or the question whether it may be made. `instead`: it is not made, and this is told;
        `approved`: a person has said yes to it."""
        resume = self.record.task.resume
        known = resume.calls.get(call.id) if resume else None
        if known is not None and known.message is not None:
            self.record.results[call.id] = known.message
            self.record.conversation.add(*known.said)
            return known.message
        now_said = capabilities.side_effects.get(call.name)
        attach = known.peer_task if known is not None and known.may_have_happened else ""
        is_unsafe = known is not None and SideEffects.UNSAFE in (known.side_effects, now_said)
        if known is not None and known.may_have_happened and is_unsafe and not attach:
            return ask_about(call, QuestionKind.REPEAT)
        step = CallStep(self.record, self.lease, call, now_said or SideEffects.UNSAFE)
        if instead is None and step.is_delegation:
            return await self._delegated(call, step, attach)
        result = instead or await self._through_the_door(call, step, approved=approved)
        if result.outcome is ToolOutcome.NEEDS_APPROVAL:
            step.wait_for_a_person()
            return ask_about(call, QuestionKind.APPROVAL)
        return step.end(result)

    async def _delegated(self, call: ToolCall, step: CallStep, attach: str) -> dict[str, Any]:
        """The task is handed to another agent, whose answer is the call's result. `attach`: it was, and is called this there."""
        task = self.record.task
        subagent = SubagentEvents(self.record.journal, call.id, step.note_peer_task)
        hops = hops_of_run(task.run_input.forwarded_props)
        handover = Handover(task.agent.slug, hops, attach, self.goes_on_elsewhere)
        with tracer.start_as_current_span("delegation", attributes={"gen_ai.agent.name": call.name[:64]}):
            result = await delegate(call, self._context(step), subagent, handover=handover)
        message = step.end(result, said=subagent.messages())
        self.record.conversation.add(*subagent.messages())
        return message

    async def _through_the_door(self, call: ToolCall, recorder: CallStep, *, approved: bool) -> ToolResult:
        with tracer.start_as_current_span("tool call", attributes={"gen_ai.tool.name": call.name[:64]}):
            return await call_tool(call, self._context(recorder, approved=approved))

    def _context(self, recorder: CallStep, *, approved: bool = False) -> CallContext:
        task = self.record.task
        return CallContext(
            actor=task.actor,
            recorder=recorder,
            allowed_tools=task.agent.tools,
            run_id=task.id,
            thread_id=task.thread_id,
            request_id=task.request_id,
            trace_id=task.trace_id,
            agent=task.agent.slug,
            approved=approved,
            guardrails=task.agent.guardrails,
        )


class CallStep:
    """A tool call or delegation as a step, and its door's recorder: the step enters the journal with the door's decision.

    So a step that has begun tells whether the call was permitted, and a call without a step was never made.
    """

    def __init__(self, record: RunRecord, lease: Lease, call: ToolCall, side_effects: SideEffects) -> None:
        self._record = record
        self._lease = lease
        self._call = call
        self._side_effects = side_effects
        self.is_delegation = call.name in directory.peers
        self._name = f"{'delegation' if self.is_delegation else 'tool call'} {call.name} {call.id}"
        self._id: UUID | None = None
        self._detail: dict[str, Any] = {"toolCallId": call.id, "name": call.name, "arguments": call.arguments}

    async def record(self, audit_entry: AuditEntry) -> None:
        """Returns once the entry is committed under the run's fence and the lease holds."""
        self._begin(permitted=audit_entry.action in (actions.TOOL_ALLOWED, actions.DELEGATION_ALLOWED))
        await self._record.journal.record(audit_entry)
        await self._lease.ensure()

    def note(self, audit_entry: AuditEntry) -> None:
        """Committed with what the run writes next."""
        self._record.journal.audit(audit_entry)

    def note_peer_task(self, task_id: str) -> None:
        """Another agent calls the task this: a successor asks for it instead of handing the task over again."""
        if self._id is not None:
            self._detail["peerTask"] = task_id
            self._record.journal.step_noted(self._id, self._detail)

    def end(self, result: ToolResult, *, said: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
        """Write the result; returns it as a message. `said`: messages of a subagent."""
        step_id = self._begin(permitted=False)
        message = _tool_message(self._call, result)
        metadata = {"error": {"code": result.outcome.value, "retryable": result.retryable}}
        self._record.journal.emit(
            ev.ToolCallResult(
                message_id=message["id"],
                tool_call_id=self._call.id,
                content=message["content"],
                role="tool",
                metadata=ev.UNSET if result.ok else metadata,
            )
        )
        ended: dict[str, Any] = {
            "outcome": result.outcome.value,
            "message": message,
            "durationMs": round(result.duration_ms, 1),
        }
        if said:
            ended["said"] = list(said)
        self._record.end_step(step_id, self._name, "finished" if result.ok else "failed", {**self._detail, **ended})
        self._record.results[self._call.id] = message
        return message

    def wait_for_a_person(self) -> None:
        """The call is not made in this run: its step ends without a result."""
        self._record.end_step(self._begin(permitted=False), self._name, "interrupted", self._detail)

    def _begin(self, *, permitted: bool) -> UUID:
        if self._id is None:
            self._detail |= {"permitted": permitted, "sideEffects": self._side_effects.value}
            kind = "delegation" if self.is_delegation else "tool_call"
            self._id = self._record.start_step(kind, self._name, self._detail)
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


def _tool_message(call: ToolCall, result: ToolResult) -> dict[str, Any]:
    message = {"id": str(uuid7()), "role": "tool", "toolCallId": call.id, "content": ev.clean_text(result.content)}
    if not result.ok:
        message["error"] = ev.clean_text(result.error or result.outcome.value)
    return message
