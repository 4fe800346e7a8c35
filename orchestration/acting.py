"""Tool calls and delegations of a run: each through its door, side by side, a step whose intent is committed before it is made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from uuid import UUID

import orjson
from opentelemetry import trace

from a2a.delegation import Handover, delegate, directory
from a2a.hops import hops_of_run
from agentbackend.foundation.identifiers import uuid7
from agentbackend.foundation.problems import Problem
from audit import actions
from audit.entry import AuditEntry
from orchestration import events as ev
from orchestration.capabilities import Capabilities
from orchestration.delegating import SubagentEvents
from orchestration.failure_report import failure_metadata
from orchestration.interrupts import Decision, Question, QuestionKind, ask_about
from orchestration.lease import Lease
from orchestration.model_turn import StreamedTurn
from orchestration.plans.carrying_out import PlanCalls
from orchestration.plans.definition import MAKE_PLAN
from orchestration.plans.in_messages import StepPlace
from orchestration.repeated_failures import RepeatedFailures
from orchestration.run_record import RunRecord
from orchestration.screening import GuardrailViolationError, TurnScreening
from tools.call_screening import refusal_text, withheld_by
from tools.calls import CallContext, SideEffects, ToolCall, ToolOutcome, ToolResult
from tools.door import call_tool, request_for
from tools.governance.approvals import Approval, ApprovalRequest

tracer = trace.get_tracer("orchestration")


@dataclass(slots=True)
class ToolCalls:
    """The tool calls of one run. `goes_on_elsewhere`: whether, when a call is cancelled, a successor will carry it out."""

    record: RunRecord
    lease: Lease
    approval_seconds: int = 0
    """How long a question waits where its tool does not say; 0: for ever."""
    goes_on_elsewhere: Callable[[], bool] = lambda: False
    _plans: PlanCalls = field(init=False)
    _repeated: RepeatedFailures = field(init=False)

    def __post_init__(self) -> None:
        self._plans = PlanCalls(self.record, self._step_of_plan)
        self._repeated = RepeatedFailures()
        for known in self.record.task.resume.calls.values() if self.record.task.resume else ():
            if known.message is not None:
                self._repeated.note_known(known.call.name, known.call.arguments, known.message)

    async def carry_out_decisions(self, capabilities: Capabilities) -> list[Question]:
        """What was decided about calls that earlier runs had asked about; returns what must be asked again."""
        task = self.record.task
        if not task.decisions:
            return []
        open_ids = self.record.conversation.call_ids()
        decided = [decision for decision in task.decisions if decision.call.id in open_ids]
        known = task.resume.calls if task.resume else {}
        left = [d for d in decided if d.call.id not in known or known[d.call.id].message is None]
        questions = await self._side_by_side(
            [self._call(d.call, capabilities, instead=d.declined, decision=d) for d in left]
        )
        return questions or await self._side_by_side(
            [self._call(plan, capabilities) for plan in self._plans.left_open()]
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
        plans = [call for call in ours if call.name == MAKE_PLAN and capabilities.plannable]
        instead = {call.id: _ONE_PLAN for call in plans[1:]} | ({cut_off.id: _CUT_OFF} if cut_off else {})
        questions = await self._side_by_side(
            [self._call(call, capabilities, instead=instead.get(call.id)) for call in ours]
        )
        self.record.conversation.add(*turn.trailing_message())
        if not questions:
            self._repeated.check()
        return pending, questions

    async def refuse(self, turn: StreamedTurn, capabilities: Capabilities) -> None:
        """Make none of the turn's calls of ours: it was to be an answer."""
        ours = [call for call in turn.tool_calls if call.name not in capabilities.frontend]
        known = self.record.task.resume.calls if self.record.task.resume else {}
        for call in ours:
            if call.id not in known or known[call.id].message is None:
                step = CallStep(self.record, self.lease, call, SideEffects.IDEMPOTENT)
                self.record.conversation.add(step.end(_AT_THE_LIMIT))
        self.record.conversation.add(*turn.trailing_message())

    def settle(self) -> None:
        """Give each call of ours that has no result one, so that the thread's next run knows what may have happened."""
        record = self.record
        resume = record.task.resume
        begun = {call_id: known.permitted for call_id, known in (resume.calls if resume else {}).items()}
        begun |= {d["toolCallId"]: bool(d.get("permitted")) for d in record.open_steps.values() if "toolCallId" in d}
        plans = []
        for call in record.conversation.unanswered():
            message = record.results.get(call["id"])
            if message is not None:
                record.conversation.add(message)
            elif call["function"]["name"] == MAKE_PLAN:
                plans.append(call["id"])
            elif call["id"] in begun:
                self._answer(call["id"], _MAY_HAVE_HAPPENED if begun[call["id"]] else _NOT_MADE)
        for plan in plans:  # their steps have their results now
            report = self._plans.stopped(plan)
            if report is not None or plan in begun:
                self._answer(plan, report or _NOT_MADE)

    def _answer(self, call_id: str, content: str) -> None:
        """Give a call that did not end a result."""
        message: dict[str, Any] = {"id": str(uuid7()), "role": "tool", "toolCallId": call_id, "content": content}
        metadata: dict[str, Any] | ev.UnsetType = ev.UNSET
        if content in (_MAY_HAVE_HAPPENED, _NOT_MADE):
            message["error"] = content
            metadata = {"error": {"code": "interrupted", "retryable": False}}
        self.record.journal.emit(
            ev.ToolCallResult(
                message_id=message["id"], tool_call_id=call_id, content=content, role="tool", metadata=metadata
            )
        )
        self.record.conversation.add(message)

    async def _side_by_side(self, calls: Sequence[Coroutine[Any, Any, _CallOutcome]]) -> list[Question]:
        """Make the calls at once; their results enter the conversation in the calls' order."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(call) for call in calls]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        questions: list[Question] = []
        for task in tasks:
            outcome = task.result()
            if isinstance(outcome, dict):
                self.record.conversation.add(outcome)
            elif outcome is not None:
                questions += outcome
        return questions

    async def _call(
        self,
        call: ToolCall,
        capabilities: Capabilities,
        *,
        instead: ToolResult | None = None,
        decision: Decision | None = None,
    ) -> _CallOutcome:
        """One call: its result as a message (None when it stands in the conversation already), or the questions whether it may be
        made. `instead`: it is not made, and this is told; `decision`: what a person has said about it."""
        resume = self.record.task.resume
        known = resume.calls.get(call.id) if resume else None
        if known is not None and known.message is not None:
            return None
        if decision is None:  # what a person has just said yes to is made
            instead = instead or self._repeated.refusal(call, turn=self.record.totals.turns)
        if call.name == MAKE_PLAN and capabilities.plannable:
            return await self._plan(call, capabilities, instead)
        outcome = await self._tool_call(call, capabilities, instead=instead, decision=decision)
        return [outcome] if isinstance(outcome, Question) else outcome

    async def _plan(
        self, call: ToolCall, capabilities: Capabilities, instead: ToolResult | None
    ) -> dict[str, Any] | list[Question]:
        """A plan is a call like others, that makes calls."""
        step = CallStep(self.record, self.lease, call, SideEffects.IDEMPOTENT)
        step.begin()
        outcome = instead or _withheld_plan(call) or await self._plans.carry_out(call, capabilities)
        if isinstance(outcome, list):
            step.wait_for_a_person()
            return outcome
        self._repeated.note(call, outcome)
        return step.end(outcome)

    async def _step_of_plan(
        self, call: ToolCall, capabilities: Capabilities, *, place: StepPlace
    ) -> dict[str, Any] | Question:
        limits = self.record.limits
        if limits is not None and self.record.journal.bytes > limits.max_bytes:
            raise Problem("run_too_large", f"The run wrote more than {limits.max_bytes} bytes.")
        call = await self._screened(call, capabilities)
        instead = self._repeated.refusal(call, turn=self.record.totals.turns)
        return await self._tool_call(call, capabilities, instead=instead, place=place)

    async def _screened(self, call: ToolCall, capabilities: Capabilities) -> ToolCall:
        """A step's arguments hold what other steps gave, so guardrail policies see them before anybody else does."""
        screening = await TurnScreening.of(self.record, capabilities.frontend)
        if screening is None:
            return call
        try:
            return await screening.screened_call(call)
        except GuardrailViolationError as violation:
            violation.announce(self.record)
            raise
        finally:
            screening.note(self.record)

    async def _tool_call(
        self,
        call: ToolCall,
        capabilities: Capabilities,
        *,
        instead: ToolResult | None = None,
        decision: Decision | None = None,
        place: StepPlace | None = None,
    ) -> dict[str, Any] | Question:
        """One call of a tool. `place`: it is a plan's step, and stands there in the conversation."""
        resume = self.record.task.resume
        known = resume.calls.get(call.id) if resume else None
        now_said = capabilities.side_effects.get(call.name)
        attach = known.peer_task if known is not None and known.may_have_happened else ""
        is_unsafe = known is not None and SideEffects.UNSAFE in (known.side_effects, now_said)
        if known is not None and known.may_have_happened and is_unsafe and not attach:
            return await self._ask(call, QuestionKind.REPEAT, decision)
        step = CallStep(self.record, self.lease, call, now_said or SideEffects.UNSAFE, place)
        if instead is None:
            await self._repeated.pause(call)
        if instead is None and step.is_delegation:
            return await self._delegated(call, step, attach)
        result = instead or await self._through_the_door(call, step, decision.approval if decision else None)
        if result.outcome is ToolOutcome.NEEDS_APPROVAL:
            step.wait_for_a_person()
            return await self._ask(call, QuestionKind.APPROVAL, decision, result.details.get("approval"))
        self._repeated.note(call, result)
        return step.end(decision.told(result) if decision else result)

    async def _ask(
        self, call: ToolCall, kind: QuestionKind, decision: Decision | None, request: ApprovalRequest | None = None
    ) -> Question:
        """A question about this call as the registry has its tool now, unless the door has said what it asks for."""
        found = request or await request_for(call, self.record.task.actor, guardrails=self.record.task.agent.guardrails)
        original = decision.original if decision else None
        return ask_about(call, kind, found, default_seconds=self.approval_seconds, original=original)

    async def _delegated(self, call: ToolCall, step: CallStep, attach: str) -> dict[str, Any]:
        """The task is handed to another agent, whose answer is the call's result. `attach`: it was, and is called this there."""
        task = self.record.task
        subagent = SubagentEvents(self.record.journal, call.id, step.note_peer_task)
        hops = hops_of_run(task.run_input.forwarded_props)
        handover = Handover(task.agent.slug, hops, attach, self.goes_on_elsewhere)
        with tracer.start_as_current_span("delegation", attributes={"gen_ai.agent.name": call.name[:64]}):
            result = await delegate(call, self._context(step), subagent, handover=handover)
        self._repeated.note(call, result)
        message = step.end(result, said=subagent.messages())
        self.record.conversation.add(*subagent.messages())
        return message

    async def _through_the_door(self, call: ToolCall, recorder: CallStep, approval: Approval | None) -> ToolResult:
        with tracer.start_as_current_span("tool call", attributes={"gen_ai.tool.name": call.name[:64]}):
            return await call_tool(call, self._context(recorder, approval))

    def _context(self, recorder: CallStep, approval: Approval | None = None) -> CallContext:
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
            approval=approval,
            guardrails=task.agent.guardrails,
        )


