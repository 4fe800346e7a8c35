"""The one door for delegations: a task that a run hands to another agent, whoever carries it out.

A peer is an agent of somebody else behind one small port (`Peer`); here stand who may be asked by whom, what is recorded, and how
long and how much an answer may be. The order is that of the tools' door: known? given to this agent? role? arguments? budgets? Then the
permission is recorded and committed, and only then the peer is asked.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from uuid import NAMESPACE_OID, uuid5

import orjson

from a2a.hops import handed_on, refusal_outbound
from agentbackend.foundation import metrics
from agentbackend.foundation.identifiers import uuid7
from audit import actions
from audit.actor import Actor
from audit.entry import AuditEntry, Outcome, Target, entry
from tools.call_screening import AnswerScreening, CallScreening, refusal_text, withheld_answer, withheld_by
from tools.calls import CallContext, SideEffects, ToolCall, ToolDefinition, ToolOutcome, ToolResult
from tools.governance import findings as of_findings
from tools.governance.budget_ledger import ledger
from tools.governance.budgets import OverBudgetError
from tools.governance.guardrails.policy import Finding
from tools.governance.roles import Decision, may_use
from tools.governance.screens import NO_SCREEN, Screen
from tools.models.names import DELEGATION_PREFIX
from tools.registry import registry
from tools.schemas import problems

logger = logging.getLogger(__name__)

TOOL_PREFIX: Final = DELEGATION_PREFIX
"""A model delegates by calling the tool of this name with the remote agent's appended."""
MAX_TASK_CHARACTERS: Final = 16_000
MAX_ANSWER_CHARACTERS: Final = 64_000

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,50}")
_TASK_SCHEMA: Final = {
    "type": "object",
    "properties": {
        "task": {
            "type": "string",
            "description": "What the agent shall do, with everything that it needs to know: it does not see this conversation.",
            "minLength": 1,
            "maxLength": MAX_TASK_CHARACTERS,
        },
        "continues": {
            "type": "string",
            "description": "Only to answer a question that the agent asked: the value that came with the question.",
            "maxLength": 2000,
        },
    },
    "required": ["task"],
    "additionalProperties": False,
}
_TASK_SCHEMA_BYTES: Final = orjson.dumps(_TASK_SCHEMA)


@dataclass(frozen=True, slots=True)
class RemoteAgent:
    """An agent that tasks can be handed to. `skills`: what it is good at, a phrase each; `timeout_seconds`: for one task.

    `closed`: why nothing is handed to it now; models are not told of it then. `digest`: of the card that it is described by.
    """

    name: str
    title: str
    description: str
    skills: tuple[str, ...] = ()
    required_role: str = ""
    side_effects: SideEffects = SideEffects.UNSAFE
    timeout_seconds: float = 120.0
    closed: str = ""
    digest: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"not a name of a remote agent: {self.name!r}")

    @property
    def tool_name(self) -> str:
        """The tool that a model calls to delegate to it."""
        return TOOL_PREFIX + self.name

    def as_tool(self) -> ToolDefinition:
        """How a model is told of it."""
        skills = f" It can: {'; '.join(self.skills)}." if self.skills else ""
        return ToolDefinition(
            name=self.tool_name,
            title=f"Delegate to {self.title}",
            description=f"Hand a task to the agent {self.title} and wait for its answer. {self.description}{skills}",
            input_schema=_TASK_SCHEMA,
            side_effects=self.side_effects,
            version=1,
            digest=self.digest,
        )


@dataclass(frozen=True, slots=True)
class Task:
    """What a peer is asked.

    `id` names the delegation, `run` the run that hands it on; `key` is the same when the call is carried out again, by another process,
    too. `hops`: who has handed the task on so far. `attach`: the peer's id of the task that a predecessor had handed over.
    `continues`: what came with a question of the peer's, which the text answers. `accepted` is told the peer's id of the task.
    `goes_on`: whether, when this is cancelled, a successor will ask for the answer.
    """

    id: str
    text: str
    actor: Actor
    key: str = ""
    run: str = ""
    hops: tuple[str, ...] = ()
    attach: str = ""
    continues: str = ""
    accepted: Callable[[str], None] = lambda task_id: None
    goes_on: Callable[[], bool] = lambda: False


class DelegationError(Exception):
    """The peer did not do the task. `message` is for the model and the user; `code` for programs, where it is not just `failed`."""

    def __init__(
        self, message: str, *, retryable: bool = False, retry_after_seconds: float = 0.0, code: str = ""
    ) -> None:
        self.message = message
        self.retryable = retryable
        self.retry_after_seconds = retry_after_seconds
        self.code = code
        super().__init__(message)


