"""The agent that the protocol's test kit expects: it acts by the beginning of a message's id. For tests only (A2A_TCK_AGENT).

It starts no runs; its tasks are rows like all others, so everything around it is what other agents have. The kit (a2aproject/a2a-tck)
uses ids again and again, and waits for each task where it was begun, so a script is played within its request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from a2a.push.configs import check_config, put_config
from a2a.run_port import ExposedAgent
from a2a.serving.incoming import Incoming
from a2a.task_store import change_task, find_task, insert_task
from a2a.tasks import Document, Fault, Task, TaskError, TaskState, data_part, text_part
from agentbackend.foundation.database import Database
from agentbackend.foundation.identifiers import uuid7
from audit.actor import Actor

SLUG: Final = "tck"
_STAYS_SECONDS: Final = 4.0


@dataclass(frozen=True, slots=True)
class _Step:
    """What is done next: a new state, an artifact (or a piece of one), or nothing for a while."""

    state: TaskState | None = None
    says: str = ""
    artifact: Document | None = None
    append: bool = False
    last: bool = True
    pause: float = 0.0


_DONE: Final = _Step(TaskState.COMPLETED, says="Done.")
_WORKING: Final = _Step(TaskState.WORKING)


def _artifact(*parts: Document, artifact_id: str = "artifact") -> Document:
    return {"artifactId": artifact_id, "name": "Result", "parts": list(parts)}


_FILE: Final = {"mediaType": "text/plain", "filename": "output.txt"}
_TEXT: Final = _Step(artifact=_artifact(text_part("Generated text content")))
_RAW: Final = _Step(artifact=_artifact({"raw": "dGNr", **_FILE}))
_URL: Final = _Step(artifact=_artifact({"url": "https://example.com/output.txt", **_FILE}))
_DATA: Final = _Step(artifact=_artifact(data_part({"key": "value", "count": 42})))
_CHUNKS: Final = (
    _Step(artifact=_artifact(text_part("chunk-1 "), artifact_id="chunks"), last=False),
    _Step(artifact=_artifact(text_part("chunk-2"), artifact_id="chunks"), append=True),
)

SCRIPTS: Final[dict[str, tuple[_Step, ...]]] = {
    "tck-input-required": (_Step(TaskState.INPUT_REQUIRED, says="What else?"),),
    "tck-reject-task": (_Step(TaskState.REJECTED, says="No."),),
    "tck-artifact-text": (_TEXT, _DONE),
    "tck-artifact-file-url": (_URL, _DONE),
    "tck-artifact-file": (_RAW, _DONE),
    "tck-artifact-data": (_DATA, _DONE),
    "tck-stream-artifact-chunked": (_WORKING, *_CHUNKS, _DONE),
    "tck-stream-artifact-file": (_WORKING, _RAW, _DONE),
    "tck-stream-artifact-text": (_WORKING, _TEXT, _DONE),
    "tck-stream-002": (_DONE,),
    "tck-stream": (_WORKING, _TEXT, _DONE),
    "test-resubscribe-message-id": (_WORKING, _Step(pause=_STAYS_SECONDS), _DONE),
}
"""By the beginning of the message's id, the longer ones first; everything else is done at once."""