class CallStep:
    """A tool call or delegation as a step, and its door's recorder: the step enters the journal with the door's decision.

    So a step that has begun tells whether the call was permitted, and a call without a step was never made.
    """

    def __init__(
        self,
        record: RunRecord,
        lease: Lease,
        call: ToolCall,
        side_effects: SideEffects,
        place: StepPlace | None = None,
    ) -> None:
        self._place = place
        self._record = record
        self._lease = lease
        self._call = call
        self._side_effects = side_effects
        self.is_delegation = call.name in directory.peers
        self._name = f"{'delegation' if self.is_delegation else 'tool call'} {call.name} {call.id}"
        self._id: UUID | None = None
        self._detail: dict[str, Any] = {"toolCallId": call.id, "name": call.name, "arguments": call.arguments}

    def begin(self) -> None:
        """Begin the step of a call that does not go through the door itself."""
        self._begin(permitted=False)

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
        metadata = None if result.ok else failure_metadata(result, self._record.limits_left())
        message = _tool_message(self._call, result, metadata)
        self._record.journal.emit(
            ev.ToolCallResult(
                message_id=message["id"],
                tool_call_id=self._call.id,
                content=message["content"],
                role="tool",
                metadata=ev.UNSET if metadata is None else metadata,
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
            if self._place is not None:
                self._detail |= self._place.as_detail()
                self._show_call(self._place)
            kind = "delegation" if self.is_delegation else "tool_call"
            self._id = self._record.start_step(kind, self._name, self._detail)
        return self._id

    def _show_call(self, place: StepPlace) -> None:
        """A plan's step is not the model's own call: it is shown when it is made, together with its step in the journal."""
        call, conversation = self._call, self._record.conversation
        if call.id in conversation.call_ids():
            return
        journal = self._record.journal
        journal.emit(
            ev.ToolCallStart(tool_call_id=call.id, tool_call_name=call.name, parent_message_id=place.message_id)
        )
        journal.emit(ev.ToolCallArgs(tool_call_id=call.id, delta=call.arguments))
        journal.emit(ev.ToolCallEnd(tool_call_id=call.id))
        conversation.add(place.message(call))


_CallOutcome: TypeAlias = dict[str, Any] | list[Question] | None
_AT_THE_LIMIT = ToolResult(
    ToolOutcome.DENIED,
    "This call was not made: a limit of the run was reached, and the model was asked to answer with what it had.",
    error="a limit was reached",
)
_ONE_PLAN = ToolResult(
    ToolOutcome.DENIED,
    "Only the first of your plans is carried out: hand in one plan at a time.",
    error="one plan at a time",
)
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


def _withheld_plan(call: ToolCall) -> ToolResult | None:
    """What is told of a plan whose arguments a guardrail policy has withheld; a plan does not come to the door that says it of calls."""
    try:
        arguments = orjson.loads(call.arguments)
    except orjson.JSONDecodeError:
        return None
    withheld = withheld_by(arguments) if isinstance(arguments, dict) else None
    if withheld is None:
        return None
    version, category = withheld
    text = refusal_text(version.partition(":")[0], category, call.name)
    return ToolResult(ToolOutcome.DENIED, text, error=text, policy_version=version)


def _tool_message(call: ToolCall, result: ToolResult, metadata: dict[str, Any] | None) -> dict[str, Any]:
    message: dict[str, Any] = {
        "id": str(uuid7()),
        "role": "tool",
        "toolCallId": call.id,
        "content": ev.clean_text(result.content),
    }
    if not result.ok:
        message["error"] = ev.clean_text(result.error or result.outcome.value)
    if metadata is not None:
        message["metadata"] = metadata
    return message
