"""The one door: every tool call goes through `call_tool`, whoever makes it.

The order: known? given to this agent? switched on? role and deny rules? rate limit? arguments, and do guardrail
policies let them pass, do they fit, are they allowed to this role? a person's approval, of this very call? credentials? budgets? Then the
permission is recorded and committed, and only then the tool is executed (or a kept result taken). Guardrail policies
see the result before anybody else does; what came of it is recorded after. A refusal is recorded, too, and told to the
model with what would help. Nothing is executed that cannot be recorded: what the recorder raises passes through.

A cancelled call ends with CancelledError and without a second record: permitted and not ended means interrupted.
A blocking function cannot be stopped; it ends on its thread, unheard.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import traceback
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Final

import orjson
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential

from agentbackend.foundation import metrics
from audit import actions
from audit.actor import Actor
from audit.entry import AuditEntry, Outcome, Target, entry
from tools import credentials as tool_credentials
from tools import result_cache
from tools.call_screening import CallScreening, arguments_withheld, refusal_text, withheld_by
from tools.call_slots import CallSlots, NoSlotError
from tools.calls import CallContext, ProgressListener, SideEffects, ToolCall, ToolOutcome, ToolResult
from tools.credentials import Credentials, MissingCredentialError
from tools.governance.approvals import ApprovalRequest, Binding, digest_of_arguments
from tools.governance.budget_ledger import ledger
from tools.governance.budgets import OverBudgetError
from tools.governance.findings import as_details
from tools.governance.findings import count as count_findings
from tools.governance.findings import entries as finding_entries
from tools.governance.rate_limits import RateLimitedError, use_tool_limit
from tools.governance.roles import Decision
from tools.handlers import HANDLERS, UnusableHandlerError
from tools.invocation import ToolError, ToolInvocation
from tools.output import Output, as_output
from tools.registry import RegisteredTool, Snapshot, ToolRegistry, registry
from tools.schema_cost import size_of
from tools.schemas import problems

logger = logging.getLogger(__name__)

MAX_ARGUMENT_BYTES: Final = 64 * 1024
MAX_ARGUMENT_DEPTH: Final = 100
MAX_MESSAGE_LENGTH: Final = 2000
SOON_SECONDS: Final = 60.0
"""A budget that renews within this time makes a call worth repeating in the same conversation."""

_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # as JSON writes it
_grown_pause = wait_exponential(multiplier=0.1, max=10)
_slots = CallSlots()


class Refusal(Exception):
    """The call does not take place. `message` is for the model and the user, `note` for the operator only."""

    def __init__(
        self,
        outcome: ToolOutcome,
        reason: str,
        message: str,
        *,
        retryable: bool = False,
        note: str = "",
        retry_after_seconds: float = 0.0,
        approval: ApprovalRequest | None = None,
        policy_version: str = "",
    ) -> None:
        self.policy_version = policy_version
        self.retry_after_seconds = retry_after_seconds
        self.approval = approval
        self.outcome = outcome
        self.reason = reason
        self.message = message
        self.retryable = retryable
        self.note = note
        super().__init__(message)


@dataclass(slots=True)
class _Passing:
    """A call on its way through the door; `arguments` as far as they could be read."""

    call: ToolCall
    context: CallContext
    started: float
    screening: CallScreening
    tool: RegisteredTool | None = None
    arguments: Any = None
    screened: bool = False

    @property
    def version(self) -> int:
        """Number of the version that is called; 0 when there is no such tool."""
        return self.tool.definition.version if self.tool else 0

    @property
    def milliseconds(self) -> float:
        """How long it has taken so far."""
        return (time.monotonic() - self.started) * 1000


async def call_tool(call: ToolCall, context: CallContext, *, registry: ToolRegistry = registry) -> ToolResult:
    """Check, record, execute and record a call; whatever the tool does, a result comes back.

    Raises only what the recorder raises (lease lost, writer stopped: nothing more may be done) and CancelledError.
    """
    started = time.monotonic()
    snapshot = await registry.snapshot()
    screen = await registry.screen(context.guardrails, snapshot=snapshot)
    passing = _Passing(call, context, started, CallScreening(screen))
    try:
        tool, decision = _permitted(passing, snapshot)
        await _within_rate(tool, context.actor)
        arguments = await _read_arguments(passing, tool)
        _check_allowed(snapshot, tool, context.actor, arguments)
        _check_approved(passing, tool, arguments)
        credentials = _credentials(tool, snapshot)
        await _within_budget(snapshot, context)
    except Refusal as refusal:
        return _counted(passing, await _refuse(passing, refusal))
    details = {"arguments": arguments, "uses": list(credentials), "enabled": tool.enabled}
    if context.approval is not None:
        details["approval"] = context.approval.as_details()
    await _record(passing, actions.TOOL_ALLOWED, reason=decision.reason_code, details=details)
    result = await _kept_or_executed(passing, snapshot, tool, arguments, credentials)
    result = await passing.screening.result(result, tool.definition.name)
    _note_findings(passing)
    _note_result(passing, result)
    return _counted(passing, result)


# --- may it be called?


def _permitted(passing: _Passing, snapshot: Snapshot) -> tuple[RegisteredTool, Decision]:
    """The tool and why its caller may use it; raises Refusal."""
    name, context = passing.call.name, passing.context
    tool = passing.tool = snapshot.tools.get(name)
    if tool is None:
        raise Refusal(ToolOutcome.UNKNOWN_TOOL, "unknown_tool", f"There is no tool named {_quoted(name)}.")
    if context.allowed_tools is not None and name not in context.allowed_tools:
        raise Refusal(ToolOutcome.DENIED, "not_a_tool_of_this_agent", f"This agent does not have the tool {name}.")
    if not tool.enabled and not context.allow_disabled:
        raise Refusal(ToolOutcome.DISABLED, "disabled", f"The tool {name} is switched off.")
    decision = snapshot.decide(context.actor, tool)
    if not decision.allowed:
        message = f"The user may not use the tool {name}. {decision.explanation}"
        raise Refusal(ToolOutcome.DENIED, decision.reason_code, message)
    return tool, decision


async def _within_rate(tool: RegisteredTool, actor: Actor) -> None:
    if not tool.rate_limit:
        return
    try:
        await use_tool_limit(tool.rate_limit, tool.rate_limit_scope, tool.definition.name, actor)
    except RateLimitedError as error:
        seconds = max(1, ceil(error.retry_after_seconds))
        message = f"The tool {tool.definition.name} may be called {error.limit}. Try again in {seconds} seconds."
        raise Refusal(
            ToolOutcome.RATE_LIMITED, "rate_limited", message, retryable=True, retry_after_seconds=seconds
        ) from error


# --- with what?


async def _read_arguments(passing: _Passing, tool: RegisteredTool) -> dict[str, Any]:
    """The arguments as guardrail policies let them pass and as they fit the tool's schema; raises Refusal that names what does not.

    The policies come first: what does not fit is named with its value.
    """
    parsed = _parsed(passing.call.arguments)
    withheld = withheld_by(parsed)
    if withheld is not None:
        version, category = withheld
        message = refusal_text(version.partition(":")[0], category, tool.definition.name)
        raise Refusal(ToolOutcome.DENIED, "guardrail", message, policy_version=version)
    passing.arguments = arguments = await passing.screening.arguments(parsed)
    passing.screened = True
    blocked = passing.screening.blocked
    if blocked is not None:
        policy = blocked.policy
        passing.arguments = arguments_withheld(blocked)
        message = refusal_text(policy.name, blocked.category, tool.definition.name, policy.message)
        raise Refusal(ToolOutcome.DENIED, "guardrail", message, policy_version=policy.policy_version)
    found = problems(tool.input_schema, arguments)
    if found:
        raise _invalid("They do not fit the tool's schema: " + "; ".join(found) + ".")
    return arguments


def _parsed(text: str) -> dict[str, Any]:
    if len(text) > MAX_ARGUMENT_BYTES or len(text.encode(errors="surrogatepass")) > MAX_ARGUMENT_BYTES:
        raise _invalid(f"They are longer than {MAX_ARGUMENT_BYTES} bytes.")
    if _NUL.search(text):
        raise _invalid("They hold a NUL character.")
    try:
        arguments = orjson.loads(text) if text.strip() else {}
    except orjson.JSONDecodeError as error:
        raise _invalid(f"They are not JSON: {error}.") from error
    if not isinstance(arguments, dict):
        raise _invalid("They must be a JSON object.")
    if size_of(arguments)[1] > MAX_ARGUMENT_DEPTH:
        raise _invalid(f"They are nested more than {MAX_ARGUMENT_DEPTH} levels deep.")
    return arguments


def _invalid(what: str) -> Refusal:
    message = f"The arguments cannot be used. {what} Call the tool again with arguments that fit."
    return Refusal(ToolOutcome.INVALID_ARGUMENTS, "invalid_arguments", message, retryable=True)


def _check_allowed(snapshot: Snapshot, tool: RegisteredTool, actor: Actor, arguments: dict[str, Any]) -> None:
    unfit = snapshot.unfit(actor, tool, arguments)
    if unfit is not None:
        message = f"The user may not call {tool.definition.name} in this way. {unfit.explanation}"
        raise Refusal(ToolOutcome.DENIED, "argument_rule", message)


def approval_request(
    tool: RegisteredTool, actor: Actor, arguments: Any, *, policy_versions: tuple[str, ...] = (), because: str = ""
) -> ApprovalRequest:
    """What a person is asked about this call. `policy_versions`: of the policies that ask, beside the tool itself."""
    definition = tool.definition
    binding = Binding(
        tenant=actor.tenant,
        actor_id=actor.id,
        tool=definition.name,
        tool_version=definition.version,
        tool_digest=definition.digest,
        arguments_digest=digest_of_arguments(arguments),
        policy_versions=(*((tool.policy_version,) if tool.approval_required else ()), *policy_versions),
    )
    return ApprovalRequest(binding, tool.approval_by, tool.approver_role, tool.approval_expires_seconds, because)


def _check_approved(passing: _Passing, tool: RegisteredTool, arguments: dict[str, Any]) -> None:
    """Whether a person has said yes to this very call, where its tool, or one of these policies, wants that."""
    context = passing.context
    asking = tuple(passing.screening.asking)
    request = approval_request(tool, context.actor, arguments, policy_versions=asking)
    approval = context.approval
    if approval is None:
        if request.binding.policy_versions:
            raise _needs_approval(context, request, asking)
        return
    if approval.has_expired():
        message = (
            f"A person had approved this call of {tool.definition.name}, but the approval expired before the call could be "
            "made, so it was not made. Call the tool again if it is still wanted: a person is then asked again."
        )
        raise Refusal(ToolOutcome.DENIED, "approval_expired", message)
    because = approval.unfit(request.binding)
    if because:
        raise _needs_approval(context, replace(request, because=because), asking)


def _needs_approval(context: CallContext, request: ApprovalRequest, asking: tuple[str, ...]) -> Refusal:
    message = f"A person must approve each call of the tool {request.binding.tool}."
    if request.because:
        message = f"{request.because} A person is asked again about this call of the tool {request.binding.tool}."
    if context.origin != "run":
        message += " Nobody can be asked from here: an agent of this service that calls the tool in a run asks for it."
    reason = "approval_unfit" if request.because else "approval_required"
    version = asking[0] if asking else ""
    return Refusal(ToolOutcome.NEEDS_APPROVAL, reason, message, approval=request, policy_version=version)


class _NoRecorder:
    """Of a call that is only judged there is nothing to record."""

    async def record(self, entry: AuditEntry) -> None:
        raise NotImplementedError

    def note(self, entry: AuditEntry) -> None:
        raise NotImplementedError


async def refused_before_approval(
    call: ToolCall,
    actor: Actor,
    *,
    allowed_tools: frozenset[str] | None = None,
    guardrails: frozenset[str] | None = None,
    registry: ToolRegistry = registry,
) -> Refusal | None:
    """Why this call could not be made even if a person approves it; nothing is executed, recorded or counted.

    For arguments that a person has edited: what the door would refuse is said at once.
    """
    snapshot = await registry.snapshot()
    passing = await _only_judged(call, actor, registry, allowed_tools, guardrails)
    try:
        tool, _ = _permitted(passing, snapshot)
        _check_allowed(snapshot, tool, actor, await _read_arguments(passing, tool))
    except Refusal as refusal:
        return refusal
    return None


async def request_for(
    call: ToolCall, actor: Actor, *, guardrails: frozenset[str] | None = None, registry: ToolRegistry = registry
) -> ApprovalRequest | None:
    """What a person is asked about this call as the registry is now; None when there is no such tool, or its arguments do not fit."""
    tool = (await registry.snapshot()).tools.get(call.name)
    if tool is None:
        return None
    passing = await _only_judged(call, actor, registry, None, guardrails)
    try:
        arguments = await _read_arguments(passing, tool)
    except Refusal:
        return None
    return approval_request(tool, actor, arguments, policy_versions=tuple(passing.screening.asking))


async def _only_judged(
    call: ToolCall,
    actor: Actor,
    registry: ToolRegistry,
    allowed_tools: frozenset[str] | None,
    guardrails: frozenset[str] | None,
) -> _Passing:
    context = CallContext(actor=actor, recorder=_NoRecorder(), allowed_tools=allowed_tools, guardrails=guardrails)
    screen = await registry.screen(guardrails, snapshot=await registry.snapshot())
    return _Passing(call, context, time.monotonic(), CallScreening(screen))


async def _within_budget(snapshot: Snapshot, context: CallContext) -> None:
    """Count the call, last of all: what is refused for another reason is not counted. A trial in the console is nobody's call."""
    if not snapshot.budgets or context.origin == "test":
        return
    try:
        await ledger.use_tool_call(context.agent, context.actor, snapshot)
    except OverBudgetError as over:
        raise Refusal(
            ToolOutcome.OVER_BUDGET,
            "over_budget",
            str(over),
            retryable=over.seconds <= SOON_SECONDS and not over.is_hopeless,
            retry_after_seconds=0 if over.is_hopeless else over.retry_after,
            policy_version=over.rule.policy_version,
        ) from over


