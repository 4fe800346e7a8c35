"""A circuit: an agent that keeps failing is left alone for a while, then tried once, by one task, before the others follow."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

FAILURES_TO_OPEN: Final = 3
OPEN_SECONDS: Final = 30.0


class Circuit:
    """Of one agent in one process. Counted are failures of the transport, one after another."""

    def __init__(self, *, open_seconds: float = OPEN_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._open_seconds = open_seconds
        self._clock = clock
        self._failures = 0
        self._closed_until = float("-inf")
        self._is_tried = False

    def enter(self) -> float:
        """Ask before a task is handed over: 0 when it may be, else the seconds after which to try again.

        Whoever was let in calls `succeeded`, `failed` or `left`.
        """
        if self._failures < FAILURES_TO_OPEN:
            return 0.0
        wait = self._closed_until - self._clock()
        if wait > 0:
            return wait
        if self._is_tried:
            return 1.0
        self._is_tried = True
        return 0.0

    def succeeded(self) -> None:
        """The agent said something."""
        self._failures = 0
        self._is_tried = False

    def failed(self) -> None:
        """It could not be reached, or its connection broke."""
        self._failures += 1
        self._is_tried = False
        if self._failures >= FAILURES_TO_OPEN:
            self._closed_until = self._clock() + self._open_seconds

    def left(self) -> None:
        """Nothing was found out."""
        self._is_tried = False