class Peer(Protocol):
    """A remote agent that can be asked."""

    @property
    def agent(self) -> RemoteAgent:
        """Who it is."""
        ...

    def answer(self, task: Task) -> AsyncIterator[str]:
        """The answer's text, piece by piece; ends when the task is done. Raises DelegationError.

        Closing the iterator, also by cancellation, gives the task up.
        """
        ...


class DelegationListener(Protocol):
    """Is told how a delegation goes; must not block."""

    def started(self, delegation_id: str, agent: RemoteAgent, task: str) -> None:
        """The permission is committed and the peer is asked."""
        ...

    def accepted(self, peer_task_id: str) -> None:
        """The peer calls the task this: a successor can ask for it."""
        ...

    def text(self, delta: str) -> None:
        """More of its answer."""
        ...

    def finished(self, answer: str) -> None:
        """The task is done."""
        ...

    def failed(self, code: str, message: str) -> None:
        """It is not; `code` is a ToolOutcome, or `input_required`."""
        ...


@dataclass(slots=True)
class Directory:
    """The remote agents that this process can ask, by the names of their tools.

    `source` gives those that are registered, as they are now; others are added by hand, and stay.
    """

    peers: dict[str, Peer] = field(default_factory=dict)
    source: Callable[[], Awaitable[Mapping[str, Peer]]] | None = None
    _from_source: frozenset[str] = frozenset()

    def add(self, peer: Peer) -> None:
        """Make a peer known; one of the same name is replaced."""
        self.peers[peer.agent.tool_name] = peer

    def clear(self) -> None:
        """Forget all."""
        self.peers.clear()

    async def offered(self, actor: Actor, allowed: frozenset[str] | None) -> list[RemoteAgent]:
        """Whom this caller may have asked, by name; `allowed` narrows it to an agent's tools (names of tools, None: all)."""
        await self.refresh()
        if not self.peers:
            return []
        inheritance = (await registry.snapshot()).inheritance
        names = sorted(name for name in self.peers if allowed is None or name in allowed)
        agents = [self.peers[name].agent for name in names]
        return [
            agent
            for agent in agents
            if not agent.closed and may_use(actor.role, agent.required_role, inheritance).allowed
        ]

    async def refresh(self) -> None:
        """Take over what the source says now."""
        if self.source is None:
            return
        found = await self.source()
        for name in self._from_source - found.keys():
            self.peers.pop(name, None)
        self.peers.update(found)
        self._from_source = frozenset(found)


directory = Directory()
"""The process's remote agents."""


@dataclass(frozen=True, slots=True)
class Handover:
    """What a run knows of a delegation beside its call; see `Task`. `agent_slug`: of the agent that hands the task on."""

    agent_slug: str = ""
    hops: tuple[str, ...] = ()
    attach: str = ""
    goes_on: Callable[[], bool] = lambda: False


async def delegate(
    call: ToolCall,
    context: CallContext,
    listener: DelegationListener,
    *,
    directory: Directory = directory,
    handover: Handover | None = None,
) -> ToolResult:
    """Check, record, ask and record a delegation; whatever the peer does, a result comes back.

    Raises only what the recorder raises (lease lost, writer stopped) and CancelledError.
    """
    await directory.refresh()
    peer = directory.peers.get(call.name)
    delegation = _Delegation(call, context, listener, peer, time.monotonic(), handover or Handover())
    delegation.screen = await registry.screen(context.guardrails)
    try:
        peer, decision = await delegation.permitted()
        task = await delegation.read_task()
        await delegation.count()
    except _Refused as refused:
        return await delegation.refuse(refused)
    return await delegation.carry_out(peer, task, decision)


class _Refused(Exception):
    def __init__(
        self,
        outcome: ToolOutcome,
        reason: str,
        message: str,
        *,
        policy_version: str = "",
        retry_after_seconds: float = 0.0,
    ) -> None:
        self.outcome = outcome
        self.reason = reason
        self.message = message
        self.policy_version = policy_version
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