def _credentials(tool: RegisteredTool, snapshot: Snapshot) -> Credentials:
    try:
        return tool_credentials.resolve(tool.required_credentials, snapshot.vault)
    except MissingCredentialError as error:
        message = (
            f"The tool {tool.definition.name} is not set up completely, so it cannot be used at the moment. "
            "An operator of this service can set it up."
        )
        raise Refusal(
            ToolOutcome.MISSING_CREDENTIAL, "missing_credential", message, note=f"{error.name} {error.problem}"
        ) from error


# --- doing it


async def _kept_or_executed(
    passing: _Passing,
    snapshot: Snapshot,
    tool: RegisteredTool,
    arguments: dict[str, Any],
    credentials: Credentials,
) -> ToolResult:
    """The kept result of the same call, or what comes of it now."""
    if not tool.cache_seconds:
        return await _execute(passing, tool, arguments, credentials)
    key = result_cache.key_of(snapshot, tool, arguments, passing.context.actor)
    kept = await result_cache.find(key)
    if kept is not None:
        return replace(_checked(passing, tool, kept), cached=True)
    result = await _execute(passing, tool, arguments, credentials)
    if result.ok and not result.truncated:
        await result_cache.keep(key, Output(result.content, result.value, truncated=False), tool.cache_seconds)
    return result


