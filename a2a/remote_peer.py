"""A registered agent as a peer: a task is handed to it, followed to its end, and given up where nobody wants it any more.

What is said of the task comes piece by piece where the agent can do that, else it is asked for until the task ends: that a task is
being worked on is no answer. A connection that breaks does not end the task there, so it is followed again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from django.core import signing
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from a2a import remote_cards
from a2a.circuit import Circuit
from a2a.contract import (
    AgentClient,
    OutgoingMessage,
    Piece,
    RegisteredAgent,
    RemoteAgentError,
    Target,
    TaskState,
    Update,
)
from a2a.delegation import DelegationError, RemoteAgent, Task
from a2a.hops import as_metadata
from a2a.loading import agent_client
from agentbackend.foundation.database import database
from audit.actor import Actor
from tools import credentials
from tools.calls import SideEffects
from tools.credentials import MissingCredentialError
from tools.mcp_client.health import HealthBook
from tools.registry import registry

logger = logging.getLogger(__name__)

MAX_EVENTS: Final = 20_000
GIVE_UP_SECONDS: Final = 3.0
ATTEMPTS: Final = 4
MAX_QUESTION: Final = 4000

_FIRST_POLL_SECONDS = 0.5
_LAST_POLL_SECONDS = 5.0
_WAITS = wait_exponential_jitter(multiplier=0.2, max=2.0, jitter=0.2)

_OK = """
INSERT INTO a2a_remoteagenthealth AS health (agent_id, last_ok_at)
SELECT id, now() FROM a2a_remoteagent WHERE id = %(server)s
ON CONFLICT (agent_id) DO UPDATE SET last_ok_at = now(), failures_in_a_row = 0
"""
_FAILURE = """
INSERT INTO a2a_remoteagenthealth AS health (agent_id, last_failure_at, last_failure, failures_in_a_row)
SELECT id, now(), %(what)s, %(failures)s FROM a2a_remoteagent WHERE id = %(server)s
ON CONFLICT (agent_id) DO UPDATE
SET last_failure_at = now(), last_failure = %(what)s, failures_in_a_row = health.failures_in_a_row + %(failures)s
"""

book = HealthBook(database, statements=(_OK, _FAILURE))
"""The process's notes of how agents are reached."""


class RemotePeer:
    """`a2a.delegation.Peer` for a registered agent."""

    def __init__(
        self,
        registered: RegisteredAgent,
        circuit: Circuit,
        *,
        client: Callable[[], Any] = agent_client,
        health: HealthBook = book,
    ) -> None:
        self._registered = registered
        self._circuit = circuit
        self._client = client
        self._health = health
        self._agent = told_agent(registered)

    @property
    def agent(self) -> RemoteAgent:
        """As models are told of it: by the accepted card."""
        return self._agent

    async def answer(self, task: Task) -> AsyncIterator[str]:
        """See Peer.answer."""
        target = await self._target()
        client = await self._client()
        if wait := self._circuit.enter():
            raise DelegationError(
                f"The agent {self._agent.title} kept failing and is left alone for now. Try again in {wait:.0f} seconds.",
                retryable=True,
                retry_after_seconds=wait,
            )
        conversation = _Conversation(self._agent, client, target, task)
        began = time.monotonic()
        try:
            async with aclosing(conversation.text()) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    yield piece
        except RemoteAgentError as error:
            self._note(error if error.unreachable else None, conversation)
            raise DelegationError(error.message, retryable=error.passing) from None
        except DelegationError:
            self._note(None, conversation)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            is_late = time.monotonic() - began >= self._agent.timeout_seconds * 0.99
            hangs = is_late and not conversation.events
            self._note(RemoteAgentError("It did not answer in time.") if hangs else None, conversation)
            await conversation.give_up()
            raise
        self._note(None, conversation)

    async def _target(self) -> Target:
        names = self._registered.credential_names
        try:
            found = credentials.resolve(names, (await registry.snapshot()).vault)
        except MissingCredentialError as error:
            logger.error("the agent %s has no credential: %s", self._registered.name, error)
            raise DelegationError(
                f"The credential for the agent {self._agent.title} is not set up: an operator can do that."
            ) from None
        sent = found.get(self._registered.credential, "")
        if not (sent.isascii() and sent.isprintable()):
            logger.error("a credential cannot stand in a header", extra={"agent": self._registered.name})
            raise DelegationError(f"The credential for the agent {self._agent.title} cannot be sent.")
        return Target(self._registered, found)

    def _note(self, failure: RemoteAgentError | None, conversation: _Conversation) -> None:
        """Tell the circuit and the page of agents how it was reached."""
        if failure is not None:
            self._circuit.failed()
            self._health.note_failure(self._registered.id, failure.message)
        elif conversation.events:
            self._circuit.succeeded()
            self._health.note_ok(self._registered.id)
        else:
            self._circuit.left()