@dataclass(slots=True)
class _Delegation:
    """One delegation on its way."""

    call: ToolCall
    context: CallContext
    listener: DelegationListener
    peer: Peer | None
    started: float
    handover: Handover
    id: str = field(default_factory=lambda: str(uuid7()))
    screen: Screen = NO_SCREEN

    async def permitted(self) -> tuple[Peer, Decision]:
        """The peer, and why the caller may have it asked; raises _Refused."""
        name, context, peer = self.call.name, self.context, self.peer
        if peer is None:
            raise _Refused(ToolOutcome.UNKNOWN_TOOL, "unknown_agent", f"There is no remote agent behind {name[:64]!r}.")
        if context.allowed_tools is not None and name not in context.allowed_tools:
            raise _Refused(ToolOutcome.DENIED, "not_a_tool_of_this_agent", f"This agent does not have {name}.")
        decision = may_use(context.actor.role, peer.agent.required_role, (await registry.snapshot()).inheritance)
        if not decision.allowed:
            message = f"The user may not have the agent {peer.agent.title} asked. {decision.explanation}"
            raise _Refused(ToolOutcome.DENIED, decision.reason_code, message)
        if peer.agent.closed:
            message = f"Nothing is handed to the agent {peer.agent.title} now. {peer.agent.closed}"
            raise _Refused(ToolOutcome.DISABLED, "agent_closed", message)
        if refusal := refusal_outbound(self.handover.hops, self.handover.agent_slug):
            raise _Refused(ToolOutcome.DENIED, "too_many_hops", f"The task is not handed on. {refusal}")
        return peer, decision

    async def read_task(self) -> Task:
        """The task as guardrail policies let it pass; raises _Refused that says what does not fit."""
        try:
            arguments = orjson.loads(self.call.arguments or "{}")
        except orjson.JSONDecodeError as error:
            raise _invalid(f"They are not JSON: {error}.") from error
        if isinstance(arguments, dict):
            arguments = await self._screened(arguments)
        if found := problems(_TASK_SCHEMA_BYTES, arguments):
            raise _invalid("; ".join(found) + ".")
        handover = self.handover
        return Task(
            id=self.id,
            text=arguments["task"],
            actor=self.context.actor,
            key=str(uuid5(NAMESPACE_OID, f"{self.context.run_id}:{self.call.id}")),
            run=str(self.context.run_id),
            hops=handed_on(handover.hops, handover.agent_slug),
            attach=handover.attach,
            continues=arguments.get("continues", ""),
            accepted=self.listener.accepted,
            goes_on=handover.goes_on,
        )

    async def count(self) -> None:
        """Under the budgets of tool calls a delegation is a call; raises _Refused."""
        try:
            await ledger.use_tool_call(self.context.agent, self.context.actor)
        except OverBudgetError as over:
            raise _Refused(
                ToolOutcome.OVER_BUDGET,
                "over_budget",
                str(over),
                policy_version=over.rule.policy_version,
                retry_after_seconds=over.retry_after,
            ) from over

    async def _screened(self, arguments: dict[str, Any]) -> dict[str, Any]:
        withheld = withheld_by(arguments)
        if withheld is not None:
            policy, category = withheld[0].partition(":")[0], withheld[1]
            raise _Refused(ToolOutcome.DENIED, "guardrail", refusal_text(policy, category, self.call.name))
        screening = CallScreening(self.screen)
        arguments = await screening.arguments(arguments)
        self._note_findings(screening.findings)
        blocked = screening.blocked
        if blocked is not None:
            text = refusal_text(blocked.policy.name, blocked.category, self.call.name, blocked.policy.message)
            raise _Refused(ToolOutcome.DENIED, "guardrail", text)
        if screening.asking:
            message = "A policy wants a person's approval of this task, which delegations do not wait for, so it was not handed on."
            raise _Refused(ToolOutcome.DENIED, "guardrail", message)
        return arguments

    def _note_findings(self, found: Sequence[Finding]) -> None:
        of_findings.count(found)
        for audit_entry in of_findings.entries(found, **self._about(), details={"call_id": self.call.id}):
            self.context.recorder.note(audit_entry)

    async def carry_out(self, peer: Peer, task: Task, decision: Decision) -> ToolResult:
        """Record the permission, ask the peer, and note what came of it."""
        details = {"task": task.text, "delegation": self.id}
        await self.context.recorder.record(
            self._entry(
                actions.DELEGATION_ALLOWED,
                reason=decision.reason_code,
                details=details,
                policy_version=f"{peer.agent.name}:{peer.agent.digest[:12]}" if peer.agent.digest else "",
            )
        )
        self.listener.started(self.id, peer.agent, task.text)
        screening = AnswerScreening(self.screen)
        try:
            answer = await self._ask(peer, task, screening)
        except DelegationError as error:
            self._note_findings(screening.findings)
            return self._failed(ToolOutcome.FAILED, await self._passing(error.message, peer), error)
        except TimeoutError:
            message = f"The agent {peer.agent.title} did not answer within {peer.agent.timeout_seconds:g} seconds."
            return self._failed(ToolOutcome.TIMED_OUT, message)
        except Exception:
            logger.exception("a delegation failed", extra={"agent": peer.agent.name})
            return self._failed(ToolOutcome.FAILED, f"The agent {peer.agent.title} could not be asked.")
        self._note_findings(screening.findings)
        blocked = screening.blocked
        if blocked is not None:
            return self._failed(ToolOutcome.WITHHELD, withheld_answer(blocked, peer.agent.title))
        self.listener.finished(answer)
        self._note(actions.DELEGATION_FINISHED, Outcome.SUCCESS, details={"answer": answer})
        content = screening.for_model(answer)
        return self._counted(ToolResult(ToolOutcome.OK, content, value=answer, duration_ms=self._milliseconds()))

    async def _ask(self, peer: Peer, task: Task, screening: AnswerScreening) -> str:
        """The answer as far as policies let it pass, cut where it is longer than it may be; raises DelegationError or TimeoutError."""
        pieces: list[str] = []
        length = 0
        async with asyncio.timeout(peer.agent.timeout_seconds), aclosing(peer.answer(task)) as answer:  # type: ignore[type-var]
            async for piece in answer:
                kept = piece[: MAX_ANSWER_CHARACTERS - length]
                length += len(kept)
                self._tell(screening.feed(kept), pieces)
                if len(kept) < len(piece) or screening.blocked is not None:
                    break
            self._tell(await screening.end(), pieces)
        return "".join(pieces)

    async def _passing(self, message: str, peer: Peer) -> str:
        """What the other side wrote of its failure, as far as policies let it pass."""
        screening = AnswerScreening(self.screen)
        passed = screening.feed(message) + await screening.end()
        self._note_findings(screening.findings)
        return passed if screening.blocked is None else withheld_answer(screening.blocked, peer.agent.title)

    def _tell(self, text: str, pieces: list[str]) -> None:
        if text:
            self.listener.text(text)
            pieces.append(text)

    async def refuse(self, refused: _Refused) -> ToolResult:
        """Record a refusal and tell it."""
        kept_back = (ToolOutcome.UNKNOWN_TOOL, ToolOutcome.DENIED, ToolOutcome.DISABLED, ToolOutcome.OVER_BUDGET)
        denied = refused.outcome in kept_back
        action = actions.DELEGATION_DENIED if denied else actions.DELEGATION_FAILED
        outcome = Outcome.DENIED if denied else Outcome.FAILURE
        arguments = CallScreening(self.screen).recordable(self.call.arguments[:2000])
        details = {"message": refused.message, "arguments": arguments}
        await self.context.recorder.record(
            self._entry(action, outcome, refused.reason, details, policy_version=refused.policy_version)
        )
        return self._counted(
            ToolResult(
                refused.outcome,
                refused.message,
                error=refused.message,
                retryable=refused.outcome is ToolOutcome.INVALID_ARGUMENTS,
                retry_after_seconds=refused.retry_after_seconds,
            )
        )

    def _failed(self, outcome: ToolOutcome, message: str, error: DelegationError | None = None) -> ToolResult:
        code = (error.code if error is not None else "") or outcome.value
        self.listener.failed(code, message)
        self._note(actions.DELEGATION_FAILED, Outcome.FAILURE, code, {"message": message})
        return self._counted(
            ToolResult(
                outcome,
                message,
                error=message,
                retryable=error is not None and error.retryable,
                retry_after_seconds=error.retry_after_seconds if error is not None else 0.0,
                duration_ms=self._milliseconds(),
            )
        )

    def _milliseconds(self) -> float:
        return (time.monotonic() - self.started) * 1000

    def _note(self, action: str, outcome: Outcome, reason: str = "", details: dict[str, Any] | None = None) -> None:
        self.context.recorder.note(self._entry(action, outcome, reason, details))

    def _entry(
        self,
        action: str,
        outcome: Outcome = Outcome.SUCCESS,
        reason: str = "",
        details: dict[str, Any] | None = None,
        *,
        policy_version: str = "",
    ) -> AuditEntry:
        return entry(
            action,
            outcome=outcome,
            reason=reason,
            policy_version=policy_version,
            details={"call_id": self.call.id, **(details or {})},
            **self._about(),
        )

    def _about(self) -> dict[str, Any]:
        """What every entry about the delegation says."""
        context = self.context
        return {
            "actor": context.actor,
            "target": Target("remote_agent", self.call.name.removeprefix(TOOL_PREFIX)[:64]),
            "run_id": context.run_id,
            "thread_id": context.thread_id,
            "request_id": context.request_id,
            "trace_id": context.trace_id,
        }

    def _counted(self, result: ToolResult) -> ToolResult:
        known = self.peer.agent.name if self.peer is not None else "(unknown)"
        metrics.delegations.labels(agent=known, outcome=result.outcome.value).inc()
        return result


def _invalid(what: str) -> _Refused:
    message = f"The arguments cannot be used. {what} Call again with arguments that fit."
    return _Refused(ToolOutcome.INVALID_ARGUMENTS, "invalid_arguments", message)


def skills_of(agents: Iterable[RemoteAgent]) -> list[str]:
    """A line for each agent and what it can do, for prompts."""
    return [f"{agent.tool_name}: {agent.title}. {'; '.join(agent.skills) or agent.description}" for agent in agents]
