"""Tasks in PostgreSQL: short exchanges on the asynchronous pool. Every look-up for a caller starts from the caller.

A change of state and what announces it are one transaction; a change names the state and run that it was made from, so of two
processes that see the same thing one writes it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson

from a2a.tasks import OPEN, Document, Fault, Task, TaskError, TaskState
from agentbackend.foundation.database import Connection, Database
from agentbackend.foundation.identifiers import uuid7
from audit.actor import Actor

MOST_REFRESHED: Final = 200
"""Open tasks of one caller that a listing brings up to date."""
NOT_BEGUN: Final = "not_begun"
"""`code` in the metadata of a task that never had a run: its message may be sent again."""
REPEAT_HOURS: Final = 24
"""How long a message is known that a task was begun with."""

_COLUMNS = "id, public_id, context_id, tenant, owner_id, agent, run_id, state, status_message, status_at, artifacts, history, metadata"
_INSERT = (
    "INSERT INTO a2a_task (id, public_id, context_id, tenant, owner_id, agent, run_id, state, history, status_at, message_key) "
    "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
)
_REMOVE = (
    "DELETE FROM a2a_pushdelivery USING a2a_pushconfig AS config WHERE a2a_pushdelivery.config_id = config.id AND config.task_id = ANY(%s)",
    "DELETE FROM a2a_pushconfig WHERE task_id = ANY(%s)",
    "DELETE FROM a2a_task WHERE id = ANY(%s)",
)


@dataclass(frozen=True, slots=True)
class Filters:
    """Which of a caller's tasks are listed. `token`: where the page before ended."""

    context_id: str = ""
    state: TaskState | None = None
    after: datetime | None = None
    page_size: int = 50
    token: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a caller's tasks, how many there are, and where the next page begins (empty: nowhere)."""

    tasks: list[Task]
    total: int
    next_token: str


async def insert_task(database: Database, task: Task) -> None:
    """Store a new task."""
    await database.execute(_INSERT, _inserted(task))


async def insert_once(database: Database, task: Task, message_key: str) -> Task | None:
    """Store a new task, unless its caller began one with the same message before: that one is returned, as it is stored."""
    known = (task.tenant, task.owner_id, task.agent, message_key)
    async with database.connection() as connection:
        # Of two that come in the same moment the second one waits here.
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", ("a2a " + " ".join(known),))
        cursor = await connection.execute(
            f"SELECT {_COLUMNS} FROM a2a_task WHERE tenant = %s AND owner_id = %s AND agent = %s AND message_key = %s "  # noqa: S608
            "AND created_at > now() - make_interval(hours => %s) AND metadata ->> 'code' IS DISTINCT FROM %s "
            "ORDER BY id DESC LIMIT 1",
            (*known, REPEAT_HOURS, NOT_BEGUN),
        )
        if row := await cursor.fetchone():
            return _task(row)
        await connection.execute(_INSERT, _inserted(task, message_key))
    return None


def _inserted(task: Task, message_key: str = "") -> tuple[Any, ...]:
    return (
        task.id, task.public_id, task.context_id, task.tenant, task.owner_id, task.agent, task.run_id, task.state.value,
        _json(task.history), task.status_at, message_key,
    )  # fmt: skip


async def remove_task(database: Database, task: Task) -> None:
    """Forget a task that could not be begun."""
    async with database.connection() as connection:
        await _remove(connection, [task.id])


async def remove_context(connection: Connection, tenant: str, context_id: str) -> None:
    """Forget the tasks of a thread that is deleted, within its transaction."""
    cursor = await connection.execute(
        "SELECT id FROM a2a_task WHERE tenant = %s AND context_id = %s", (tenant, context_id)
    )
    await _remove(connection, [row[0] for row in await cursor.fetchall()])


async def _remove(connection: Connection, tasks: list[UUID]) -> None:
    for statement in _REMOVE:
        await connection.execute(statement, (tasks,))


async def find_task(database: Database, actor: Actor, agent: str, public_id: str) -> Task:
    """The caller's task with this agent; raises TaskError for everybody else's, too."""
    row = await database.fetch_one(
        f"SELECT {_COLUMNS} FROM a2a_task WHERE public_id = %s AND tenant = %s AND owner_id = %s AND agent = %s",  # noqa: S608
        (public_id[:128].replace("\x00", ""), actor.tenant, actor.id, agent),
    )
    if row is None:
        raise TaskError(Fault.TASK_NOT_FOUND, "There is no such task.")
    return _task(row)


async def tasks_by_id(database: Database, ids: Sequence[UUID]) -> list[Task]:
    """These tasks, whoever they belong to."""
    rows = await database.fetch_all(f"SELECT {_COLUMNS} FROM a2a_task WHERE id = ANY(%s)", (list(ids),))  # noqa: S608
    return [_task(row) for row in rows]


async def open_tasks(database: Database, actor: Actor, agent: str) -> list[Task]:
    """The caller's tasks that have not ended, as they are stored."""
    rows = await database.fetch_all(
        f"SELECT {_COLUMNS} FROM a2a_task WHERE tenant = %s AND owner_id = %s AND agent = %s AND state = ANY(%s) "  # noqa: S608
        "ORDER BY status_at DESC, id DESC LIMIT %s",
        (actor.tenant, actor.id, agent, [state.value for state in OPEN], MOST_REFRESHED),
    )
    return [_task(row) for row in rows]