async def _execute(
    passing: _Passing, tool: RegisteredTool, arguments: dict[str, Any], credentials: Credentials
) -> ToolResult:
    try:
        async with _slots.slot(tool.definition.name, tool.max_concurrent, tool.timeout_seconds):
            return await _execute_now(passing, tool, arguments, credentials)
    except NoSlotError:
        message = f"The tool {tool.definition.name} is busy: too many calls of it are going on. Try again in a moment."
        return _failed(passing, ToolOutcome.RATE_LIMITED, message, retryable=True)


async def _execute_now(
    passing: _Passing, tool: RegisteredTool, arguments: dict[str, Any], credentials: Credentials
) -> ToolResult:
    try:
        async with asyncio.timeout(tool.timeout_seconds) as limit:
            value = await _with_retries(tool, arguments, _invocation(passing, tool, credentials))
    except ToolError as error:
        message = _bounded(credentials.hide(error.message))
        failed = _failed(passing, ToolOutcome.FAILED, message, retryable=error.retryable)
        return replace(failed, retry_after_seconds=error.retry_after_seconds, failure_kind=error.kind)
    except TimeoutError as error:
        if limit.expired():
            return _failed(passing, ToolOutcome.TIMED_OUT, _late(tool), retryable=_may_repeat(tool))
        return _broken(passing, tool, error, credentials)
    except Exception as error:
        return _broken(passing, tool, error, credentials)
    try:
        output = as_output(value, credentials, tool.output_limit_bytes)
    except (TypeError, ValueError, RecursionError) as error:
        return _broken(passing, tool, error, credentials)
    return _checked(passing, tool, output)


