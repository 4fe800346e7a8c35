"""What tasks need of runs: the port that orchestration implements and the composition root joins.

A task's work is done by runs, which this room knows by their public ids only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from opentelemetry.context import Context as TraceContext

from audit.actor import Actor


@dataclass(frozen=True, slots=True)
class ExposedAgent:
    """An agent that others may give tasks to. `skills`: as its card says them."""

    slug: str
    name: str
    description: str
    skills: tuple[dict[str, Any], ...]
    is_default: bool
    changed_at: datetime
    answers_in_json: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to one open question of the context. `payload`: `approved` (true or false) and what else its schema allows."""

    question_id: str
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunWish:
    """A run that a task needs. `text` empty: it only brings answers. `properties`: what the run is told beside its messages."""

    actor: Actor
    agent: str
    context_id: str
    run_id: str
    text: str
    answers: tuple[Answer, ...] = ()
    properties: dict[str, Any] = field(default_factory=dict)
    request_id: str = ""
    trace_context: TraceContext | None = None


class Phase(StrEnum):
    """Where a run stands."""

    GOING_ON = "going_on"
    INTERRUPTED = "interrupted"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class RunKey:
    """A run as its owner knows it."""

    tenant: str
    owner_id: str
    run_id: str


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as it stands. `texts`: what the agent said, message by message, once it has ended. `next_run`: the one after it in its
    thread.
    """

    phase: Phase
    texts: tuple[str, ...] = ()
    questions: tuple[dict[str, Any], ...] = ()
    result: dict[str, Any] | None = None
    error_code: str = ""
    error_message: str = ""
    next_run: str = ""


@dataclass(frozen=True, slots=True)
class TextBegins:
    """The agent begins a message. `number`: 0 for the run's first one; a message that is begun again has the same number."""

    number: int


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of a message."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class TextEnds:
    """The message is complete."""

    number: int


@dataclass(frozen=True, slots=True)
class TextIsVoid:
    """A message was cut off with the process that wrote it; another may take its place."""

    number: int


RunUpdate = TextBegins | TextDelta | TextEnds | TextIsVoid


class StreamInterruptedError(Exception):
    """Following ends here, though the run goes on: the process shuts down, or the log cannot be read."""


class RunPort(Protocol):
    """Agents and runs, as tasks use them."""

    @property
    def is_ending(self) -> bool:
        """Whether this process shuts down: whoever waits is told to come again."""
        ...

    async def exposed(self, slug: str) -> ExposedAgent | None:
        """The agent of this slug if it is exposed; an empty slug is the default agent's."""
        ...

    async def start(self, wish: RunWish) -> None:
        """Begin a run here. Raises Problem."""
        ...

    async def view(self, keys: Sequence[RunKey]) -> dict[RunKey, RunView]:
        """How these runs stand; those that do not exist are left out."""
        ...

    def follow(self, actor: Actor, run_id: str) -> AsyncIterator[RunUpdate]:
        """What a run says, from its beginning to its end, wherever it is carried out. Raises Problem, StreamInterruptedError."""
        ...

    async def cancel(self, actor: Actor, run_id: str) -> bool:
        """Ask for a run's end; returns whether it was still going on. Raises Problem."""
        ...

    async def withdraw(self, actor: Actor, run_id: str, request_id: str = "") -> bool:
        """Take back what a run asked: nobody can say yes any more. False when that was answered, and work goes on."""
        ...
