"""Tasks as values: their states, what they hold, and how they read as documents of A2A 1.0 (ProtoJSON: camelCase, enum names).

Source: the A2A specification 1.0, section 4 (`Task`, `TaskState`, `Message`, `Artifact`, `StreamResponse`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from a2a.run_port import RunKey
from agentbackend.foundation.identifiers import uuid7

Document = dict[str, Any]


class TaskState(StrEnum):
    """Where a task stands; `auth-required` is never ours."""

    SUBMITTED = "submitted"
    WORKING = "working"
    INPUT_REQUIRED = "input_required"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    REJECTED = "rejected"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing more comes of the task."""
        return self in TERMINAL

    @property
    def wire_name(self) -> str:
        """As the protocol writes it."""
        return f"TASK_STATE_{self.value.upper()}"


TERMINAL: Final = frozenset({TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELED, TaskState.REJECTED})
OPEN: Final = tuple(state for state in TaskState if state not in TERMINAL)


class Fault(StrEnum):
    """What is wrong with a request; each is one error of the specification."""

    TASK_NOT_FOUND = "task_not_found"
    TASK_NOT_CANCELABLE = "task_not_cancelable"
    UNSUPPORTED_OPERATION = "unsupported_operation"
    CONTENT_TYPE_NOT_SUPPORTED = "content_type_not_supported"
    INVALID_PARAMS = "invalid_params"
    INTERNAL = "internal"


class TaskError(Exception):
    """A request that cannot be served. `message` is for the caller."""

    def __init__(self, fault: Fault, message: str) -> None:
        self.fault = fault
        self.message = message
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Task:
    """A task as it is stored. `history` and `artifacts` hold documents."""

    id: UUID
    public_id: str
    context_id: str
    tenant: str
    owner_id: str
    agent: str
    run_id: str
    state: TaskState
    status_message: Document | None
    status_at: datetime
    artifacts: list[Document] = field(default_factory=list)
    history: list[Document] = field(default_factory=list)
    metadata: Document = field(default_factory=dict)

    @property
    def run(self) -> RunKey:
        """Its current run."""
        return RunKey(self.tenant, self.owner_id, self.run_id)

    def status(self) -> Document:
        """Its `TaskStatus`."""
        status: Document = {"state": self.state.wire_name, "timestamp": timestamp(self.status_at)}
        if self.status_message is not None:
            status["message"] = self.status_message
        return status

    def document(self, *, history_length: int | None = None, artifacts: bool = True) -> Document:
        """The whole task. `history_length`: the last messages only; None: all."""
        task: Document = {"id": self.public_id, "contextId": self.context_id, "status": self.status()}
        if artifacts and self.artifacts:
            task["artifacts"] = self.artifacts
        skipped = 0 if history_length is None else max(0, len(self.history) - history_length)
        if kept := self.history[skipped:]:
            task["history"] = kept
        if self.metadata:
            task["metadata"] = self.metadata
        return task

    def status_update(self) -> Document:
        """The `StreamResponse` that tells where it stands."""
        update: Document = {"taskId": self.public_id, "contextId": self.context_id, "status": self.status()}
        if self.metadata:
            update["metadata"] = self.metadata
        return {"statusUpdate": update}

    def artifact_update(self, artifact: Document, *, append: bool = False, last: bool = True) -> Document:
        """The `StreamResponse` that hands over an artifact or a piece of one."""
        update = {"taskId": self.public_id, "contextId": self.context_id, "artifact": artifact}
        return {"artifactUpdate": {**update, "append": append, "lastChunk": last}}

    def agent_message(self, *parts: Document) -> Document:
        """A message of the agent's about it."""
        return {
            "messageId": str(uuid7()),
            "contextId": self.context_id,
            "taskId": self.public_id,
            "role": "ROLE_AGENT",
            "parts": list(parts),
        }


def timestamp(at: datetime) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def text_part(text: str) -> Document:
    """A part that is text."""
    return {"text": text, "mediaType": "text/plain"}


def data_part(data: Any) -> Document:
    """A part that is JSON."""
    return {"data": data, "mediaType": "application/json"}
