"""The operations of the protocol, on documents: what a caller asks of one agent, answered from rows and runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from opentelemetry.context import Context as TraceContext

from a2a import hops
from a2a.push import configs
from a2a.run_port import ExposedAgent, RunPort, RunWish
from a2a.serving.incoming import Incoming, read_message
from a2a.serving.progress import brought_up_to_date, going_on
from a2a.serving.stream import TaskStream
from a2a.task_store import (
    Filters,
    change_task,
    find_task,
    insert_once,
    list_tasks,
    open_tasks,
    remove_task,
)
from a2a.tasks import Document, Fault, Task, TaskError, TaskState
from a2a.tck_agent import TckAgent
from agentbackend.foundation.database import Database
from agentbackend.foundation.identifiers import uuid7
from agentbackend.foundation.problems import Problem
from audit.actor import Actor

logger = logging.getLogger(__name__)

CANCEL_SECONDS: Final = 10.0
"""How long a cancellation waits for the run's end before it tells that the task still works."""
CANCEL_ATTEMPTS: Final = 20
CANCEL_PAUSE_SECONDS: Final = 0.1
"""How often, and after which pause, a task is looked at again that changes while it is canceled."""


@dataclass(frozen=True, slots=True)
class Call:
    """Who asks which agent, and what the request around it carries."""

    actor: Actor
    agent: ExposedAgent
    request_id: str = ""
    trace_context: TraceContext | None = None


@dataclass(frozen=True, slots=True)
class Sending:
    """A message with how it is to be answered: at once or when the task ends, with how much history, announced where."""

    message: Document
    return_immediately: bool = False
    history_length: int | None = None
    push_config: Document | None = None


