"""A run as its runner holds it: what is to be done for whom, within which limits, and what has come of it so far."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from audit.actor import Actor
from orchestration import events as ev
from orchestration.agents import AgentProfile
from orchestration.interrupts import Decision
from orchestration.memory import Memory
from orchestration.model_port import Rejection, Usage
from orchestration.resuming import ResumePoint, StoredStep, spent_by
from orchestration.run_input import RunInput

_NEAR = 0.8


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What one run may use: model turns, bytes of events, seconds (for each process that carries it out).

    `approval_seconds`: how long its questions wait where the tool does not say.
    """

    max_iterations: int
    max_bytes: int
    max_seconds: float
    approval_seconds: int = 0

    def near(self, *, turns: int, size: int, seconds: float) -> str:
        """The limit that leaves room for one more model turn only, if any: `max_iterations`, `max_bytes` or `max_seconds`.

        Before its first turn a run is near to none.
        """
        if not turns:
            return ""
        if turns == self.max_iterations - 1:
            return "max_iterations"
        if size > self.max_bytes * _NEAR:
            return "max_bytes"
        return "max_seconds" if seconds > self.max_seconds * _NEAR else ""


@dataclass(frozen=True, slots=True)
class RunTask:
    """A run to be carried out: who asked for what, of whom, with which history.

    `refusal`: a guardrail policy does not let the input pass, so no model is asked (`screening.GuardrailViolationError`).
    `decisions`: answers to what earlier runs of the thread had asked. `resume`: where to go on; None for a run that begins.
    `holds_budgets`: something is reserved for it that its end must give back.
    `memory`: the summary of the thread's older part.
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
    holds_budgets: bool = False
    memory: Memory | None = None


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
    """Model turns of a run, their tokens by provider and model, and their cost in US dollars, over all processes that carried it out.

    `cost` None: not known, because a model that was used has no price. `model`: the provider and name of the one that answered last.
    """

    turns: int = 0
    by_model: dict[tuple[str, str], Usage] = field(default_factory=dict)
    cost: Decimal | None = Decimal(0)
    model: tuple[str, str] | None = None

    @classmethod
    def at(cls, point: ResumePoint | None) -> Totals:
        """What a run begins with: nothing, or what its predecessors used."""
        totals = cls(turns=point.turns if point else 0)
        totals._add_details(point.spent if point else ())
        return totals

    @classmethod
    def of_steps(cls, steps: Iterable[StoredStep]) -> Totals:
        """What a run has used by its steps, whatever else can be read of it."""
        totals = cls()
        with suppress(KeyError, TypeError, ValueError, ArithmeticError):
            totals._add_details(spent_by(steps))
        return totals

    def _add_details(self, details: Iterable[dict[str, Any]]) -> None:
        for detail in details:
            cost = None if detail.get("cost") is None else Decimal(detail["cost"])
            self.add(detail.get("provider", ""), detail.get("model", ""), Usage(**detail["usage"]), cost)

    def add(self, provider: str, model: str, usage: Usage, cost: Decimal | None) -> None:
        """Count a model turn."""
        self.model = (provider, model)
        self.by_model[self.model] = self.by_model.get(self.model, Usage()) + usage
        self.cost = None if self.cost is None or cost is None else self.cost + cost

    @property
    def input_tokens(self) -> int:
        """Of all models."""
        return sum(usage.input_tokens for usage in self.by_model.values())

    @property
    def output_tokens(self) -> int:
        """Of all models."""
        return sum(usage.output_tokens for usage in self.by_model.values())

    def as_usage(self, model: str) -> list[ev.TokenUsage]:
        """The protocol's usage, an entry for each model that was used; zeros for `model` when none was."""
        if not self.by_model:
            return [_token_usage("", model, Usage())]
        return [_token_usage(provider, name, usage) for (provider, name), usage in self.by_model.items()]


def _token_usage(provider: str, model: str, usage: Usage) -> ev.TokenUsage:
    return ev.TokenUsage(
        provider=provider or ev.UNSET,
        model=model or ev.UNSET,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens or ev.UNSET,
        cached_input_tokens=usage.cached_input_tokens or ev.UNSET,
    )


@dataclass(slots=True)
class Conversation:
    """The messages of a run: what came in, then what is added, as AG-UI messages. `response` is what was said last.

    `corrections`: what the model said last in the wrong form; no messages.
    """

    known: list[dict[str, Any]]
    added: list[dict[str, Any]] = field(default_factory=list)
    response: str = ""
    corrections: list[Rejection] = field(default_factory=list)

    @classmethod
    def of(cls, task: RunTask) -> Conversation:
        """As it stands when the task is taken up."""
        point = task.resume
        added = [*task.new_messages, *(point.added if point else ())]
        response, corrections = (point.response, point.corrections) if point else ("", [])
        return cls(list(task.known_messages), added, response, list(corrections))

    def all(self) -> list[dict[str, Any]]:
        """Everything, oldest first."""
        return [*self.known, *self.added]

    def add(self, *messages: dict[str, Any]) -> None:
        """Append messages; the text of the assistant's last one is the response."""
        for message in messages:
            self.added.append(message)
            if message["role"] == "assistant" and message.get("content") and "subagentRunId" not in message:
                self.response = message["content"]

    def note_form(self, rejected: Rejection | None) -> None:
        """A model turn had the right form (None), or is to be mended."""
        self.corrections = [] if rejected is None else [*self.corrections, rejected]

    def unanswered(self) -> list[dict[str, Any]]:
        """Tool calls without a result, as the messages hold them."""
        messages = self.all()
        answered = {message["toolCallId"] for message in messages if message["role"] == "tool"}
        return [call for message in messages for call in message.get("toolCalls", ()) if call["id"] not in answered]

    def call_ids(self) -> set[str]:
        """Ids of all tool calls in it."""
        return {call["id"] for message in self.all() for call in message.get("toolCalls", ())}
