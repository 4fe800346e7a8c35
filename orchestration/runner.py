"""The runner: think, act, record, until the model answers, a limit is reached, or the run is cancelled.

One task runs one run, outside any request. Everything it does goes through the run's journal; a tool call waits until its intent
is committed, tokens wait for nothing of their own. Whatever happens, the run ends in one terminal event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from agentbackend.foundation import metrics
from agentbackend.foundation.problems import PROBLEMS, Problem
from agentbackend.foundation.writer import LeaseLostError, UnitRejectedError, WriterStoppedError
from audit import actions
from audit.entry import Outcome
from orchestration import events as ev
from orchestration import history, memory
from orchestration.acting import ToolCalls
from orchestration.answer_forms import port_for, result_of
from orchestration.approval_audit import asked_entry, common_ids
from orchestration.capabilities import Capabilities, capabilities_of, limits_told
from orchestration.interrupts import Question
from orchestration.journal import RunJournal
from orchestration.lease import Lease
from orchestration.model_port import ModelError, ModelPort
from orchestration.model_providers.catalogue import ModelCatalogue
from orchestration.model_providers.names import ModelName
from orchestration.model_turn import StreamedTurn
from orchestration.resuming import RECOVERED_EVENT, ResumePoint
from orchestration.run_record import RunRecord
from orchestration.run_task import AnswerStoppedError, RunCancelledError, RunLimits, RunReleasedError, RunTask
from orchestration.screening import refuse_input
from orchestration.spending import Spending
from orchestration.thinking import ModelTurns, check_finish

logger = logging.getLogger(__name__)

_STOPPED_TEXTS = {
    "max_iterations": "I stopped here: this took {turns} steps, which is as many as one answer may take. Ask me to go on if that "
    "helps.",
    "max_seconds": "I stopped here: the time that one answer may take is nearly over. Ask me to go on if that helps.",
    "max_bytes": "I stopped here: this answer is nearly as large as one may be. Ask me to go on if that helps.",
}
_TIME_IS_OVER = "I stopped here: the time that one answer may take is over. Ask me to go on if that helps."
_LIMITS = {
    "max_iterations": "it has taken as many model turns as it may",
    "max_seconds": "its time is nearly over",
    "max_bytes": "it is nearly as large as it may be",
}
_LAST_TURN_NOTE = (
    "This is the last turn of this run: {limit}. No tool can be called any more. Answer the user now with what you have, and say "
    "plainly what is missing and what did not work."
)


@dataclass(slots=True)
class Runner:
    """Carries out one run. `execute` returns when the run's terminal event is committed, or raises when the lease is gone."""

    task: RunTask
    journal: RunJournal
    lease: Lease
    model_port: ModelPort
    limits: RunLimits
    models: ModelCatalogue
    stop_reason: BaseException | None = None
    _record: RunRecord = field(init=False)
    _spending: Spending = field(init=False)
    _model_turns: ModelTurns = field(init=False)
    _tool_calls: ToolCalls = field(init=False)

    def __post_init__(self) -> None:
        self._record = RunRecord(self.task, self.journal, limits=self.limits)
        self._spending = Spending(self._record, self.models)
        port = port_for(self.task.agent, self.model_port)
        self._model_turns = ModelTurns(self._record, port, self.lease, self._spending)
        self._tool_calls = ToolCalls(self._record, self.lease, self.limits.approval_seconds, self._goes_on_elsewhere)

    @property
    def has_outgrown_memory(self) -> bool:
        """Whether the older part of the run's thread is to be summarised."""
        return memory.has_outgrown(self._record.conversation.all(), self.task.memory, self.task.agent)

    async def execute(self) -> None:
        """Run to the end. Raises LeaseLostError, WriterStoppedError or RunReleasedError when the run is no longer ours."""
        try:
            if self.stop_reason is not None:  # asked for before this process had taken it up
                raise asyncio.CancelledError
            async with asyncio.timeout(self.limits.max_seconds) as clock:
                await self._answer()
        except (LeaseLostError, WriterStoppedError, RunReleasedError):
            raise
        except UnitRejectedError:
            self.journal.discard_rejected()
            await self._fail("internal_error", "The run could not be recorded.")
        except TimeoutError as error:
            if clock.expired():
                await self._out_of_time()
            else:  # something within it has given up waiting
                await self._broken(error)
        except AnswerStoppedError as stop:
            await self._finish_stopped(stop)
        except ModelError as error:
            await self._fail(error.code, error.message)
        except Problem as problem:
            await self._fail(problem.code, problem.detail)
        except asyncio.CancelledError:
            await self._stopped()
        except Exception as error:
            await self._broken(error)

    async def _broken(self, error: Exception) -> None:
        """The run cannot go on by a fault of the service's."""
        logger.error("a run failed", exc_info=error)
        await self._fail("internal_error", "The run failed for a reason inside the service.")

    def _goes_on_elsewhere(self) -> bool:
        """Whether this process was told to stop, and not because somebody cancelled the run."""
        return self.stop_reason is not None and not isinstance(self.stop_reason, RunCancelledError)

    async def _stopped(self) -> None:
        """The task was cancelled: by a cancellation of the run, or because this process gives the run away."""
        if not isinstance(self.stop_reason, RunCancelledError):
            raise self.stop_reason or RunReleasedError("the run's task was cancelled")
        if await self._has_ended():
            return
        self._open_once()
        self._tool_calls.settle()
        self._close_open_items("cancelled")
        await self._finish("cancelled", {"type": "cancelled"}, actions.RUN_CANCELLED)

    async def _out_of_time(self) -> None:
        """The run has taken as long as it may."""
        if not await self._has_ended():
            await self._finish_stopped(self._record.stop("max_seconds", _TIME_IS_OVER))

    # --- the loop

    async def _answer(self) -> None:
        self._open_once()
        refuse_input(self._record)
        if not self.task.awaits_answer:
            await self._finish("finished", {"type": "success"}, actions.RUN_FINISHED)
            return
        capabilities = await capabilities_of(self.task, await limits_told(self.task, self.limits))
        questions = await self._tool_calls.carry_out_decisions(capabilities)
        if questions:
            await self._finish_interrupted(questions)
            return
        if pending := self._tool_calls.left_to_the_client(capabilities):
            await self._finish_pending(pending)
            return
        await self._take_turns(capabilities)

    async def _take_turns(self, capabilities: Capabilities) -> None:
        """Think and act in turn, beginning with the turn whose calls a predecessor may not have made."""
        turn = self.task.resume.turn if self.task.resume else None
        if turn is not None and self.task.resume is not None:
            check_finish(turn)
            if self.task.resume.turn_limit:
                await self._finish_at_limit(self.task.resume.turn_limit, turn, capabilities)
                return
        while turn is not None or self._record.totals.turns < self.limits.max_iterations:
            if turn is None and (limit := self._near_limit()):
                await self._answer_at_limit(limit, capabilities)
                return
            turn = turn or await self._model_turns.think(capabilities)
            if turn.rejected is not None:
                turn = None
                continue
            if not turn.tool_calls:
                await self._finish_answered(turn)
                return
            pending, questions = await self._tool_calls.act(turn, capabilities)
            if questions:
                await self._finish_interrupted(questions)
                return
            if pending:
                await self._finish_pending(pending)
                return
            turn = None
        raise self._stop_at("max_iterations")

    # --- limits

    def _near_limit(self) -> str:
        record = self._record
        return self.limits.near(turns=record.totals.turns, size=self.journal.bytes, seconds=record.seconds)

    async def _answer_at_limit(self, limit: str, capabilities: Capabilities) -> None:
        """Have the model answer with what it has. Where it fails to, the user is told by us; raises AnswerStoppedError then."""
        note = _LAST_TURN_NOTE.format(limit=_LIMITS[limit])
        try:
            turn = await self._model_turns.think(capabilities, limit=limit, note=note)
        except (ModelError, Problem) as error:
            logger.warning("the model gave no last answer at a limit", extra={"limit": limit, "reason": str(error)})
            raise self._stop_at(limit) from error
        await self._finish_at_limit(limit, turn, capabilities)

    async def _finish_at_limit(self, limit: str, turn: StreamedTurn, capabilities: Capabilities) -> None:
        if turn.tool_calls:
            await self._tool_calls.refuse(turn, capabilities)
            raise self._stop_at(limit)
        if turn.rejected is not None:
            raise self._stop_at(limit)
        result = self._stop_at(limit).result | (result_of(turn, self.task.agent) or {})
        await self._finish("finished", {"type": "success"}, actions.RUN_FINISHED, result=result, reason=limit)

    def _stop_at(self, limit: str) -> AnswerStoppedError:
        """The end at a limit, in our own words."""
        return self._record.stop(limit, _STOPPED_TEXTS[limit].format(turns=self._record.totals.turns))

    # --- the beginning

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
            self.journal.emit(ev.MessagesSnapshot(messages=self._record.conversation.all()))
        self._record.shared_state.open()

    def _reopen(self, point: ResumePoint) -> None:
        """Say that the run goes on elsewhere, which messages are void, close what was open, and restate what holds."""
        self.journal.open_items = point.log.open_items
        value = {"attempt": point.attempt, "discarded": point.discarded}
        self.journal.emit(ev.Custom(name=RECOVERED_EVENT, value=value))
        for step in point.open_steps:
            self.journal.step_ended(step.id, status="interrupted", detail=step.detail, at=datetime.now(UTC))
        for event in self.journal.open_items.closing_events():
            self.journal.emit(event)
        restated = [*self._record.conversation.all(), *point.restated_reasoning()]
        self.journal.emit(ev.MessagesSnapshot(messages=restated))
        self._record.audit(actions.RUN_RECOVERED, details=value)

    # --- the end

    async def _has_ended(self) -> bool:
        """Whether what is to stop the run came too late: its end is on its way to the log, and then in it."""
        if self.journal.open_items.ended:
            await self.journal.flush()
        return self.journal.open_items.ended

    async def _finish_answered(self, turn: StreamedTurn) -> None:
        result = result_of(turn, self.task.agent)
        await self._finish("finished", {"type": "success"}, actions.RUN_FINISHED, result=result)

    async def _finish_pending(self, pending: list[str]) -> None:
        outcome = {"type": "success", "pendingToolCallIds": pending}
        await self._finish("finished", outcome, actions.RUN_FINISHED)

    async def _finish_interrupted(self, questions: Sequence[Question]) -> None:
        """A person must decide: the run ends, and the thread's next run brings the answers."""
        self.journal.interrupted(self.task.thread_id, questions)
        ids = common_ids(self.task.id, self.task.thread_id, self.task.request_id, self.task.trace_id)
        for question in questions:
            self.journal.audit(asked_entry(question, actor=self.task.actor, **ids))
        outcome = {"type": "interrupt", "interrupts": [question.as_interrupt() for question in questions]}
        await self._finish("interrupted", outcome, actions.RUN_INTERRUPTED)

    async def _finish_stopped(self, stop: AnswerStoppedError) -> None:
        """Say why the run ends here, as a message, so that every client shows it."""
        self._tool_calls.settle()
        self._close_open_items("failed")
        self._record.say(stop.text)
        await self._finish(
            "finished", {"type": "success"}, actions.RUN_FINISHED, result=stop.result, reason=stop.reason
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
        given, totals = self.task.run_input, self._record.totals
        self.journal.emit(
            ev.RunFinished(
                thread_id=given.thread_id,
                run_id=given.run_id,
                outcome=outcome,
                result=ev.UNSET if result is None else result,
                usage=totals.as_usage(self.task.model),
            )
        )
        self._end_rows(status, outcome)
        self._record.audit(action, reason=reason, details={"turns": totals.turns, "outcome": outcome["type"]})
        await self.journal.flush()

    async def _fail(self, code: str, message: str) -> None:
        """End the run with an error that the user sees; raises what the journal raises when the run is no longer ours."""
        if await self._has_ended():
            return
        self._tool_calls.settle()
        self._close_open_items("failed")
        usage = self._record.totals.as_usage(self.task.model)
        self.journal.emit(ev.RunError(message=message, code=code, usage=usage))
        self._end_rows("failed", None, code, message)
        self._record.audit(actions.RUN_FAILED, outcome=Outcome.FAILURE, reason=code)
        self._record.audit(actions.ERROR_SHOWN, outcome=Outcome.FAILURE, reason=code, details={"message": message})
        await self.journal.flush()
        logger.warning("a run failed", extra={"code": code, "acts_next": PROBLEMS[code].acts_next.value})

    def _close_open_items(self, status: str) -> None:
        for event in self.journal.open_items.closing_events():
            self.journal.emit(event)
        for step_id, detail in self._record.open_steps.items():
            self.journal.step_ended(step_id, status=status, detail=detail, at=datetime.now(UTC))
        self._record.open_steps.clear()

    def _end_rows(self, status: str, outcome: dict[str, Any] | None, code: str = "", message: str = "") -> None:
        now = datetime.now(UTC)
        metrics.runs_ended.labels(status=status).inc()
        self._spending.release()
        conversation, totals = self._record.conversation, self._record.totals
        tokens = sum(history.estimate_tokens(added) for added in conversation.added)
        self.journal.turn_ended(
            response=conversation.response, messages=conversation.added, token_estimate=tokens, at=now
        )
        if self._record.shared_state.changed:
            self.journal.state_changed(self.task.thread_id, self._record.shared_state.value)
        self.journal.run_ended(
            {
                "status": status,
                "outcome": None if outcome is None else ev.as_json(outcome),
                "error_code": code,
                "error_message": message,
                "model": str(ModelName(*totals.model)) if totals.model else self.task.model,
                "model_turns": totals.turns,
                "input_tokens": totals.input_tokens,
                "output_tokens": totals.output_tokens,
                "cost": totals.cost,
                "last_seq": self.journal.last_seq,
                "event_bytes": self.journal.bytes,
                "finished_at": now,
                "lease_expires_at": None,
            }
        )
