"""A time limit for many short waits: one timer for all of them, where a time-out context for each would cost ten times as much."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Deadline:
    """`with deadline:` around each wait of one task; a wait beyond the limit ends in TimeoutError.

    Say with `expire_in` or `expire_at` until when, before each wait, and `close` it in the end. Between the waits the timer runs on; it is
    moved only when it fires.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._moment = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: asyncio.Task[object] | None = None
        self._cancelled_before = 0
        self._fired = False

    def expire_at(self, moment: float) -> None:
        """Let the next wait end at this loop time."""
        self._moment = moment
        if self._timer is None or self._timer.when() > moment:
            self._set_timer()

    def expire_in(self, seconds: float) -> None:
        """Let the next wait end after so many seconds."""
        self.expire_at(self._loop.time() + seconds)

    def close(self) -> None:
        """Drop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __enter__(self) -> None:
        self._waiting = task = asyncio.current_task()
        self._cancelled_before = task.cancelling() if task is not None else 0
        if self._timer is None:  # it fired while nobody waited
            self._set_timer()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task, self._waiting = self._waiting, None
        if not self._fired or task is None:
            return
        self._fired = False
        # Somebody else may have cancelled the task, too: then it stays cancelled.
        if task.uncancel() <= self._cancelled_before and (kind is None or kind is asyncio.CancelledError):
            raise TimeoutError from error

    def _set_timer(self) -> None:
        self.close()
        self._timer = self._loop.call_at(self._moment, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._loop.time() < self._moment:
            self._set_timer()
        elif self._waiting is not None:
            self._fired = True
            self._waiting.cancel()