async def unended_tasks(database: Database, after: UUID, limit: int, *, announced_only: bool) -> list[Task]:
    """Tasks beyond `after` that have not ended, by id; all, or those whose states somebody wants to be told."""
    rows = await database.fetch_all(
        f"SELECT {_COLUMNS} FROM a2a_task WHERE state IN ('submitted', 'working', 'input_required') "  # noqa: S608
        "AND run_id <> '' AND id > %s AND (NOT %s OR EXISTS (SELECT FROM a2a_pushconfig WHERE task_id = a2a_task.id)) "
        "ORDER BY id LIMIT %s",
        (after, announced_only, limit),
    )
    return [_task(row) for row in rows]


async def runs_of_tasks(database: Database, run_ids: Sequence[str]) -> set[str]:
    """Which of these runs are the current ones of tasks."""
    rows = await database.fetch_all("SELECT run_id FROM a2a_task WHERE run_id = ANY(%s)", (list(run_ids),))
    return {row[0] for row in rows}


async def list_tasks(database: Database, actor: Actor, agent: str, filters: Filters) -> Page:
    """A page of the caller's tasks, the last changed first; raises TaskError when the token is none of ours."""
    conditions = ["tenant = %s", "owner_id = %s", "agent = %s"]
    values: list[Any] = [actor.tenant, actor.id, agent]
    if filters.context_id:
        conditions.append("context_id = %s")
        values.append(filters.context_id.replace("\x00", ""))
    if filters.state is not None:
        conditions.append("state = %s")
        values.append(filters.state.value)
    if filters.after is not None:
        conditions.append("status_at >= %s")
        values.append(filters.after)
    total = await database.fetch_one(f"SELECT count(*) FROM a2a_task WHERE {' AND '.join(conditions)}", values)  # noqa: S608
    if filters.token:
        conditions.append("(status_at, id) < (%s, %s)")
        values += _read_token(filters.token)
    rows = await database.fetch_all(
        f"SELECT {_COLUMNS} FROM a2a_task WHERE {' AND '.join(conditions)} ORDER BY status_at DESC, id DESC LIMIT %s",  # noqa: S608
        [*values, filters.page_size + 1],
    )
    tasks = [_task(row) for row in rows[: filters.page_size]]
    token = _token(tasks[-1]) if len(rows) > filters.page_size else ""
    return Page(tasks, int(total[0]) if total else 0, token)


async def change_task(database: Database, before: Task, after: Task, *, announce: bool = True) -> bool:
    """Write a change, and what announces a new state; False when the task is no longer as it was."""
    async with database.connection() as connection:
        cursor = await connection.execute(
            "UPDATE a2a_task SET state = %s, run_id = %s, status_message = %s, status_at = %s, artifacts = %s, history = %s, "
            "metadata = %s WHERE id = %s AND state = %s AND run_id = %s",
            (
                after.state.value, after.run_id, _json(after.status_message), after.status_at, _json(after.artifacts),
                _json(after.history), _json(after.metadata), before.id, before.state.value, before.run_id,
            ),
        )  # fmt: skip
        if not cursor.rowcount:
            return False
        if announce and after.state is not before.state:
            await _announce(connection, after)
    return True


async def announce_now(database: Database, task: Task, config: UUID) -> None:
    """Announce how a task stands at one address that has just been added."""
    payload = orjson.dumps({"task": task.document()}).decode()
    await database.execute(
        "INSERT INTO a2a_pushdelivery (id, config_id, payload) VALUES (%s, %s, %s)", (uuid7(), config, payload)
    )


async def _announce(connection: Connection, task: Task) -> None:
    cursor = await connection.execute("SELECT id FROM a2a_pushconfig WHERE task_id = %s", (task.id,))
    configs = [row[0] for row in await cursor.fetchall()]
    if not configs:
        return
    payload = orjson.dumps({"task": task.document()}).decode()
    await connection.execute(
        "INSERT INTO a2a_pushdelivery (id, config_id, payload) SELECT d.id, d.config_id, %s "
        "FROM unnest(%s::uuid[], %s::uuid[]) AS d(id, config_id)",
        (payload, [uuid7() for _ in configs], configs),
    )


def _task(row: Sequence[Any]) -> Task:
    task = Task(*row)
    return replace(task, state=TaskState(row[7]))


def _json(document: Document | list[Document] | None) -> str | None:
    return None if document is None else orjson.dumps(document).decode()


def _token(task: Task) -> str:
    return base64.urlsafe_b64encode(f"{task.status_at.isoformat()}|{task.id}".encode()).decode()


def _read_token(token: str) -> list[Any]:
    try:
        at, _, key = base64.urlsafe_b64decode(token.encode()).decode().partition("|")
        return [datetime.fromisoformat(at), UUID(key)]
    except (ValueError, binascii.Error) as error:
        raise TaskError(Fault.INVALID_PARAMS, "The page token is not one of ours.") from error
