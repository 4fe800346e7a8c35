"""A run's lease as its owner sees it: until when, by this machine's own clock, nobody else may claim the run."""

from __future__ import annotations

import asyncio
import time

MARGIN_SECONDS = 0.5


class Lease:
    """Asked before each step with an effect outside.

    A process that was paused, or cut off from the database for longer than its lease, finds the time run out and waits for the next
    renewal: that either succeeds, since nobody has claimed the run, or ends the run's task here. The window that remains is between this
    question and the effect itself.
    """

    def __init__(self, seconds: float, asked_at: float | None = None) -> None:
        """`asked_at`: when the lease was asked for (monotonic seconds); None is now."""
        self._until = (time.monotonic() if asked_at is None else asked_at) + seconds
        self._renewed = asyncio.Event()

    def renew(self, asked_at: float, seconds: float) -> None:
        """The database has confirmed the lease: it counts from when it was asked (monotonic seconds)."""
        self._until = asked_at + seconds
        self._renewed.set()

    @property
    def remaining(self) -> float:
        """Seconds left; negative when it has run out."""
        return self._until - time.monotonic()

    async def ensure(self) -> None:
        """Return at once while the lease holds, else when it has been renewed."""
        while self.remaining <= MARGIN_SECONDS:
            self._renewed.clear()
            await self._renewed.wait()