@dataclass(slots=True)
class TaskService:
    """Tasks of all agents. `tck`: the scripted agent of the protocol's test kit, in tests only. `most_waiting`: callers at once
    who follow a task or wait for its end, in this process.
    """

    database: Database
    runs: RunPort
    tck: TckAgent | None = None
    most_waiting: int = 500
    _waiting: int = 0

    @property
    def waiting(self) -> int:
        """How many callers follow a task or wait for its end here."""
        return self._waiting

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Hold a place for a caller who waits; raises Problem `overloaded`."""
        if self._waiting >= self.most_waiting:
            raise Problem("overloaded", "As many callers as this process takes wait for tasks. Get the task instead.")
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    # --- messages

    async def send(self, call: Call, sending: Sending) -> Document:
        """`SendMessageResponse`: the task when it has ended or asks, or at once where that is wanted."""
        if self.tck is not None and self.tck.is_it(call.agent):
            incoming = read_message(sending.message, takes_files=True)
            return await self.tck.answer(
                self.database, call.actor, incoming, sending.history_length, sending.push_config
            )
        incoming = read_message(sending.message)
        with nullcontext() if sending.return_immediately else self._place():
            task = await self._begun(call, incoming, sending.push_config)
            if not sending.return_immediately:
                task = await self._ended(call.actor, task)
        return {"task": task.document(history_length=sending.history_length)}

    async def send_streaming(self, call: Call, sending: Sending) -> AsyncIterator[Document]:
        """The task as a stream, from its beginning or from the message that goes on with it."""
        if self.tck is not None and self.tck.is_it(call.agent):
            incoming = read_message(sending.message, takes_files=True)
            async for document in self.tck.stream(self.database, call.actor, incoming, sending.push_config):
                yield document
            return
        incoming = read_message(sending.message)
        with self._place():
            task = await self._begun(call, incoming, sending.push_config)
            async with aclosing(self._stream(call.actor, task, until_asked=True)) as documents:  # type: ignore[type-var]
                async for document in documents:
                    yield document

    async def subscribe(self, call: Call, task_id: str) -> AsyncIterator[Document]:
        """A task that has not ended as a stream: what it has said so far, and what comes."""
        task = await self._found(call, task_id)
        if task.state.is_terminal:
            raise TaskError(
                Fault.UNSUPPORTED_OPERATION, f"The task has ended ({task.state.wire_name}): get it instead."
            )
        with self._place():
            async with aclosing(self._stream(call.actor, task, until_asked=False)) as documents:  # type: ignore[type-var]
                async for document in documents:
                    yield document

    def _stream(self, actor: Actor, task: Task, *, until_asked: bool) -> AsyncIterator[Document]:
        return TaskStream(self.database, self.runs, actor, task, until_asked).documents()

    async def _ended(self, actor: Actor, task: Task) -> Task:
        """The task once its run is over."""
        stream = TaskStream(self.database, self.runs, actor, task, until_asked=True)
        async with aclosing(stream.documents()) as documents:  # type: ignore[type-var]
            async for _ in documents:
                pass
        return stream.task

    async def _begun(self, call: Call, incoming: Incoming, push_config: Document | None) -> Task:
        known = hops.read_hops(incoming.metadata)
        if refusal := hops.refusal_inbound(known):
            raise TaskError(Fault.UNSUPPORTED_OPERATION, refusal)
        if push_config is not None:
            configs.check_config(push_config)
        if incoming.task_id:
            return await self._continued(call, incoming, push_config)
        task_id, context_id = str(uuid7()), incoming.context_id or str(uuid7())
        task = Task(
            id=UUID(task_id), public_id=task_id, context_id=context_id, tenant=call.actor.tenant, owner_id=call.actor.id,
            agent=call.agent.slug, run_id=task_id, state=TaskState.WORKING, status_message=None,
            status_at=datetime.now(UTC), history=[{**incoming.document, "contextId": context_id, "taskId": task_id}],
        )  # fmt: skip
        wish = self._wish(call, task, incoming)
        # A caller who leaves in this moment must not leave a task behind that has no run.
        return await asyncio.shield(self._first_run(task, incoming.key, wish, push_config))

    async def _first_run(self, task: Task, message_key: str, wish: RunWish, push_config: Document | None) -> Task:
        """The task with its run; the one that the same message began before, where a caller sends it again."""
        if earlier := await insert_once(self.database, task, message_key):
            [earlier] = await brought_up_to_date(self.database, self.runs, [earlier])
            return earlier
        try:
            if push_config is not None:
                await configs.put_config(self.database, task, push_config)
            await self.runs.start(wish)
        except BaseException:
            await remove_task(self.database, task)
            raise
        return task

    async def _continued(self, call: Call, incoming: Incoming, push_config: Document | None) -> Task:
        """The task with the run that the message brings: an answer, or what else is said to the question."""
        task = await self._found(call, incoming.task_id)
        if incoming.context_id and incoming.context_id != task.context_id:
            raise TaskError(Fault.INVALID_PARAMS, "message.contextId: the task belongs to another context.")
        if incoming.is_in(task.history):
            return task
        if task.state.is_terminal:
            raise TaskError(
                Fault.UNSUPPORTED_OPERATION,
                f"The task has ended ({task.state.wire_name}): send the message without taskId.",
            )
        if task.state is not TaskState.INPUT_REQUIRED:
            raise TaskError(
                Fault.UNSUPPORTED_OPERATION, "The task is being worked on: wait until it ends or asks, or cancel it."
            )
        said = {**incoming.document, "contextId": task.context_id, "taskId": task.public_id}
        after = going_on(task, str(uuid7()), said)
        wish = self._wish(call, after, incoming, asked=task)
        if await asyncio.shield(self._next_run(task, after, wish, push_config)):
            return after
        task = await self._found(call, incoming.task_id)
        if not incoming.is_in(task.history):
            raise TaskError(Fault.UNSUPPORTED_OPERATION, "The question was answered in the same moment.")
        return task

    async def _next_run(self, task: Task, after: Task, wish: RunWish, push_config: Document | None) -> bool:
        """Begin it; False when the task went on in the same moment."""
        if push_config is not None:
            await configs.put_config(self.database, task, push_config)
        if not await change_task(self.database, task, after, announce=False):  # who said it knows
            return False
        try:
            await self.runs.start(wish)
        except BaseException:
            await change_task(self.database, after, task, announce=False)
            raise
        return True

    @staticmethod
    def _wish(call: Call, task: Task, incoming: Incoming, asked: Task | None = None) -> RunWish:
        answers = incoming.answers(_questions(asked)) if asked is not None else ()
        return RunWish(
            actor=call.actor,
            agent=call.agent.slug,
            context_id=task.context_id,
            run_id=task.run_id,
            text="" if answers else incoming.text,
            answers=answers,
            properties=hops.as_props(hops.read_hops(incoming.metadata)),
            request_id=call.request_id,
            trace_context=call.trace_context,
        )

    # --- tasks

    async def get(self, call: Call, task_id: str, history_length: int | None) -> Document:
        """The task as it stands."""
        return (await self._found(call, task_id)).document(history_length=history_length)

    async def page(
        self, call: Call, filters: Filters, *, history_length: int | None, artifacts: bool
    ) -> tuple[list[Document], int, str]:
        """A page of the caller's tasks, how many there are, and the next page's token."""
        await brought_up_to_date(self.database, self.runs, await open_tasks(self.database, call.actor, call.agent.slug))
        page = await list_tasks(self.database, call.actor, call.agent.slug, filters)
        documents = [task.document(history_length=history_length, artifacts=artifacts) for task in page.tasks]
        return documents, page.total, page.next_token

    async def cancel(self, call: Call, task_id: str) -> Document:
        """The task once it is canceled; one that still works after a while is told as it is."""
        for _ in range(CANCEL_ATTEMPTS):
            task = await self._found(call, task_id)
            if task.state.is_terminal:
                raise TaskError(Fault.TASK_NOT_CANCELABLE, f"The task has ended ({task.state.wire_name}).")
            is_run = task.state is TaskState.WORKING and task.run_id
            canceled = await (self._run_canceled(call, task) if is_run else self._question_canceled(call, task))
            if canceled is not None:
                return canceled.document()
            await asyncio.sleep(CANCEL_PAUSE_SECONDS)  # a message brings its run, or fails to, at this moment
        raise TaskError(Fault.TASK_NOT_CANCELABLE, "The task goes on at this moment; try again.")

    async def _run_canceled(self, call: Call, task: Task) -> Task | None:
        """The task, its run at an end or told to end; None when the run is not there yet."""
        try:
            await self.runs.cancel(call.actor, task.run_id)
            async with asyncio.timeout(CANCEL_SECONDS):
                return await self._ended(call.actor, task)
        except TimeoutError:
            logger.info("a task is still being canceled", extra={"task_id": task.public_id})
            return task
        except Problem as problem:
            if problem.code != "not_found":
                raise
            return None

    async def _question_canceled(self, call: Call, task: Task) -> Task | None:
        """The task, its question taken back; None when it was answered at this moment."""
        if task.run_id and not await self.runs.withdraw(call.actor, task.run_id, call.request_id):
            return None
        after = replace(task, state=TaskState.CANCELED, status_at=datetime.now(UTC), status_message=None)
        return after if await change_task(self.database, task, after) else None

    async def _found(self, call: Call, task_id: str) -> Task:
        task = await find_task(self.database, call.actor, call.agent.slug, task_id)
        [task] = await brought_up_to_date(self.database, self.runs, [task])
        return task

    # --- push notifications

    async def put_push_config(self, call: Call, task_id: str, config: Document) -> Document:
        """Have a task's states announced at an address."""
        configs.check_config(config)
        return await configs.put_config(self.database, await self._found(call, task_id), config)

    async def push_config(self, call: Call, task_id: str, config_id: str) -> Document:
        """One of the task's addresses."""
        return await configs.get_config(self.database, await self._found(call, task_id), config_id)

    async def push_configs(self, call: Call, task_id: str) -> list[Document]:
        """All of the task's addresses."""
        return await configs.all_configs(self.database, await self._found(call, task_id))

    async def remove_push_config(self, call: Call, task_id: str, config_id: str) -> None:
        """Announce there no more; one that is not there is gone already."""
        await configs.remove_config(self.database, await self._found(call, task_id), config_id)


def _questions(task: Task) -> list[dict[str, Any]]:
    """The open questions, as the task's status tells them."""
    parts = (task.status_message or {}).get("parts", [])
    return [
        question
        for part in parts
        if isinstance(part.get("data"), dict)
        for question in part["data"].get("interrupts", [])
    ]
