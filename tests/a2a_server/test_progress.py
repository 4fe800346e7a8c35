"""What a run's end makes of its task, whoever looks first."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from a2a.run_port import ExposedAgent, Phase, RunKey, RunUpdate, RunView, RunWish
from a2a.serving.progress import brought_up_to_date, going_on
from a2a.serving.task_service import Call, TaskService
from a2a.task_store import change_task, insert_task, tasks_by_id
from a2a.tasks import Task, TaskState
from agentbackend.foundation.database import Database
from agentbackend.foundation.identifiers import uuid7
from agentbackend.foundation.problems import Problem
from audit.actor import Actor

QUESTION = {"id": str(uuid7()), "message": "Shall the call be made?"}


@dataclass
class Runs:
    """Runs that stand as a test says."""

    views: dict[str, RunView] = field(default_factory=dict)
    is_ending: bool = False

    async def view(self, keys: Sequence[RunKey]) -> dict[RunKey, RunView]:
        return {key: self.views[key.run_id] for key in keys if key.run_id in self.views}

    async def exposed(self, slug: str) -> ExposedAgent | None:
        raise NotImplementedError

    async def start(self, wish: RunWish) -> None:
        raise NotImplementedError

    def follow(self, actor: Actor, run_id: str) -> AsyncIterator[RunUpdate]:
        raise NotImplementedError

    async def cancel(self, actor: Actor, run_id: str) -> bool:
        raise NotImplementedError

    async def withdraw(self, actor: Actor, run_id: str, request_id: str = "") -> bool:
        raise NotImplementedError


async def stored_task(database: Database, **changes: Any) -> Task:
    """A task that works, as it is stored."""
    public_id = str(uuid7())
    task = Task(
        id=UUID(public_id), public_id=public_id, context_id=str(uuid7()), tenant="default", owner_id=str(uuid7()),
        agent="assistant", run_id=public_id, state=TaskState.WORKING, status_message=None, status_at=datetime.now(UTC),
    )  # fmt: skip
    task = replace(task, **changes)
    await insert_task(database, task)
    return task


async def become(database: Database, task: Task, **views: RunView) -> Task:
    """The task once somebody has looked; what is told is what is stored. `this`: its run."""
    runs = Runs({task.run_id if name == "this" else name: view for name, view in views.items()})
    [told] = await brought_up_to_date(database, runs, [task])
    [stored] = await tasks_by_id(database, [task.id])
    assert told == stored
    return stored


def texts(task: Task) -> list[str]:
    return [artifact["parts"][0].get("text", "") for artifact in task.artifacts]


async def test_a_structured_answer_is_an_artifact_beside_the_text(database_pool: Database) -> None:
    view = RunView(Phase.FINISHED, texts=("Look:", "Done."), result={"answer": {"sum": 42}})
    task = await become(database_pool, await stored_task(database_pool), this=view)
    assert (task.state, texts(task)[:2]) == (TaskState.COMPLETED, ["Look:", "Done."])
    assert task.artifacts[2]["artifactId"] == "result"
    assert task.artifacts[2]["parts"][0]["data"] == {"sum": 42}


async def test_a_run_that_was_stopped_is_no_answer(database_pool: Database) -> None:
    view = RunView(Phase.FINISHED, texts=("I stopped here.",), result={"stopped": "max_iterations"})
    task = await become(database_pool, await stored_task(database_pool), this=view)
    assert (task.state, task.metadata) == (TaskState.FAILED, {"stopped": "max_iterations"})
    assert task.status_message is not None
    assert task.status_message["parts"][0]["text"] == "I stopped here."


async def test_a_run_that_failed_says_why(database_pool: Database) -> None:
    view = RunView(Phase.FAILED, error_code="model_timeout", error_message="The model did not answer in time.")
    task = await become(database_pool, await stored_task(database_pool), this=view)
    assert (task.state, task.metadata) == (TaskState.FAILED, {"code": "model_timeout"})
    assert "did not answer" in str(task.status_message)


async def test_a_question_that_was_answered_elsewhere_is_the_same_task_going_on(database_pool: Database) -> None:
    asked = RunView(Phase.INTERRUPTED, questions=(QUESTION,))
    task = await become(database_pool, await stored_task(database_pool), this=asked)
    assert task.state is TaskState.INPUT_REQUIRED
    answered = replace(asked, next_run="by-the-console")
    done = RunView(Phase.FINISHED, texts=("42",))
    task = await become(database_pool, task, **{"this": answered, "by-the-console": done})
    assert (task.state, texts(task)) == (TaskState.COMPLETED, ["42"])
    assert [message["role"] for message in task.history] == ["ROLE_AGENT"]


async def test_a_question_that_another_task_passed_over_ends_its_task(database_pool: Database) -> None:
    other = await stored_task(database_pool)
    asked = RunView(Phase.INTERRUPTED, questions=(QUESTION,), next_run=other.run_id)
    task = await become(database_pool, await stored_task(database_pool), this=asked)
    assert task.state is TaskState.CANCELED


@pytest.mark.parametrize(("seconds", "state"), [(5, TaskState.WORKING), (120, TaskState.FAILED)])
async def test_a_task_whose_process_died_before_its_run_was_stored_fails_after_a_while(
    database_pool: Database, seconds: int, state: TaskState
) -> None:
    begun = datetime.now(UTC) - timedelta(seconds=seconds)
    task = await become(database_pool, await stored_task(database_pool, status_at=begun))
    assert task.state is state


async def test_callers_who_wait_are_as_many_as_a_process_takes(database_pool: Database) -> None:
    task = await stored_task(database_pool, state=TaskState.INPUT_REQUIRED)
    service = TaskService(database_pool, Runs(), most_waiting=1)
    agent = ExposedAgent(task.agent, "Assistant", "", (), is_default=True, changed_at=datetime.now(UTC))
    call = Call(Actor(task.owner_id, tenant=task.tenant), agent)
    first, second, third = (service.subscribe(call, task.public_id) for _ in range(3))
    await anext(first)
    with pytest.raises(Problem) as refused:
        await anext(second)
    assert refused.value.code == "overloaded"
    await first.aclose()
    await anext(third)
    await third.aclose()


@dataclass
class AnsweredMeanwhile(Runs):
    """A question that is answered while its task is canceled; the run that the answer was to bring does not come to be."""

    database: Database | None = None
    asking: Task | None = None
    answered: Task | None = None

    async def withdraw(self, actor: Actor, run_id: str, request_id: str = "") -> bool:
        if self.answered is None:
            self.answered = going_on(self.asking, str(uuid7()))
            assert await change_task(self.database, self.asking, self.answered)
        return True

    async def cancel(self, actor: Actor, run_id: str) -> bool:
        assert await change_task(self.database, self.answered, self.asking)
        raise Problem("not_found")


async def test_a_task_that_is_answered_while_it_is_canceled_is_canceled_all_the_same(database_pool: Database) -> None:
    task = await stored_task(database_pool, state=TaskState.INPUT_REQUIRED)
    service = TaskService(database_pool, AnsweredMeanwhile(database=database_pool, asking=task))
    agent = ExposedAgent(task.agent, "Assistant", "", (), is_default=True, changed_at=datetime.now(UTC))
    canceled = await service.cancel(Call(Actor(task.owner_id, tenant=task.tenant), agent), task.public_id)
    [stored] = await tasks_by_id(database_pool, [task.id])
    assert (canceled["status"]["state"], stored.state) == ("TASK_STATE_CANCELED", TaskState.CANCELED)
