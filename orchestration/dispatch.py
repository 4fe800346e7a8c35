"""What the engine asks of the queue: that any worker, in any process, take a run and go on with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID


class Dispatcher(Protocol):
    """The queue as runs see it. A job says no more than "take this run": the run's row and its fence decide."""

    async def defer_claims(self, run_ids: Sequence[UUID], *, background: bool = False) -> None:
        """Ask any worker to adopt these runs; a run that waits already is not queued twice.

        `background` runs wait for a free worker; abandoned ones are taken up by any process at once.
        """
        ...

    async def defer_summary(self, thread_id: UUID) -> None:
        """Ask a worker to summarise the older part of a thread, unless that is asked already."""
        ...