class TckAgent:
    """The scripted agent; it says of itself that it is exposed."""

    def __init__(self) -> None:
        self.agent = ExposedAgent(
            slug=SLUG,
            name="TCK",
            description="The scripted agent of the A2A test kit.",
            skills=({"id": "tck", "name": "TCK", "description": "Acts by the ids of messages.", "tags": ["test"]},),
            is_default=False,
            changed_at=datetime.now(UTC),
        )

    @staticmethod
    def is_it(agent: ExposedAgent) -> bool:
        """Whether this is the scripted agent."""
        return agent.slug == SLUG

    async def answer(
        self,
        database: Database,
        actor: Actor,
        incoming: Incoming,
        history_length: int | None,
        push_config: Document | None,
    ) -> Document:
        """`SendMessageResponse`."""
        if incoming.message_id.startswith("tck-message-response"):
            return {"message": _message(incoming)}
        task = await self._begun(database, actor, incoming, push_config)
        for step in _script(incoming):
            task, _ = await _played(database, task, step)
        return {"task": task.document(history_length=history_length)}

    async def stream(
        self, database: Database, actor: Actor, incoming: Incoming, push_config: Document | None
    ) -> AsyncIterator[Document]:
        """`StreamResponse` after `StreamResponse`."""
        if incoming.message_id.startswith("tck-message-response"):
            yield {"message": _message(incoming)}
            return
        task = await self._begun(database, actor, incoming, push_config)
        yield {"task": task.document()}
        for step in _script(incoming):
            task, documents = await _played(database, task, step)
            for document in documents:
                yield document

    @staticmethod
    async def _begun(database: Database, actor: Actor, incoming: Incoming, push_config: Document | None) -> Task:
        if push_config is not None:
            check_config(push_config)
        if not incoming.task_id:
            return await _new_task(database, actor, incoming, push_config)
        task = await find_task(database, actor, SLUG, incoming.task_id)
        if incoming.context_id and incoming.context_id != task.context_id:
            raise TaskError(Fault.INVALID_PARAMS, "message.contextId: the task belongs to another context.")
        if task.state.is_terminal:
            raise TaskError(Fault.UNSUPPORTED_OPERATION, f"The task has ended ({task.state.wire_name}).")
        said = {**incoming.document, "contextId": task.context_id, "taskId": task.public_id}
        asked = [task.status_message] if task.status_message else []
        after = _now(task, TaskState.WORKING, history=[*task.history, *asked, said])
        await change_task(database, task, after)
        return after


def _message(incoming: Incoming) -> Document:
    return {
        "messageId": str(uuid7()),
        "contextId": incoming.context_id or str(uuid7()),
        "role": "ROLE_AGENT",
        "parts": [text_part("Direct message response")],
    }


async def _new_task(database: Database, actor: Actor, incoming: Incoming, push_config: Document | None) -> Task:
    public_id, context_id = str(uuid7()), incoming.context_id or str(uuid7())
    task = Task(
        id=UUID(public_id), public_id=public_id, context_id=context_id, tenant=actor.tenant, owner_id=actor.id, agent=SLUG,
        run_id="", state=TaskState.SUBMITTED, status_message=None, status_at=datetime.now(UTC),
        history=[{**incoming.document, "contextId": context_id, "taskId": public_id}],
    )  # fmt: skip
    await insert_task(database, task)
    if push_config is not None:
        await put_config(database, task, push_config)
    return task


def _script(incoming: Incoming) -> tuple[_Step, ...]:
    return next((SCRIPTS[prefix] for prefix in SCRIPTS if incoming.message_id.startswith(prefix)), (_DONE,))


async def _played(database: Database, task: Task, step: _Step) -> tuple[Task, list[Document]]:
    if step.pause:
        await asyncio.sleep(step.pause)
        return task, []
    if step.artifact is not None:
        kept = (
            [*task.artifacts[:-1], _joined(task.artifacts[-1], step.artifact)]
            if step.append
            else [*task.artifacts, step.artifact]
        )
        after = replace(task, artifacts=kept)
        await change_task(database, task, after)
        return after, [after.artifact_update(step.artifact, append=step.append, last=step.last)]
    message = task.agent_message(text_part(step.says)) if step.says else None
    after = _now(task, step.state or TaskState.WORKING, status_message=message)
    await change_task(database, task, after)
    return after, [after.status_update()]


def _joined(artifact: Document, piece: Document) -> Document:
    return {**artifact, "parts": [*artifact["parts"], *piece["parts"]]}


def _now(task: Task, state: TaskState, **changes: Any) -> Task:
    return replace(task, state=state, status_at=datetime.now(UTC), **{"status_message": None, **changes})
