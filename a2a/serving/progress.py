"""How a task stands: what its current run has come to, folded into it and written by whoever looks first.

A run that is over says all (completed, failed, canceled, or a question), so nothing has to watch it: a read brings the task up to date.
The announcements of the new state are written with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from a2a.run_port import Phase, RunPort, RunView
from a2a.task_store import NOT_BEGUN, change_task, runs_of_tasks, tasks_by_id
from a2a.tasks import Document, Task, TaskState, data_part, text_part
from agentbackend.foundation.database import Database

NOT_BEGUN_SECONDS: Final = 60.0
"""A task whose run is not there after this time never had one: its process died in between."""
_MOST_ROUNDS: Final = 5


async def brought_up_to_date(database: Database, runs: RunPort, tasks: Sequence[Task]) -> list[Task]:
    """The tasks as they stand now, in their order; what changed is written."""
    current = {task.id: task for task in tasks}
    for _ in range(_MOST_ROUNDS):  # a question that was answered elsewhere leads from run to run
        looked_at = [task for task in current.values() if task.run_id and not task.state.is_terminal]
        if not looked_at:
            break
        views = await runs.view([task.run for task in looked_at])
        taken = await runs_of_tasks(database, [view.next_run for view in views.values() if view.next_run])
        changes = {
            task.id: (task, change) for task in looked_at if (change := _change(task, views.get(task.run), taken))
        }
        if not changes:
            break
        for before, after in changes.values():
            await change_task(database, before, after)
        for task in await tasks_by_id(database, list(changes)):
            current[task.id] = task
    return [current[task.id] for task in tasks]


def _change(task: Task, view: RunView | None, taken: set[str]) -> Task | None:
    """The task with what its run has come to; None when that is nothing new."""
    if view is None:
        age = (datetime.now(UTC) - task.status_at).total_seconds()
        return _not_begun(task) if age > NOT_BEGUN_SECONDS else None
    match view.phase:
        case Phase.GOING_ON:
            return None
        case Phase.INTERRUPTED:
            return _asking(task, view) if task.state is not TaskState.INPUT_REQUIRED else _answered(task, view, taken)
        case Phase.FINISHED:
            return _finished(task, view)
        case Phase.FAILED:
            failed = _failed(task, view.error_message or "The run failed.", *view.texts)
            return replace(failed, metadata={**task.metadata, "code": view.error_code})
        case Phase.CANCELLED:
            return _now(task, TaskState.CANCELED, artifacts=_with_texts(task, view.texts))


def _asking(task: Task, view: RunView) -> Task:
    text = "\n".join(str(question.get("message") or "A decision is needed.") for question in view.questions)
    message = task.agent_message(text_part(text), data_part({"interrupts": list(view.questions)}))
    artifacts = _with_texts(task, view.texts)
    return _now(task, TaskState.INPUT_REQUIRED, artifacts=artifacts, status_message=message)


def _answered(task: Task, view: RunView, taken: set[str]) -> Task | None:
    """The question was answered elsewhere: in the console, or by a next message in the conversation."""
    if not view.next_run:
        return None
    if view.next_run in taken:
        text = "The conversation went on without an answer to the question."
        return _now(task, TaskState.CANCELED, status_message=task.agent_message(text_part(text)))
    return going_on(task, view.next_run)


def going_on(task: Task, run_id: str, *said: Document) -> Task:
    """The task with its next run. The question and what was said to it become history."""
    asked = [task.status_message] if task.status_message else []
    return _now(task, TaskState.WORKING, run_id=run_id, status_message=None, history=[*task.history, *asked, *said])


def _finished(task: Task, view: RunView) -> Task:
    result = view.result or {}
    if "stopped" in result:  # the text says why: it is no answer
        *texts, last = view.texts or ("The task was stopped.",)
        return replace(_failed(task, last, *texts), metadata={**task.metadata, **result})
    artifacts = _with_texts(task, view.texts)
    if "answer" in result:
        artifacts = [*artifacts, {"artifactId": "result", "name": "Result", "parts": [data_part(result["answer"])]}]
    rest = {name: value for name, value in result.items() if name != "answer"}
    return _now(task, TaskState.COMPLETED, artifacts=artifacts, metadata={**task.metadata, **rest})


def _failed(task: Task, message: str, *texts: str) -> Task:
    artifacts = _with_texts(task, texts)
    return _now(task, TaskState.FAILED, artifacts=artifacts, status_message=task.agent_message(text_part(message)))


def _not_begun(task: Task) -> Task:
    failed = _failed(task, "The task could not be begun. Send it again.")
    return replace(failed, metadata={**task.metadata, "code": NOT_BEGUN})


def _now(task: Task, state: TaskState, **changes: Any) -> Task:
    return replace(task, state=state, status_at=datetime.now(UTC), **{"status_message": None, **changes})


def _with_texts(task: Task, texts: Sequence[str]) -> list[Document]:
    first = len(task.artifacts)
    return [*task.artifacts, *(text_artifact(first + number, text) for number, text in enumerate(texts))]


def text_artifact(number: int, text: str) -> Document:
    """What the agent said in one message, as an artifact of the task; `number` counts the task's artifacts from 0."""
    return {"artifactId": f"text-{number + 1}", "name": "Answer", "parts": [text_part(text)]}
