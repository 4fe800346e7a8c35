"""This process's workers: tasks that fetch jobs, started again whenever the database was away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass

from procrastinate.exceptions import ConnectorException
from psycopg import Error as DatabaseError

from agentbackend.dispatch.jobs import MAINTENANCE, RECOVERY, RUNS, Jobs
from agentbackend.foundation.database import Database

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 2.0
_RECOVERY_CONCURRENCY = 4
_LAST_JOBS_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """Which queues this process serves. Abandoned runs are always taken up; `concurrency` 0 leaves the rest to other processes."""

    concurrency: int = 10

    def workers(self) -> dict[str, tuple[list[str], int]]:
        """Name: (queues, jobs at once)."""
        plan = {"recovery": ([RECOVERY], _RECOVERY_CONCURRENCY)}
        if self.concurrency:
            plan["jobs"] = ([RUNS, MAINTENANCE], self.concurrency)
        return plan


class Workers:
    """The workers of one process.

    A job about a run lasts until the engine lets go of that run, so the engine stops between `quiesce` and `stop`.
    """

    def __init__(self, jobs: Jobs, database: Database, plan: WorkerPlan) -> None:
        self._jobs = jobs
        self._database = database
        self._plan = plan
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._working: set[str] = set()
        self._stopping = False

    async def start(self) -> None:
        """Begin to fetch jobs; the database pool and the engine are open."""
        await self._jobs.app.open_async(self._database.pool)
        loop = asyncio.get_running_loop()
        self._tasks = {
            name: loop.create_task(self._work(name, queues, concurrency), name=f"worker {name}")
            for name, (queues, concurrency) in self._plan.workers().items()
        }

    def quiesce(self) -> None:
        """Fetch nothing more; what is being done goes on."""
        self._stopping = True
        for task in self._tasks.values():
            task.cancel()

    async def stop(self) -> None:
        """Wait for the last jobs and close the queue, before the pool is closed."""
        self.quiesce()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=_LAST_JOBS_SECONDS)
        with contextlib.suppress(ConnectorException):
            await self._jobs.app.close_async()

    @property
    def idle(self) -> list[str]:
        """Names of the workers that do not work at the moment, because the database is away."""
        return sorted(self._tasks.keys() - self._working)

    async def _work(self, name: str, queues: list[str], concurrency: int) -> None:
        while not self._stopping:
            try:
                self._working.add(name)
                await self._jobs.app.run_worker_async(
                    name=name,
                    queues=queues,
                    concurrency=concurrency,
                    install_signal_handlers=False,
                    shutdown_graceful_timeout=_LAST_JOBS_SECONDS,
                )
            except (ConnectorException, DatabaseError, OSError, TimeoutError):
                logger.warning("a worker lost the database and begins again", extra={"worker": name})
            except Exception:  # whatever ends a worker, jobs must be fetched again
                logger.exception("a worker failed and begins again", extra={"worker": name})
            finally:
                self._working.discard(name)
            if not self._stopping:
                await asyncio.sleep(_PAUSE_SECONDS)
