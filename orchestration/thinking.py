"""Model turns: the model is shown the conversation, and what it streams becomes events, a step, and messages."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from opentelemetry import trace

from agentbackend.foundation import metrics
from agentbackend.foundation.problems import Problem
from audit import actions
from audit.entry import Outcome
from orchestration import events as ev
from orchestration import history, memory
from orchestration.capabilities import Capabilities
from orchestration.corrections import require_hope
from orchestration.lease import Lease
from orchestration.model_port import ModelError, ModelPort, ModelRequest
from orchestration.model_port.fallback import Failure, first_answer
from orchestration.model_turn import ModelTurn, StreamedTurn
from orchestration.resuming import MODEL_TURN_STEP
from orchestration.run_record import RunRecord
from orchestration.screening import GuardrailViolationError, TurnScreening
from orchestration.spending import Spending, Spent

tracer = trace.get_tracer("orchestration")

FALLBACK_EVENT = "model_fallback"
"""Name of the CUSTOM event that says that another model answers than the agent's own: {"from": model, "to": model, "code": code}."""


@dataclass(slots=True)
class _Asking:
    """One model turn under way: what is asked of which models, who answered, who failed before, what was used.

    `frontend`: names of the client's tools, whose calls no door of ours will see.
    """

    step_id: UUID
    request: ModelRequest
    without_media: ModelRequest | None
    models: list[str]
    frontend: frozenset[str]
    answered_by: str = ""
    failures: list[Failure] = field(default_factory=list)
    spent: Spent | None = None

    def detail(self) -> dict[str, Any]:
        """For the turn's step and its audit entry."""
        failures = [{"model": failure.model, "code": failure.code} for failure in self.failures]
        spent = {"model": self.models[0]} if self.spent is None else self.spent.as_detail()
        return {**spent, "failures": failures} if failures else spent

    @property
    def labels(self) -> dict[str, str]:
        """Of the model that answered, for metrics."""
        if self.spent is None:
            return metrics.model_labels("", self.models[0])
        return metrics.model_labels(self.spent.model.provider, self.spent.model.model)