@dataclass(slots=True)
class _Conversation:
    """One task with an agent, from handing it over to its end."""

    agent: RemoteAgent
    client: AgentClient
    target: Target
    asked: Task
    task_id: str = ""
    context_id: str = ""
    events: int = 0
    is_settled: bool = False
    _said: dict[str, str] = field(default_factory=dict)

    async def text(self) -> AsyncIterator[str]:
        """The answer's text. Raises RemoteAgentError, and DelegationError where the agent says that it does not do it."""
        async with aclosing(self._updates()) as updates:  # type: ignore[type-var]
            async for update in updates:
                self._note(update)
                for piece in update.pieces:
                    if delta := self._more(piece):
                        yield delta
                if update.state is not None and (update.state.is_final or update.state.waits):
                    self.is_settled = True
                    if last := self._end(update.state, update.words):
                        yield last
                self.is_settled = self.is_settled or update.is_answer
                if self.is_settled:
                    return

    async def give_up(self) -> None:
        """Tell the agent that nobody waits for the task any more, unless somebody else goes on with it."""
        if not self.task_id or self.is_settled or self.asked.goes_on():
            return
        with suppress(RemoteAgentError, TimeoutError):
            async with asyncio.timeout(GIVE_UP_SECONDS):
                await self.client.cancel(self.target, self.task_id)

    # --- what comes

    async def _updates(self) -> AsyncIterator[Update]:
        streams = self.client.can_stream(self.target)
        if self.asked.attach:
            self.task_id = self.asked.attach
        elif streams:
            try:
                async with aclosing(self._streamed(self._opened_stream)) as updates:  # type: ignore[type-var]
                    async for update in updates:
                        yield update
            except RemoteAgentError as error:
                if not self.task_id or not error.passing:
                    raise
        else:
            yield await self._again(lambda: self.client.send(self.target, self._message()), self._may_be_sent_again)
        if not self.task_id:
            raise RemoteAgentError(
                f"The agent {self.agent.title} ended its answer before it was complete.", passing=True
            )
        if streams and not self.is_settled:
            try:
                async with aclosing(self.client.subscribe(self.target, self.task_id)) as updates:  # type: ignore[type-var]
                    async for update in updates:
                        yield update
            except RemoteAgentError:  # a task that has ended cannot be followed: it is asked for
                pass
        pause = _FIRST_POLL_SECONDS
        while True:
            yield await self._again(lambda: self.client.get(self.target, self.task_id), _is_passing)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LAST_POLL_SECONDS)

    async def _streamed(self, opened: Callable[[], Any]) -> AsyncIterator[Update]:
        """What a stream says. Opening it is tried again where that is safe."""
        first, updates = await self._again(opened, self._may_be_sent_again)
        async with aclosing(updates):
            if first is None:
                return
            yield first
            async for update in updates:
                yield update

    async def _opened_stream(self) -> tuple[Update | None, Any]:
        updates = self.client.stream(self.target, self._message())
        return await anext(updates, None), updates

    async def _again(self, what: Callable[[], Any], may: Callable[[BaseException], bool]) -> Any:
        retrying = AsyncRetrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=_WAITS,
            retry=retry_if_exception(may),
            reraise=True,
            before_sleep=self._log_again,
        )
        async for attempt in retrying:
            with attempt:
                return await what()
        raise AssertionError("the last attempt returns or raises")

    def _log_again(self, state: RetryCallState) -> None:
        logger.info("an agent is asked again", extra={"agent": self.agent.name, "attempt": state.attempt_number})

    def _may_be_sent_again(self, error: BaseException) -> bool:
        """What has not reached the agent, and what it recognises or may do twice."""
        is_harmless = self.agent.side_effects is not SideEffects.UNSAFE
        return _is_passing(error) and not self.task_id and (is_harmless or getattr(error, "unsent", False))

    def _message(self) -> OutgoingMessage:
        task_id, context_id = opened_question(self.asked, self.agent.name)
        return OutgoingMessage(
            message_id=self.asked.key or self.asked.id,
            text=self.asked.text,
            task_id=task_id,
            context_id=context_id,
            metadata=as_metadata(self.asked.hops),
        )

    # --- what is made of it

    def _note(self, update: Update) -> None:
        self.events += 1
        if self.events > MAX_EVENTS:
            raise RemoteAgentError(f"The agent {self.agent.title} said more than may be read, so reading was stopped.")
        self.context_id = update.context_id or self.context_id
        if update.task_id and not self.task_id and not update.is_answer:
            self.task_id = update.task_id
            self.asked.accepted(update.task_id)

    def _more(self, piece: Piece) -> str:
        """What a piece adds to the answer: its text, or of a whole only what was not there yet."""
        before = self._said.get(piece.artifact)
        if before is None:
            self._said[piece.artifact] = piece.text
            return f"\n\n{piece.text}" if len(self._said) > 1 and piece.text else piece.text
        if not piece.whole:
            self._said[piece.artifact] = before + piece.text
            return piece.text
        if before.startswith(piece.text):
            return ""
        self._said[piece.artifact] = piece.text
        return piece.text[len(before) :] if piece.text.startswith(before) else f"\n\n{piece.text}"

    def _end(self, state: TaskState, words: str) -> str:
        """What remains to be said of a task that has ended; raises DelegationError where it was not done."""
        title = self.agent.title
        if state is TaskState.COMPLETED:
            return words if not any(self._said.values()) else ""
        if state.waits:
            raise self._asks(words)
        how = {
            TaskState.REJECTED: "does not take the task",
            TaskState.CANCELED: "has given the task up",
        }.get(state, "could not do it")
        raise DelegationError(
            f"The agent {title} {how}: {words[:MAX_QUESTION]}" if words else f"The agent {title} {how}."
        )

    def _asks(self, words: str) -> DelegationError:
        """The agent waits for an answer: it is for the user to give, and goes with what finds the task again."""
        question = words[:MAX_QUESTION] or "It does not say what."
        key = sealed_question(self.task_id, self.context_id, self.agent.name, self.asked)
        return DelegationError(
            f"The agent {self.agent.title} needs to know more before it goes on. It asks: {question}\n"
            f"Ask the user and end your turn: this run cannot answer it. With the user's answer call {self.agent.tool_name} "
            f"again: the answer as `task`, and `continues`: {key}",
            code="input_required",
        )


