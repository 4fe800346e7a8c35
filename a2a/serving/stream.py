"""A task as a stream: the task as it stands, then what is new, until it ends (or, for who sent a message, until it asks).

While a run is going on its log is followed; while the task waits for its caller its row is looked at. Both work in any process, so a
stream sees a task finish that another process took up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from a2a.run_port import RunPort, RunUpdate, StreamInterruptedError, TextBegins, TextDelta, TextEnds, TextIsVoid
from a2a.serving.progress import brought_up_to_date, text_artifact
from a2a.task_store import tasks_by_id
from a2a.tasks import Document, Fault, Task, TaskError, TaskState
from agentbackend.foundation.database import Database
from agentbackend.foundation.problems import Problem
from audit.actor import Actor

POLL_SECONDS: Final = 1.0
LONGEST_WAIT_SECONDS: Final = 3600.0
"""How long a stream stays open while nothing happens."""


@dataclass(slots=True)
class TaskStream:
    """One reader of one task; iterate `documents` once. `until_asked`: a question ends it, too."""

    database: Database
    runs: RunPort
    actor: Actor
    task: Task
    until_asked: bool
    _known: set[str] = field(default_factory=set)
    _open: set[int] = field(default_factory=set)

    async def documents(self) -> AsyncIterator[Document]:
        """`StreamResponse` after `StreamResponse`; raises TaskError when it must end early."""
        yield {"task": self.task.document()}
        self._know(self.task)
        waits_since = time.monotonic()
        while not self._is_over():
            before = self.task
            if before.state is TaskState.WORKING and before.run_id:
                async for document in self._followed():
                    yield document
            else:
                await asyncio.sleep(POLL_SECONDS)
            if self.runs.is_ending:
                raise _come_again()
            await self._look()
            for document in self._news(before):
                waits_since = time.monotonic()
                yield document
            if time.monotonic() - waits_since > LONGEST_WAIT_SECONDS:
                return

    def _is_over(self) -> bool:
        return self.task.state.is_terminal or (self.until_asked and self.task.state is TaskState.INPUT_REQUIRED)

    async def _look(self) -> None:
        found = await tasks_by_id(self.database, [self.task.id])
        if not found:
            raise TaskError(Fault.TASK_NOT_FOUND, "The task was removed.")
        [self.task] = await brought_up_to_date(self.database, self.runs, found)

    def _news(self, before: Task) -> list[Document]:
        news = [
            self.task.artifact_update(artifact)
            for artifact in self.task.artifacts
            if artifact["artifactId"] not in self._known
        ]
        self._know(self.task)
        if (self.task.state, self.task.run_id) != (before.state, before.run_id):
            news.append(self.task.status_update())
        return news

    def _know(self, task: Task) -> None:
        self._known.update(str(artifact["artifactId"]) for artifact in task.artifacts)

    async def _followed(self) -> AsyncIterator[Document]:
        first = len(self.task.artifacts)
        try:
            async with aclosing(self.runs.follow(self.actor, self.task.run_id)) as updates:  # type: ignore[type-var]
                async for update in updates:
                    if document := self._update(update, first):
                        yield document
        except StreamInterruptedError as error:
            raise _come_again() from error
        except Problem as problem:
            if problem.code not in ("not_found", "events_expired"):
                raise
            await asyncio.sleep(POLL_SECONDS)  # it is being begun, or its log is gone: its row will say

    def _update(self, update: RunUpdate, first: int) -> Document | None:
        number = first + update.number
        match update:
            case TextBegins():
                self._open.add(number)
                return None
            case TextDelta():
                return self._piece(number, update.text, last=False)
            case TextEnds():
                return self._piece(number, "", last=True)
            case TextIsVoid():
                self._open.add(number)
                return self._piece(number, "", last=False)

    def _piece(self, number: int, text: str, *, last: bool) -> Document:
        """A piece of a message; its first one takes the place of whatever had this number before."""
        artifact = text_artifact(number, text)
        self._known.add(str(artifact["artifactId"]))
        begins = number in self._open
        self._open.discard(number)
        return self.task.artifact_update(artifact, append=not begins, last=last)


def _come_again() -> TaskError:
    return TaskError(Fault.INTERNAL, "This connection ends here; the task goes on. Subscribe to it again.")
