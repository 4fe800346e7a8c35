"""A run as its runner holds it: what is to be done for whom, within which limits, and what has come of it so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from audit.actor import Actor
from orchestration import events as ev
from orchestration.agents import AgentProfile
from orchestration.interrupts import Decision
from orchestration.model_port import Usage
from orchestration.resuming import ResumePoint
from orchestration.run_input import RunInput


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What one run may use: model turns, bytes of events, seconds (for each process that carries it out)."""

    max_iterations: int
    max_bytes: int
    max_seconds: float


@dataclass(frozen=True, slots=True)
class RunTask:
    """A run to be carried out: who asked for what, of whom, with which history.

    `refusal`: a guardrail policy does not let the input pass, so no model is asked (`screening.GuardrailViolationError`).
    `decisions`: answers to what earlier runs of the thread had asked. `resume`: where to go on; None for a run that begins.
    """

    id: UUID
    thread_id: UUID
    actor: Actor
    agent: AgentProfile
    model: str
    run_input: RunInput
    known_messages: list[dict[str, Any]]
    new_messages: list[dict[str, Any]]
    client_agrees: bool
    awaits_answer: bool
    thread_state: Any = None
    request_id: str = ""
    trace_id: str = ""
    refusal: dict[str, Any] | None = None
    decisions: tuple[Decision, ...] = ()
    resume: ResumePoint | None = None


class RunCancelledError(Exception):
    """The run's owner or an operator asked to stop it."""


class RunReleasedError(Exception):
    """This process gives the run away (shut-down): it writes nothing more, and a successor goes on."""


class AnswerStoppedError(Exception):
    """The run ends here with an honest answer: a limit is reached, or something may not go on.

    `text` is said to the user as a message, `reason` stands in the audit trail, and `{"stopped": reason, **result}` is the result
    of RUN_FINISHED, for programs.
    """

    def __init__(self, reason: str, text: str, **result: Any) -> None:
        self.reason = reason
        self.text = text
        self.result = {"stopped": reason, **result}
        super().__init__(reason)


@dataclass(slots=True)
class Totals:
    """Model turns and tokens of a run, over all processes that carried it out."""

    turns: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cached_input_tokens: int = 0

    @classmethod
    def at(cls, point: ResumePoint | None) -> Totals:
        """What a run begins with: nothing, or what its predecessors used."""
        totals = cls(turns=point.turns if point else 0)
        for usage in point.usage if point else ():
            totals.add(Usage(**usage))
        return totals

    def add(self, usage: Usage | None) -> None:
        """Count a model turn's tokens."""
        if usage is None:
            return
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        self.reasoning_tokens += usage.reasoning_tokens
        self.cached_input_tokens += usage.cached_input_tokens

    def as_usage(self, model: str) -> list[ev.TokenUsage] | ev.UnsetType:
        """The protocol's usage; UNSET when nothing was counted."""
        if not self.input_tokens and not self.output_tokens:
            return ev.UNSET
        return [
            ev.TokenUsage(
                model=model,
                input_tokens=self.input_tokens,
                output_tokens=self.output_tokens,
                total_tokens=self.input_tokens + self.output_tokens,
                reasoning_tokens=self.reasoning_tokens or ev.UNSET,
                cached_input_tokens=self.cached_input_tokens or ev.UNSET,
            )
        ]


@dataclass(slots=True)
class Conversation:
    """The messages of a run: what came in, then what is added, as AG-UI messages. `response` is what was said last."""

    known: list[dict[str, Any]]
    added: list[dict[str, Any]] = field(default_factory=list)
    response: str = ""

    @classmethod
    def of(cls, task: RunTask) -> Conversation:
        """As it stands when the task is taken up."""
        point = task.resume
        added = [*task.new_messages, *(point.added if point else ())]
        return cls(list(task.known_messages), added, point.response if point else "")

    def all(self) -> list[dict[str, Any]]:
        """Everything, oldest first."""
        return [*self.known, *self.added]

    def add(self, *messages: dict[str, Any]) -> None:
        """Append messages; the text of the assistant's last one is the response."""
        for message in messages:
            self.added.append(message)
            if message["role"] == "assistant" and message.get("content") and "subagentRunId" not in message:
                self.response = message["content"]

    def unanswered(self) -> list[dict[str, Any]]:
        """Tool calls without a result, as the messages hold them."""
        messages = self.all()
        answered = {message["toolCallId"] for message in messages if message["role"] == "tool"}
        return [call for message in messages for call in message.get("toolCalls", ()) if call["id"] not in answered]

    def call_ids(self) -> set[str]:
        """Ids of all tool calls in it."""
        return {call["id"] for message in self.all() for call in message.get("toolCalls", ())}
