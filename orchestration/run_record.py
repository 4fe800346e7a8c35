"""What a run has come to so far, and how it is written down: its conversation, totals, steps and audit entries."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from agentbackend.foundation.identifiers import uuid7
from audit.entry import AuditEntry, Outcome, Target, entry
from orchestration import events as ev
from orchestration.journal import RunJournal
from orchestration.run_task import Conversation, RunTask, Totals


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
    holds_budgets: bool = False
    _step_number: int = 0

    def __post_init__(self) -> None:
        point = self.task.resume
        self.totals = Totals.at(point)
        self.conversation = Conversation.of(self.task)
        self.holds_budgets = self.task.holds_budgets
        self._step_number = point.last_step_number if point else 0

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
