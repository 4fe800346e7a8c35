"""The jobs: runs to be taken up, and the care for what runs leave behind.

A job about a run says no more than "take this run": whether it is still to be taken the run's row decides, under its fence. So a job
may be lost, done twice or done late without harm; the engine's sweep queues again what waits too long.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import AlreadyEnqueued
from procrastinate.jobs import Status
from procrastinate.tasks import Task

from a2a.discovery import refresh_all
from agentbackend.foundation.database import Database
from orchestration.retention import expire_event_logs, pack_ended_runs
from tools.mcp_client.discovery import discover_all

logger = logging.getLogger(__name__)

RUNS = "runs"
"""Runs in the background: a job lasts as long as its run."""
RECOVERY = "recovery"
"""Runs that lost their owner: any process takes them up at once."""
MAINTENANCE = "maintenance"

KEEP_HOURS = 24
_BATCH = 200
_MOST_BATCHES = 50
_LATER_SECONDS = 0.3
_RUNS_OF_A_JOB = 20


class TakesUpRuns(Protocol):
    """What the jobs need of the engine."""

    @property
    def has_room(self) -> bool: ...  # noqa: D102

    async def adopt(self, run_id: UUID, *, wait: bool = True) -> bool: ...  # noqa: D102

    async def summarise(self, thread_id: UUID) -> None: ...  # noqa: D102


class Announces(Protocol):
    """What the jobs need of whoever announces the states of A2A tasks."""

    async def announce(self, delivery_id: UUID) -> None: ...  # noqa: D102

    async def look_at_all(self) -> None: ...  # noqa: D102

    async def remove_old(self) -> None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class JobsConfig:
    """What the jobs are told by the settings. `event_retention_days`: 0 keeps event logs for ever."""

    event_retention_days: int = 0


class Jobs:
    """The application of the queue: what can be queued, and what is done with it. Opened on a pool that is open already."""

    def __init__(self, database: Database, engine: TakesUpRuns, config: JobsConfig) -> None:
        self.app = App(connector=PsycopgConnector())
        self._database = database
        self._engine = engine
        self._config = config
        self.announcer: Announces | None = None
        # The names are in the database: never rename them while jobs may wait.
        self._carry_out_run = self.app.task(name="runs.carry_out", queue=RUNS)(self._carry_out)
        self._take_up_runs = self.app.task(name="runs.take_up_all", queue=RECOVERY)(self._take_up)
        self._announce_states = self.app.task(name="a2a.announce", queue=MAINTENANCE)(self._announce)
        self._care_for("maintenance.look_at_tasks", "* * * * *", self._look_at_tasks)
        self._care_for("maintenance.remove_old_announcements", "27 * * * *", self._remove_old_announcements)
        self._summarise_thread = self.app.task(name="threads.summarise", queue=RUNS)(self._summarise)
        self._care_for("maintenance.pack_event_logs", "* * * * *", self._pack)
        self._care_for("maintenance.expire_event_logs", "7 * * * *", self._expire)
        self._care_for("maintenance.remove_old_jobs", "17 * * * *", self._remove_old_jobs)
        self._care_for("maintenance.end_stalled_jobs", "* * * * *", self._end_stalled_jobs)
        self._care_for("maintenance.ask_remote_servers", "*/15 * * * *", self._ask_remote_servers)
        self._care_for("maintenance.read_agent_cards", "*/15 * * * *", self._read_agent_cards)

    def _care_for(self, name: str, cron: str, work: Callable[[int], Awaitable[None]]) -> None:
        """Have something done at times, by one worker of all: procrastinate defers each moment once."""
        task = self.app.task(name=name, queue=MAINTENANCE, queueing_lock=name)(work)
        self.app.periodic(cron=cron)(task)

    async def defer_claims(self, run_ids: Sequence[UUID], *, background: bool = False) -> None:
        """`orchestration.dispatch.Dispatcher`: a job for each background run, unless one waits already; abandoned ones share jobs."""
        if background:
            for run_id in run_ids:
                await self._defer(self._carry_out_run, f"runs.carry_out:{run_id}", run_id=str(run_id))
            return
        for number, start in enumerate(range(0, len(run_ids), _RUNS_OF_A_JOB)):
            some = [str(run_id) for run_id in run_ids[start : start + _RUNS_OF_A_JOB]]
            # The lock is the part's number: what several processes find at once is queued once, what is left out comes next time.
            await self._defer(self._take_up_runs, f"runs.take_up_all:{number}", run_ids=some)

    async def defer_announcements(self, deliveries: Sequence[UUID]) -> None:
        """A job for each announcement that is due. They are claimed for a while: one whose job is lost comes round again."""
        for delivery in deliveries:
            await self._defer(self._announce_states, f"a2a.announce:{delivery}", delivery_id=str(delivery))

    async def defer_summary(self, thread_id: UUID) -> None:
        """`orchestration.dispatch.Dispatcher`: one job a thread, and one at work."""
        name = f"threads.summarise:{thread_id}"
        await self._defer(self._summarise_thread, name, one_at_once=name, thread_id=str(thread_id))

    @staticmethod
    async def _defer(task: Task[..., Any, ...], lock: str, *, one_at_once: str | None = None, **arguments: Any) -> None:
        """Queue a job, unless one with this lock waits already; jobs with the same `one_at_once` are done one after another."""
        with suppress(AlreadyEnqueued):
            await task.configure(queueing_lock=lock, lock=one_at_once).defer_async(**arguments)

    async def waiting(self) -> dict[str, int]:
        """Jobs by status, over all queues: todo, doing, failed, ..."""
        rows = await self._database.fetch_all("SELECT status::text, count(*) FROM procrastinate_jobs GROUP BY status")
        return dict(rows)

    # --- runs

    async def _carry_out(self, run_id: str) -> None:
        if self._engine.has_room:
            await self._engine.adopt(UUID(run_id))
        else:
            # For another process, or this one a little later. Not scheduled: scheduled jobs are only found by polling.
            await asyncio.sleep(_LATER_SECONDS)
            await self._defer(self._carry_out_run, f"runs.carry_out:{run_id}", run_id=run_id)

    async def _take_up(self, run_ids: list[str]) -> None:
        """What this process has no room for is found by the next sweep."""
        for run_id in run_ids:
            await self._engine.adopt(UUID(run_id), wait=False)

    async def _announce(self, delivery_id: str) -> None:
        if self.announcer is not None:
            await self.announcer.announce(UUID(delivery_id))

    async def _summarise(self, thread_id: str) -> None:
        await self._engine.summarise(UUID(thread_id))

    # --- maintenance

    async def _look_at_tasks(self, timestamp: int) -> None:
        if self.announcer is not None:
            await self.announcer.look_at_all()

    async def _remove_old_announcements(self, timestamp: int) -> None:
        if self.announcer is not None:
            await self.announcer.remove_old()

    async def _pack(self, timestamp: int) -> None:
        for _ in range(_MOST_BATCHES):
            if await pack_ended_runs(self._database, limit=_BATCH) < _BATCH:
                return

    async def _expire(self, timestamp: int) -> None:
        for _ in range(_MOST_BATCHES):
            days = self._config.event_retention_days
            if await expire_event_logs(self._database, default_days=days, limit=_BATCH) < _BATCH:
                return

    async def _remove_old_jobs(self, timestamp: int) -> None:
        await self.app.job_manager.delete_old_jobs(
            nb_hours=KEEP_HOURS, include_failed=True, include_cancelled=True, include_aborted=True
        )

    async def _end_stalled_jobs(self, timestamp: int) -> None:
        """Jobs whose worker is gone: their runs are found by the sweep, the rest comes round again by itself."""
        for job in await self.app.job_manager.get_stalled_jobs():
            logger.warning("the worker of a job is gone", extra={"job": job.id, "task": job.task_name})
            await self.app.job_manager.finish_job(job, Status.FAILED, delete_job=False)

    async def _ask_remote_servers(self, timestamp: int) -> None:
        """What they offer now: a tool that is not as it was imported is quarantined."""
        await discover_all()

    async def _read_agent_cards(self, timestamp: int) -> None:
        """What remote agents say of themselves now: a card that is not as it was accepted is quarantined."""
        await refresh_all()
