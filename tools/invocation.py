"""What a handler is given beside a call's arguments, and the error by which it says what went wrong."""

from __future__ import annotations

import time
from dataclasses import dataclass
from uuid import UUID

from audit.actor import Actor
from tools.calls import FailureKind, ProgressListener, SideEffects
from tools.credentials import Credentials


class ToolError(Exception):
    """A tool cannot do what was asked; the text is shown to the model and to the user.

    Write what went wrong and what would help. `retryable` says that the same call may succeed in a moment, and
    `retry_after_seconds` that it cannot before; the door repeats it where the tool allows that and time is left. `kind` says
    what went wrong, for whoever decides what to do next; without one it is an error of what stands behind the tool.
    """

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = False,
        retry_after_seconds: float = 0.0,
        kind: FailureKind | None = None,
    ) -> None:
        self.message = message
        self.kind = kind
        self.retryable = retryable
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class ToolInvocation:
    """One call as its handler sees it: who asks, with which credentials, until when.

    `idempotency_key` is the same when the same call is carried out again; `deadline` is a moment of
    `time.monotonic()`.
    """

    tool: str
    version: int
    call_id: str
    idempotency_key: str
    actor: Actor
    credentials: Credentials
    deadline: float
    side_effects: SideEffects = SideEffects.UNSAFE
    run_id: UUID | None = None
    progress: ProgressListener | None = None

    def report_progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Tell whoever waits how far the call is, where they can be told; costs nothing where they cannot."""
        if self.progress is not None:
            self.progress(done, total, message)

    @property
    def seconds_left(self) -> float:
        """How long the call may still take; 0 when its time is up."""
        return max(0.0, self.deadline - time.monotonic())