async def _with_retries(tool: RegisteredTool, arguments: dict[str, Any], invocation: ToolInvocation) -> Any:
    """Execute, and again after a failure that may pass, where the tool allows it and time is left."""
    handler = HANDLERS.get(tool.handler_type)
    if handler is None:
        raise UnusableHandlerError(f"there is no handler for {tool.handler_type!r}")
    tries = 1 + (tool.max_retries if _may_repeat(tool) else 0)
    retrying = AsyncRetrying(
        retry=retry_if_exception(lambda error: isinstance(error, ToolError) and error.retryable),
        wait=_pause,
        stop=lambda state: state.attempt_number >= tries or state.upcoming_sleep >= invocation.seconds_left,
        reraise=True,
    )
    return await retrying(handler.execute, tool.handler, arguments, invocation)


def _pause(state: RetryCallState) -> float:
    """Longer after each try, and not shorter than the tool said."""
    error = state.outcome.exception() if state.outcome else None
    asked_for = error.retry_after_seconds if isinstance(error, ToolError) else 0.0
    return max(asked_for, _grown_pause(state))


def _invocation(passing: _Passing, tool: RegisteredTool, credentials: Credentials) -> ToolInvocation:
    call, context = passing.call, passing.context
    return ToolInvocation(
        tool=tool.definition.name,
        version=tool.definition.version,
        call_id=call.id,
        idempotency_key=f"{context.run_id or context.request_id}:{call.id}",
        actor=context.actor,
        credentials=credentials,
        deadline=time.monotonic() + tool.timeout_seconds,
        side_effects=tool.definition.side_effects,
        run_id=context.run_id,
        progress=_hiding(context.progress, credentials, passing.screening),
    )