def told_agent(registered: RegisteredAgent) -> RemoteAgent:
    """The agent as models are told of it, by the card that was accepted."""
    card = registered.accepted_card or {}
    return RemoteAgent(
        name=registered.name,
        title=registered.title or str(card.get("name", ""))[:120].strip() or registered.name,
        description=remote_cards.told_description(card),
        skills=remote_cards.told_skills(card),
        required_role=registered.required_role,
        side_effects=SideEffects(registered.side_effects),
        timeout_seconds=registered.timeout_seconds,
        closed=_why_closed(registered),
        digest=registered.accepted_digest,
    )


def _why_closed(registered: RegisteredAgent) -> str:
    if not registered.enabled:
        return "It is switched off."
    if registered.accepted_card is None:
        return "Nobody has accepted its card yet."
    if registered.state not in ("accepted", "changed"):
        return "Its card says another thing than was accepted: an operator must look at it."
    return ""


def sealed_question(task_id: str, context_id: str, agent_name: str, asked: Task) -> str:
    """What an answer to an agent's question must carry: it finds the task again, for this caller and this agent only."""
    return signing.dumps([task_id, context_id, asked.run], salt=_salt(agent_name, asked.actor))


def opened_question(asked: Task, agent_name: str) -> tuple[str, str]:
    """The id of the task that goes on and its context's; nothing for none.

    Raises DelegationError unless it is this caller's, and in the run that was asked: there the user has not answered yet.
    """
    if not asked.continues:
        return "", ""
    try:
        task_id, context_id, run = signing.loads(asked.continues, salt=_salt(agent_name, asked.actor))
    except (signing.BadSignature, ValueError):
        raise DelegationError("`continues` is not what came with a question: leave it out, or copy it whole.") from None
    if run == asked.run:
        raise DelegationError("The user has not answered the question yet. Ask the user and end your turn.")
    return str(task_id), str(context_id)


def _salt(agent_name: str, actor: Actor) -> str:
    return f"a2a-question:{agent_name}:{actor.tenant}:{actor.id}"


def _is_passing(error: BaseException) -> bool:
    return isinstance(error, RemoteAgentError) and error.passing
