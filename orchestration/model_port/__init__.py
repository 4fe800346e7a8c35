"""The port to models: what a run asks of one, what comes back, and how it can fail.

The types stand here, without the openai package, whose import takes a second; `orchestration.model_port.opening` makes the real port.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, astuple, dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

FinishReason = Literal["stop", "tool_calls", "length", "content_filter"]


@dataclass(frozen=True, slots=True)
class Rejection:
    """An answer in another form than was asked for: what the model said (bounded), and what it is told so that it can mend it.

    `code`: a key of PROBLEMS, which ends the run when the model does not mend it.
    """

    code: str
    said: str
    correction: str

    def as_dict(self) -> dict[str, str]:
        """For records."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One model turn, in the form of the chat-completions API.

    `model` as agents name it: `model`, or `provider:model`. `may_be_slow`: nobody else could answer, so it is worth waiting as long as
    the provider asks for; else a try that would have to wait is not made. `may_call`: whether it may call the tools now.
    `corrections`: what the model said last in the wrong form; for ports that ask for a form (`orchestration.answer_forms`).
    """

    model: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list)
    temperature: float | None = None
    max_output_tokens: int | None = None
    may_be_slow: bool = True
    may_call: bool = True
    response_format: dict[str, Any] | None = None
    corrections: tuple[Rejection, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one turn as the provider counts them."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    reasoning_tokens: int = 0
    cached_input_tokens: int = 0

    def as_dict(self) -> dict[str, int]:
        """For records."""
        return asdict(self)

    def __add__(self, other: Usage) -> Usage:
        """Both together."""
        return Usage(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of the model's reasoning, as far as it shows it."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """A tool call begins. `id` is the provider's, empty when it gave none."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """More of the arguments' JSON text of a call that has started."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a turn. `rejected`: nothing of it counts but the usage; the model is told why."""

    reason: FinishReason
    usage: Usage | None
    rejected: Rejection | None = None


ModelEvent: TypeAlias = TextDelta | ReasoningDelta | ToolCallStarted | ToolCallArguments | Finished


class ModelError(Exception):
    """A turn that failed. `code` is a key of PROBLEMS; `message` is for the user and holds nothing of the provider's inside."""

    def __init__(self, code: str, message: str, *, retryable: bool = False, retry_after: float | None = None) -> None:
        self.code = code
        self.message = message
        self.retryable = retryable
        self.retry_after = retry_after
        super().__init__(f"{code}: {message}")


class ModelPort(Protocol):
    """A model, one per process. `stream` may be used by many runs at once."""

    def stream(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[list[ModelEvent]]]:
        """One turn: a list of events for each read from the provider, `Finished` last.

        Leaving the context, also by cancellation, closes the provider's connection. Raises ModelError on entry and while iterating.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...