def _hiding(
    listener: ProgressListener | None, credentials: Credentials, screening: CallScreening
) -> ProgressListener | None:
    """The listener, hearing of messages without credentials and as guardrails let them pass: it may be told what another server wrote."""
    if listener is None:
        return None

    def hear(done: float, total: float | None, message: str) -> None:
        listener(done, total, screening.progress(credentials.hide(message)))

    return hear


def _checked(passing: _Passing, tool: RegisteredTool, output: Output) -> ToolResult:
    """The result, when it is what the tool promises."""
    found = problems(tool.output_schema, output.value) if tool.output_schema is not None else []
    if found:
        logger.error(
            "a tool's result does not fit its output schema",
            extra={"tool": tool.definition.name, "version": passing.version, "problems": found},
        )
        message = f"The tool {tool.definition.name} gave a result that is not what it promises, so it was withheld."
        return _failed(passing, ToolOutcome.FAILED, message)
    return ToolResult(
        ToolOutcome.OK,
        output.text,
        value=None if output.truncated else output.value,
        version=passing.version,
        duration_ms=passing.milliseconds,
        truncated=output.truncated,
    )


def _broken(passing: _Passing, tool: RegisteredTool, error: Exception, credentials: Credentials) -> ToolResult:
    """A fault of the tool: everything for the operator, nothing of the inside for the model."""
    name = tool.definition.name
    trace = credentials.hide("".join(traceback.format_exception(error)))
    logger.error("the tool %s failed\n%s", name, trace, extra={"tool": name, "version": passing.version})
    message = f"The tool {name} failed because of a fault inside it. An operator can see what happened in the log."
    return _failed(passing, ToolOutcome.FAILED, message)


def _late(tool: RegisteredTool) -> str:
    text = f"The tool {tool.definition.name} did not answer within {tool.timeout_seconds:g} seconds."
    return text if _may_repeat(tool) else text + " It may have taken effect all the same; do not repeat it unasked."


def _may_repeat(tool: RegisteredTool) -> bool:
    return tool.definition.side_effects is not SideEffects.UNSAFE


def _failed(passing: _Passing, outcome: ToolOutcome, message: str, *, retryable: bool = False) -> ToolResult:
    return ToolResult(
        outcome,
        message,
        error=message,
        retryable=retryable,
        version=passing.version,
        duration_ms=passing.milliseconds,
    )


# --- recording


_POLICY_OUTCOMES = frozenset(
    {ToolOutcome.UNKNOWN_TOOL, ToolOutcome.DISABLED, ToolOutcome.DENIED, ToolOutcome.OVER_BUDGET}
)


