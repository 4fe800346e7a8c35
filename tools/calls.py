"""What passes through the door: a call, who makes it, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from audit.actor import Actor
from audit.entry import AuditEntry
from tools.governance.approvals import Approval


class Recorder(Protocol):
    """Where the door writes its audit entries: a run's journal (under its fence) or the process's writer."""

    async def record(self, entry: AuditEntry) -> None:
        """Queue the entry and return once it is committed; raises when it cannot be, and then nothing is executed."""
        ...

    def note(self, entry: AuditEntry) -> None:
        """Queue the entry and go on: it tells what came of something whose intent is committed."""
        ...


class ProgressListener(Protocol):
    """Is told how far a call is; must not block."""

    def __call__(self, done: float, total: float | None, message: str) -> None:
        """`done` grows; `total`, where it is known, is what it grows to."""
        ...


class ToolOutcome(StrEnum):
    """How a call ended; everything but `OK` is told to the model with a reason."""

    OK = "ok"
    UNKNOWN_TOOL = "unknown_tool"
    DISABLED = "disabled"
    DENIED = "denied"
    INVALID_ARGUMENTS = "invalid_arguments"
    NEEDS_APPROVAL = "needs_approval"
    MISSING_CREDENTIAL = "missing_credential"
    RATE_LIMITED = "rate_limited"
    OVER_BUDGET = "over_budget"
    TIMED_OUT = "timed_out"
    FAILED = "failed"
    WITHHELD = "withheld"
    """It was made, and a guardrail policy withholds what came of it."""


class FailureKind(StrEnum):
    """What kind of failure a call met, so that whoever made it can decide what to do next."""

    BAD_ARGUMENTS = "bad_arguments"
    REFUSED = "refused"
    NOT_FOUND = "not_found"
    TIMEOUT = "timeout"
    UPSTREAM_ERROR = "upstream_error"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    NEEDS_APPROVAL = "needs_approval"
    REPEATED = "repeated"


_KINDS = {
    ToolOutcome.UNKNOWN_TOOL: FailureKind.NOT_FOUND,
    ToolOutcome.DISABLED: FailureKind.UNAVAILABLE,
    ToolOutcome.DENIED: FailureKind.REFUSED,
    ToolOutcome.INVALID_ARGUMENTS: FailureKind.BAD_ARGUMENTS,
    ToolOutcome.NEEDS_APPROVAL: FailureKind.NEEDS_APPROVAL,
    ToolOutcome.MISSING_CREDENTIAL: FailureKind.UNAVAILABLE,
    ToolOutcome.RATE_LIMITED: FailureKind.RATE_LIMITED,
    ToolOutcome.OVER_BUDGET: FailureKind.RATE_LIMITED,
    ToolOutcome.TIMED_OUT: FailureKind.TIMEOUT,
    ToolOutcome.WITHHELD: FailureKind.REFUSED,
}


class SideEffects(StrEnum):
    """What an interrupted call means: repeat it, repeat it under its key, or ask a person."""

    IDEMPOTENT = "idempotent"
    KEYED = "keyed"
    UNSAFE = "unsafe"


class CacheScope(StrEnum):
    """Who shares a result that is kept for a while."""

    USER = "user"
    ROLE = "role"


class RateLimitScope(StrEnum):
    """Who shares a tool's rate limit."""

    CALLER = "caller"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """What a model and a caller see of a tool, in its pinned version."""

    name: str
    title: str
    description: str
    input_schema: dict[str, Any]
    side_effects: SideEffects
    version: int
    digest: str
    output_schema: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A wish to call a tool: `arguments` is the JSON text as the caller wrote it, not yet read."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class CallContext:
    """For whom and for what a call is made.

    `allowed_tools` narrows the registry to an agent's tools; None is all of it. `origin` says who calls: `run`, `mcp`, or `test`
    (the console); `agent` is the slug of the agent whose run calls. `approval`: a person's yes, which the door holds against the call.
    `allow_disabled`: a tool that is switched off may be called all the same, which only a console test may. `progress` is told how far
    a long call is. `guardrails`: the policies that the agent names; those that apply everywhere always do.
    """

    actor: Actor
    recorder: Recorder
    allowed_tools: frozenset[str] | None = None
    run_id: UUID | None = None
    thread_id: UUID | None = None
    request_id: str = ""
    trace_id: str = ""
    origin: str = "run"
    agent: str = ""
    approval: Approval | None = None
    allow_disabled: bool = False
    progress: ProgressListener | None = None
    guardrails: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What came of a call. `content` is the text for the model (bounded); `value` the same before it became text.

    `policy_version`: of the guardrail policy that refused the call or withholds its result. `details["guardrails"]`: what policies found,
    masked. `details["approval"]` of a call that NEEDS_APPROVAL is the `ApprovalRequest`: what a person has to say yes to.
    `failure_kind` is what the tool itself says of its failure; `kind` is that, or what the outcome says.
    """

    outcome: ToolOutcome
    content: str
    value: Any = None
    error: str = ""
    retryable: bool = False
    version: int = 0
    duration_ms: float = 0.0
    truncated: bool = False
    cached: bool = False
    retry_after_seconds: float = 0.0
    policy_version: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    failure_kind: FailureKind | None = None

    @property
    def ok(self) -> bool:
        """Whether the tool did what was asked."""
        return self.outcome is ToolOutcome.OK

    @property
    def kind(self) -> FailureKind:
        """What kind of failure this is (of a call that failed)."""
        return self.failure_kind or _KINDS.get(self.outcome, FailureKind.UPSTREAM_ERROR)