@dataclass(slots=True)
class ModelTurns:
    """The model turns of one run."""

    record: RunRecord
    model_port: ModelPort
    lease: Lease
    spending: Spending

    async def think(self, capabilities: Capabilities, *, limit: str = "", note: str = "") -> StreamedTurn:
        """One model turn, as a step.

        `limit`: this is the last turn because of this limit: no tools may be called, and the model is told so by the `note`. Raises
        ModelError when no model answers, Problem when the answer cannot be used, AnswerStoppedError when a budget or the run's size
        is used up.
        """
        record = self.record
        require_hope(record.conversation.corrections)
        request = self._request(capabilities, note, with_media=True)
        models = await self.spending.begin(record.totals.turns + 1, request)
        record.totals.turns += 1
        step_name = f"{MODEL_TURN_STEP}{record.totals.turns}"
        step_id = record.start_step("model_turn", step_name, {"model": record.task.model})
        asking = _Asking(step_id, request, self._without_media(capabilities, note), models, capabilities.frontend)
        started = datetime.now(UTC)
        with tracer.start_as_current_span("model turn", attributes={"gen_ai.request.model": record.task.model}):
            turn = await self._stream_turn(asking, step_name)
        record.conversation.add(*turn.messages())
        record.conversation.note_form(turn.rejected)
        detail = {**turn.journal_detail(), **asking.detail(), **({"limit": limit} if limit else {})}
        record.end_step(step_id, step_name, "finished", detail)
        withheld = "model_content_filter" if turn.finish_reason == "content_filter" else ""
        withheld = turn.rejected.code if turn.rejected else withheld
        record.audit(
            actions.MODEL_TURN,
            outcome=Outcome.FAILURE if withheld else Outcome.SUCCESS,
            reason=withheld,
            details={**_turn_details(turn, started), "asked": record.task.model, **asking.detail()},
        )
        metrics.model_turns.labels(outcome=withheld or "ok", **asking.labels).inc()
        check_finish(turn)
        return turn

    def _request(self, capabilities: Capabilities, note: str, *, with_media: bool) -> ModelRequest:
        record, agent = self.record, self.record.task.agent
        shown = memory.shown(record.conversation.all(), record.task.memory, agent.history_token_budget)
        messages = history.to_model(shown, system=capabilities.system, with_media=with_media)
        return ModelRequest(
            model=record.task.model,
            messages=[*messages, {"role": "system", "content": note}] if note else messages,
            tools=capabilities.tools,
            temperature=agent.temperature,
            max_output_tokens=agent.max_output_tokens,
            may_call=not note,
            corrections=tuple(record.conversation.corrections),
        )

    def _without_media(self, capabilities: Capabilities, note: str) -> ModelRequest | None:
        """The same request for a model that refuses media, where there are any."""
        has_media = history.has_media(self.record.conversation.all())
        return self._request(capabilities, note, with_media=False) if has_media else None

    async def _stream_turn(self, asking: _Asking, step_name: str) -> StreamedTurn:
        record = self.record
        try:
            return await self._stream(asking)
        except ModelError as error:
            record.end_step(asking.step_id, step_name, "failed", {"error": error.code, **asking.detail()})
            metrics.model_turns.labels(outcome=error.code, **asking.labels).inc()
            details = {"asked": record.task.model, "code": error.code, **asking.detail()}
            record.audit(actions.MODEL_TURN, outcome=Outcome.FAILURE, reason=error.code, details=details)
            raise
        except GuardrailViolationError as violation:
            record.end_step(asking.step_id, step_name, "failed", {"error": violation.reason, **asking.detail()})
            metrics.model_turns.labels(outcome=violation.reason, **asking.labels).inc()
            record.audit(actions.MODEL_TURN, outcome=Outcome.FAILURE, reason=violation.reason, details=asking.detail())
            violation.announce(record)
            raise
        finally:
            self._count_failures(asking)

    async def _stream(self, asking: _Asking) -> StreamedTurn:
        record = self.record
        void = record.task.resume.discarded if record.task.resume else ()
        screening = await TurnScreening.of(record, asking.frontend)
        turn = ModelTurn(record.journal, taken_call_ids=record.conversation.call_ids().union(void))
        await self.lease.ensure()
        asked_at = time.monotonic()
        try:
            async with first_answer(
                self.model_port,
                asking.request,
                asking.models,
                without_media=asking.without_media,
                failures=asking.failures,
            ) as answer:
                self._answers(asking, answer.model)
                async for batch in answer.batches:
                    if asked_at:
                        metrics.first_token_seconds.observe(time.monotonic() - asked_at)
                        asked_at = 0.0
                    turn.take(batch if screening is None else await screening.released(batch))
                    if screening is not None:
                        screening.check()
                    record.require_room()
                    await record.journal.room()
        finally:
            streamed = turn.close()
            asking.spent = self.spending.settle(streamed, asking.answered_by, asking.request)
            if screening is not None:
                screening.note(record)
            if not turn.finished:
                self._keep_partial_text(streamed)
                record.open_steps[asking.step_id].update(asking.detail())
        return streamed

    def _answers(self, asking: _Asking, model: str) -> None:
        """Say when it is another model that answers than the agent's own."""
        asking.answered_by = model
        own = self.record.task.model
        if model != own:
            code = next((failure.code for failure in asking.failures if failure.model == own), "model_not_priced")
            value = {"from": own, "to": model, "code": code}
            self.record.journal.emit(ev.Custom(name=FALLBACK_EVENT, value=value))

    def _count_failures(self, asking: _Asking) -> None:
        for failure in asking.failures:
            if not failure.skipped:
                name = self.spending.named(failure.model)
                labels = metrics.model_labels(name.provider, name.model)
                metrics.model_failures.labels(code=failure.code, **labels).inc()

    def _keep_partial_text(self, turn: StreamedTurn) -> None:
        """What a broken turn has shown stays in the thread; calls that were not complete do not."""
        if turn.text:
            self.record.conversation.add({"id": turn.message_id, "role": "assistant", "content": turn.text})


def check_finish(turn: StreamedTurn) -> None:
    """Raise Problem when a turn has ended without anything to go on with."""
    if turn.finish_reason == "content_filter":
        raise Problem("model_content_filter", "The model's provider withheld the answer.")
    if not turn.rejected and not turn.text and not turn.tool_calls and not turn.trailing_text:
        raise Problem("model_invalid_response", "The model gave an empty answer.")


def _turn_details(turn: StreamedTurn, started: datetime) -> dict[str, Any]:
    return {
        "finish_reason": turn.finish_reason,
        "tool_calls": [call.name for call in turn.tool_calls],
        "text": turn.text,
        "duration_ms": round((datetime.now(UTC) - started).total_seconds() * 1000),
        "rejected": None if turn.rejected is None else turn.rejected.as_dict(),
    }