async def _refuse(passing: _Passing, refusal: Refusal) -> ToolResult:
    """Record a refusal and tell it: denied by a rule, or impossible as it was asked."""
    logger.log(
        logging.WARNING if refusal.note else logging.INFO,
        "a tool call was refused",
        extra={"tool": _bounded(passing.call.name), "reason": refusal.reason, "note": refusal.note},
    )
    arguments = passing.arguments
    if not passing.screened:
        arguments = passing.screening.recordable(_bounded(passing.call.arguments))
    details = {"arguments": arguments, "message": refusal.message, "note": refusal.note}
    if refusal.approval is not None:
        details["binding"] = refusal.approval.binding.as_document()
    if refusal.outcome is ToolOutcome.NEEDS_APPROVAL:
        await _record(passing, actions.TOOL_APPROVAL_ASKED, reason=refusal.reason, details=details)
    elif refusal.outcome in _POLICY_OUTCOMES:
        version = refusal.policy_version
        await _record(passing, actions.TOOL_DENIED, Outcome.DENIED, refusal.reason, details, policy_version=version)
    else:
        await _record(passing, actions.TOOL_FAILED, Outcome.FAILURE, refusal.reason, details)
    failed = _failed(passing, refusal.outcome, refusal.message, retryable=refusal.retryable)
    _note_findings(passing)
    found: dict[str, Any] = {}
    if passing.screening.findings:
        found["guardrails"] = as_details(passing.screening.findings)
    if refusal.approval is not None:
        found["approval"] = refusal.approval
    return replace(
        failed,
        retry_after_seconds=refusal.retry_after_seconds,
        policy_version=refusal.policy_version,
        details={**failed.details, **found},
    )


def _note_findings(passing: _Passing) -> None:
    """Count and record what guardrail policies found."""
    found = passing.screening.findings
    if not found:
        return
    count_findings(found)
    for audit_entry in finding_entries(found, **_common(passing), details=_about(passing)):
        passing.context.recorder.note(audit_entry)


def _note_result(passing: _Passing, result: ToolResult) -> None:
    details = {"duration_ms": round(result.duration_ms, 1), "truncated": result.truncated, "cached": result.cached}
    if result.ok:
        found = _entry(passing, actions.TOOL_CALLED, details={**details, "result": result.content})
    else:
        reason = result.outcome.value
        found = _entry(passing, actions.TOOL_FAILED, Outcome.FAILURE, reason, {**details, "message": result.error})
    passing.context.recorder.note(found)


async def _record(
    passing: _Passing,
    action: str,
    outcome: Outcome = Outcome.SUCCESS,
    reason: str = "",
    details: dict[str, Any] | None = None,
    *,
    policy_version: str = "",
) -> None:
    await passing.context.recorder.record(
        _entry(passing, action, outcome, reason, details, policy_version=policy_version)
    )


def _entry(
    passing: _Passing,
    action: str,
    outcome: Outcome = Outcome.SUCCESS,
    reason: str = "",
    details: dict[str, Any] | None = None,
    *,
    policy_version: str = "",
) -> AuditEntry:
    """An entry about the call; `policy_version` where another policy than the tool's own version decided."""
    return entry(
        action,
        outcome=outcome,
        reason=reason,
        policy_version=policy_version or (passing.tool.policy_version if passing.tool else ""),
        details={**_about(passing), **(details or {})},
        **_common(passing),
    )


def _about(passing: _Passing) -> dict[str, Any]:
    return {"call_id": passing.call.id, "tool": _bounded(passing.call.name), "origin": passing.context.origin}


def _common(passing: _Passing) -> dict[str, Any]:
    context = passing.context
    return {
        "actor": context.actor,
        "target": Target("tool", passing.call.name),
        "run_id": context.run_id,
        "thread_id": context.thread_id,
        "request_id": context.request_id,
        "trace_id": context.trace_id,
    }


def _counted(passing: _Passing, result: ToolResult) -> ToolResult:
    """Count the call under its tool's name; names that nobody registered share one label."""
    name = passing.tool.definition.name if passing.tool else "(unknown)"
    metrics.tool_calls.labels(tool=name, outcome=result.outcome.value).inc()
    metrics.tool_call_seconds.labels(tool=name).observe(result.duration_ms / 1000)
    return result


def _bounded(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE_LENGTH else text[:MAX_MESSAGE_LENGTH] + "..."


def _quoted(name: str) -> str:
    return repr(name if len(name) <= 64 else name[:64] + "...")
