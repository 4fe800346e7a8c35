"""What the agent does: four skills, chosen by the first word of what it is asked."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Final

from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.tasks import TaskUpdater
from a2a.types import Part, Task, TaskState, TaskStatus

logger = logging.getLogger("mock_a2a_server")

SLOW_WORDS: Final = 40
_PIECES = re.compile(r"\s*\S+")
_NUMBER = re.compile(r"\d+|\b(?:one|two|three|four|five|six|seven|eight|nine|ten)\b", re.IGNORECASE)


class SampleAgent(AgentExecutor):
    """Answers from a script. `pause_seconds`: between two words of a slow answer."""

    def __init__(self, pause_seconds: float = 0.1) -> None:
        self._pause = pause_seconds

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Carry out one message: a new task, or the answer to what was asked."""
        task = context.current_task
        text = context.get_user_input().strip()
        if task is None:
            task = Task(
                id=context.task_id or "",
                context_id=context.context_id or "",
                status=TaskStatus(state=TaskState.TASK_STATE_SUBMITTED),
                history=[context.message] if context.message else [],
            )
            await event_queue.enqueue_event(task)
            is_answer = False
        else:
            is_answer = True
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        logger.info("task %s: %s", task.id, _command(text) or "quick")
        await updater.start_work()
        if is_answer:
            await self._order_again(updater, text)
            return
        skill = {"slow": self._slow, "order": self._order, "fail": self._fail}.get(_command(text), self._quick)
        await skill(updater, text)

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Give a task up."""
        task = context.current_task
        if task is None:
            return
        logger.info("task %s: cancelled", task.id)
        await TaskUpdater(event_queue, task.id, task.context_id).cancel()

    async def _quick(self, updater: TaskUpdater, text: str) -> None:
        await updater.add_artifact([Part(text=f"I am a sample agent, so I know nothing of it. I was asked: {text}")])
        await updater.complete()

    async def _slow(self, updater: TaskUpdater, text: str) -> None:
        words = _PIECES.findall(
            f"Let me think about this: {text[:500]}." + " Hmm." * SLOW_WORDS + " I know nothing of it."
        )
        for number, word in enumerate(words):
            await updater.add_artifact(
                [Part(text=word)], artifact_id="thoughts", append=number > 0, last_chunk=number == len(words) - 1
            )
            await asyncio.sleep(self._pause)
        await updater.complete()

    async def _order(self, updater: TaskUpdater, text: str) -> None:
        question = f"How many do you want? You said: {text}"
        await updater.requires_input(updater.new_agent_message([Part(text=question)]))

    async def _order_again(self, updater: TaskUpdater, text: str) -> None:
        number = _NUMBER.search(text)
        if number is None:
            question = "That is no number that I understand. How many?"
            await updater.requires_input(updater.new_agent_message([Part(text=question)]))
            return
        await updater.add_artifact([Part(text=f"Ordered: {number[0]}. Nothing will come, since I am a sample agent.")])
        await updater.complete()

    async def _fail(self, updater: TaskUpdater, text: str) -> None:
        await updater.failed(updater.new_agent_message([Part(text="I cannot do it: my sources are closed today.")]))


def _command(text: str) -> str:
    """The first word, where it is the name of a skill."""
    first = text.split(maxsplit=1)[0].lower().strip(":,.!") if text else ""
    return first if first in ("slow", "order", "fail") else ""
