"""What a run has come to so far, and how it is written down: its conversation, totals, steps and audit entries."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from psycopg import Error as DatabaseError

from agentbackend.foundation.identifiers import uuid7
from audit.entry import AuditEntry, Outcome, Target, entry
from orchestration import events as ev
from orchestration.journal import RunJournal
from orchestration.run_task import AnswerStoppedError, Conversation, RunLimits, RunTask, Totals
from orchestration.shared_state import SharedState
from tools.governance.budget_ledger import left_for

logger = logging.getLogger(__name__)

_FULL = "I stopped here: this answer is as large as one may be. Ask me to go on if that helps."


@dataclass(slots=True)
class RunRecord:
    """One run as this process carries it out. `results`: the results of tool calls so far, as messages by the calls' ids;
    `holds_budgets`: something is reserved for it that its end gives back."""

    task: RunTask
    journal: RunJournal
    conversation: Conversation = field(init=False)
    totals: Totals = field(init=False)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    open_steps: dict[UUID, dict[str, Any]] = field(default_factory=dict)
    limits: RunLimits | None = None
    holds_budgets: bool = False
    shared_state: SharedState = field(init=False)
    _budgets_left: list[dict[str, Any]] = field(default_factory=list)
    _step_number: int = 0
    _began_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        point = self.task.resume
        self.totals = Totals.at(point)
        self.conversation = Conversation.of(self.task)
        self.holds_budgets = self.task.holds_budgets
        self._step_number = point.last_step_number if point else 0
        self.shared_state = _shared_state(self.task, self.journal)

    def limits_left(self) -> dict[str, Any]:
        """What the run may still use, as the model is told it."""
        if self.limits is None:
            return {}
        left: dict[str, Any] = {
            "model_turns": max(0, self.limits.max_iterations - self.totals.turns),
            "seconds": max(0, round(self.limits.max_seconds - self.seconds)),
        }
        return {**left, "budgets": self._budgets_left} if self._budgets_left else left

    async def look_at_budgets(self) -> None:
        """Find out what budgets leave to the caller, for the failures that the model is told of next."""
        try:
            self._budgets_left = await left_for(self.task.agent.slug, self.task.actor)
        except (DatabaseError, OSError, TimeoutError):  # no reason to fail: what is used is counted all the same
            logger.warning("what is left of budgets cannot be told to the model")

    def stop(self, limit: str, text: str) -> AnswerStoppedError:
        """The end at one of `RunLimits`, in our own words."""
        return AnswerStoppedError(limit, text, iterations=self.totals.turns)

    def require_room(self) -> None:
        """Raise AnswerStoppedError when the run has written as much as it may."""
        if self.limits is not None and self.journal.bytes > self.limits.max_bytes:
            raise self.stop("max_bytes", _FULL)

    @property
    def seconds(self) -> float:
        """How long this process has carried out the run."""
        return time.monotonic() - self._began_at

    @property
    def target(self) -> Target:
        """The run, as the audit trail names it."""
        return Target("run", str(self.task.id))

    def say(self, text: str) -> None:
        """A whole message of the assistant, written by the service: streamed, and kept in the thread."""
        message_id = str(uuid7())
        self.journal.emit(ev.TextMessageStart(message_id=message_id, role="assistant"))
        self.journal.emit_delta(ev.TextMessageContent(message_id=message_id, delta=text))
        self.journal.emit(ev.TextMessageEnd(message_id=message_id))
        self.conversation.add({"id": message_id, "role": "assistant", "content": text})

    def start_step(self, kind: str, name: str, detail: dict[str, Any]) -> UUID:
        """Begin a step; returns its id. `kind` is one of `Step.Kind`."""
        self._step_number += 1
        self.journal.emit(ev.StepStarted(step_name=name))
        step_id = self.journal.step_started(number=self._step_number, kind=kind, name=name, detail=detail)
        self.open_steps[step_id] = detail
        return step_id

    def end_step(self, step_id: UUID, name: str, status: str, detail: dict[str, Any]) -> None:
        """End a step. `detail` takes the place of what it began with."""
        self.open_steps.pop(step_id, None)
        self.journal.emit(ev.StepFinished(step_name=name))
        self.journal.step_ended(step_id, status=status, detail=detail, at=datetime.now(UTC))

    def audit(
        self,
        action: str,
        *,
        outcome: Outcome = Outcome.SUCCESS,
        reason: str = "",
        policy_version: str = "",
        details: dict[str, Any] | None = None,
    ) -> None:
        """Append an audit entry about the run, committed with what happened."""
        self.journal.audit(
            self.entry(action, outcome=outcome, reason=reason, policy_version=policy_version, details=details)
        )

    def entry(
        self,
        action: str,
        *,
        outcome: Outcome = Outcome.SUCCESS,
        reason: str = "",
        policy_version: str = "",
        details: dict[str, Any] | None = None,
    ) -> AuditEntry:
        """An audit entry about the run."""
        return entry(
            action,
            actor=self.task.actor,
            outcome=outcome,
            target=self.target,
            reason=reason,
            policy_version=policy_version,
            run_id=self.task.id,
            thread_id=self.task.thread_id,
            request_id=self.task.request_id,
            trace_id=self.task.trace_id,
            details=details,
        )


def _shared_state(task: RunTask, journal: RunJournal) -> SharedState:
    """The state as the run's readers hold it; before it has told anything, the client's own or the thread's."""
    log = task.resume.log if task.resume else None
    if log is not None and log.state is not ev.UNSET:
        return SharedState(log.state, journal.emit, told=True, changed=True)
    given = task.run_input.state
    return SharedState(given if given not in (None, {}) else task.thread_state, journal.emit)
