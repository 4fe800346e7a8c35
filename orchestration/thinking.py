"""Model turns: the model is shown the conversation, and what it streams becomes events, a step, and messages."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from opentelemetry import trace

from agentbackend.foundation import metrics
from agentbackend.foundation.problems import Problem
from audit import actions
from audit.entry import Outcome
from orchestration import history
from orchestration.capabilities import Capabilities
from orchestration.lease import Lease
from orchestration.model_port import ModelError, ModelPort, ModelRequest, Usage
from orchestration.model_turn import ModelTurn, StreamedTurn
from orchestration.resuming import MODEL_TURN_STEP
from orchestration.run_record import RunRecord
from orchestration.run_task import RunLimits
from orchestration.screening import GuardrailViolationError, TurnScreening

logger = logging.getLogger(__name__)
tracer = trace.get_tracer("orchestration")


@dataclass(slots=True)
class ModelTurns:
    """The model turns of one run."""

    record: RunRecord
    model_port: ModelPort
    lease: Lease
    limits: RunLimits

    async def think(self, capabilities: Capabilities) -> StreamedTurn:
        """One model turn, as a step. Raises ModelError when the model fails, Problem when its answer cannot be used."""
        record = self.record
        record.totals.turns += 1
        step_name = f"{MODEL_TURN_STEP}{record.totals.turns}"
        step_id = record.start_step("model_turn", step_name, {"model": record.task.model})
        started = datetime.now(UTC)
        with tracer.start_as_current_span("model turn", attributes={"gen_ai.request.model": record.task.model}):
            turn = await self._stream_turn(capabilities, step_id, step_name)
        record.totals.add(turn.usage)
        _count_tokens(turn.usage)
        record.conversation.add(*turn.messages())
        record.end_step(step_id, step_name, "finished", turn.journal_detail())
        withheld = "model_content_filter" if turn.finish_reason == "content_filter" else ""
        record.audit(
            actions.MODEL_TURN,
            outcome=Outcome.FAILURE if withheld else Outcome.SUCCESS,
            reason=withheld,
            details=_turn_details(turn, record.task.model, started),
        )
        metrics.model_turns.labels(outcome=withheld or "ok").inc()
        check_finish(turn)
        return turn

    async def _stream_turn(self, capabilities: Capabilities, step_id: UUID, step_name: str) -> StreamedTurn:
        record = self.record
        try:
            return await self._stream_once(capabilities, with_media=True)
        except ModelError as error:
            if error.code == "model_refused" and history.has_media(record.conversation.all()):
                logger.info("the model refused the request; trying again without media")
                return await self._stream_once(capabilities, with_media=False)
            record.end_step(step_id, step_name, "failed", {"error": error.code})
            metrics.model_turns.labels(outcome=error.code).inc()
            details = {"model": record.task.model, "code": error.code}
            record.audit(actions.MODEL_TURN, outcome=Outcome.FAILURE, reason=error.code, details=details)
            raise
        except GuardrailViolationError as violation:
            record.end_step(step_id, step_name, "failed", {"error": violation.reason})
            metrics.model_turns.labels(outcome=violation.reason).inc()
            record.audit(actions.MODEL_TURN, outcome=Outcome.FAILURE, reason=violation.reason)
            violation.announce(record)
            raise

    async def _stream_once(self, capabilities: Capabilities, *, with_media: bool) -> StreamedTurn:
        record, agent = self.record, self.record.task.agent
        shown = history.trim(record.conversation.all(), agent.history_token_budget)
        request = ModelRequest(
            model=record.task.model,
            messages=history.to_model(shown, system=capabilities.system, with_media=with_media),
            tools=capabilities.tools,
            temperature=agent.temperature,
            max_output_tokens=agent.max_output_tokens,
        )
        void = record.task.resume.discarded if record.task.resume else ()
        screening = await TurnScreening.of(record, capabilities.frontend)
        turn = ModelTurn(record.journal, taken_call_ids=record.conversation.call_ids().union(void))
        await self.lease.ensure()
        asked_at = time.monotonic()
        try:
            async with self.model_port.stream(request) as batches:
                async for batch in batches:
                    if asked_at:
                        metrics.first_token_seconds.observe(time.monotonic() - asked_at)
                        asked_at = 0.0
                    turn.take(batch if screening is None else await screening.released(batch))
                    if screening is not None:
                        screening.check()
                    if record.journal.bytes > self.limits.max_bytes:
                        raise Problem("run_too_large", f"The run wrote more than {self.limits.max_bytes} bytes.")
                    await record.journal.room()
        finally:
            streamed = turn.close()
            if screening is not None:
                screening.note(record)
            if not turn.finished:
                self._keep_partial_text(streamed)
        return streamed

    def _keep_partial_text(self, turn: StreamedTurn) -> None:
        """What a broken turn has shown stays in the thread; calls that were not complete do not."""
        if turn.text:
            self.record.conversation.add({"id": turn.message_id, "role": "assistant", "content": turn.text})


def check_finish(turn: StreamedTurn) -> None:
    """Raise Problem when a turn has ended without anything to go on with."""
    if turn.finish_reason == "content_filter":
        raise Problem("model_content_filter", "The model's provider withheld the answer.")
    if not turn.text and not turn.tool_calls and not turn.trailing_text:
        raise Problem("model_invalid_response", "The model gave an empty answer.")


def _count_tokens(usage: Usage | None) -> None:
    if usage is not None:
        metrics.model_tokens.labels(kind="input").inc(usage.input_tokens)
        metrics.model_tokens.labels(kind="output").inc(usage.output_tokens)


def _turn_details(turn: StreamedTurn, model: str, started: datetime) -> dict[str, Any]:
    return {
        "model": model,
        "finish_reason": turn.finish_reason,
        "tool_calls": [call.name for call in turn.tool_calls],
        "text": turn.text,
        "duration_ms": round((datetime.now(UTC) - started).total_seconds() * 1000),
        "usage": None if turn.usage is None else turn.usage.as_dict(),
    }
