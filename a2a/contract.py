"""What a client of remote agents is given, what it gives back, and how it fails; nothing here needs the SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from tools.credentials import NO_CREDENTIALS, Credentials


@dataclass(frozen=True, slots=True)
class RegisteredAgent:
    """A remote agent as it is called; fields as in `a2a.models.RemoteAgent`."""

    id: UUID
    name: str
    title: str
    card_url: str
    key_set_url: str
    require_signature: bool
    required_role: str
    credential: str
    credential_placement: str
    credential_header: str
    client_certificate: str
    client_key: str
    trusted_ca: str
    timeout_seconds: float
    side_effects: str
    accepted_digest: str
    enabled: bool
    accepted_card: dict[str, Any] | None
    state: str

    @property
    def credential_names(self) -> list[str]:
        """The credentials that a request to it needs."""
        names = (self.credential, self.client_certificate, self.client_key)
        return [name for name in dict.fromkeys(names) if name]


@dataclass(frozen=True, slots=True)
class Target:
    """An agent with what proves to it who asks."""

    agent: RegisteredAgent
    credentials: Credentials = field(default_factory=lambda: NO_CREDENTIALS)

    def headers(self) -> dict[str, str]:
        """What carries the credential. Not for logs."""
        agent = self.agent
        if not agent.credential:
            return {}
        value = self.credentials[agent.credential]
        if agent.credential_placement == "header":
            return {agent.credential_header: value}
        return {"authorization": f"Bearer {value}"}


class TaskState(StrEnum):
    """Where a task stands at its agent."""

    UNSPECIFIED = "unspecified"
    SUBMITTED = "submitted"
    WORKING = "working"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    REJECTED = "rejected"
    INPUT_REQUIRED = "input_required"
    AUTH_REQUIRED = "auth_required"

    @property
    def is_final(self) -> bool:
        """Whether nothing comes any more."""
        return self in (TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELED, TaskState.REJECTED)

    @property
    def waits(self) -> bool:
        """Whether the agent waits for whoever asked."""
        return self in (TaskState.INPUT_REQUIRED, TaskState.AUTH_REQUIRED)


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of an answer. `artifact` names what it belongs to (empty: a message); `whole`: it is all of that so far, not more of it."""

    artifact: str
    text: str
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Update:
    """What an agent said of a task, or, without a task's id, instead of one. `words`: the message that goes with the state."""

    task_id: str = ""
    context_id: str = ""
    state: TaskState | None = None
    words: str = ""
    pieces: tuple[Piece, ...] = ()
    is_answer: bool = False
    """It is a message, and the whole answer."""


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message to an agent. `task_id`: of a task that waits for it."""

    message_id: str
    text: str
    context_id: str = ""
    task_id: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SignatureCheck:
    """What is known of a card's signature: one of `RemoteAgentHealth.Signature`, and the id of the key."""

    state: str
    key_id: str = ""


@dataclass(frozen=True, slots=True)
class FoundCard:
    """A card as it was read."""

    card: dict[str, Any]
    signature: SignatureCheck


class RemoteAgentError(Exception):
    """An agent could not be reached or did not do what it was asked to. The text is for whoever asked, and holds no secret.

    `passing`: the same may succeed in a moment. `unreachable`: the transport failed, which says something of the agent's health.
    `unsent`: nothing of the request has reached it. `is_unknown_task`: it does not know the task.
    """

    def __init__(
        self,
        message: str,
        *,
        passing: bool = False,
        unreachable: bool = False,
        unsent: bool = False,
        is_unknown_task: bool = False,
    ) -> None:
        self.message = message
        self.passing = passing
        self.unreachable = unreachable
        self.unsent = unsent
        self.is_unknown_task = is_unknown_task
        super().__init__(message)


class AgentClient(Protocol):
    """Speaks to remote agents. All methods raise RemoteAgentError."""

    def can_stream(self, target: Target) -> bool:
        """Whether the accepted card says that answers come piece by piece."""
        ...

    def stream(self, target: Target, message: OutgoingMessage) -> AsyncIterator[Update]:
        """Send a message; what is said of it as it comes. Closing it closes the request."""
        ...

    async def send(self, target: Target, message: OutgoingMessage) -> Update:
        """Send a message and return what is said at once."""
        ...

    def subscribe(self, target: Target, task_id: str) -> AsyncIterator[Update]:
        """Follow a task that is there already."""
        ...

    async def get(self, target: Target, task_id: str) -> Update:
        """How a task stands."""
        ...

    async def cancel(self, target: Target, task_id: str) -> None:
        """Ask for the end of a task."""
        ...

    async def read_card(self, target: Target) -> FoundCard:
        """Read the card at `card_url`, over connections that are closed at the end: this may run in an event loop of its own."""
        ...

    async def read_document(self, target: Target, url: str) -> Any:
        """Read a JSON document, in the same way."""
        ...

    async def aclose(self) -> None:
        """Close this event loop's connections."""
        ...
