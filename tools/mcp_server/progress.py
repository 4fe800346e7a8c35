"""Progress of a call, from wherever its handler runs to the client that waits."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final

MAX_MESSAGE_LENGTH: Final = 500

_MOST_WAITING = 64  # what a slow client has not taken; then the oldest give way to the newest


@dataclass(frozen=True, slots=True)
class Step:
    """What a handler reported once."""

    done: float
    total: float | None
    message: str | None


Send = Callable[[Step], Awaitable[None]]


class ProgressRelay:
    """A `ProgressListener` that sends what it hears, in order, from a task of its own.

    It may be called from any thread and never waits. Only growing numbers are sent, as the protocol demands. Leaving the block
    sends what still waits, so that nothing follows the result.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Step] = deque(maxlen=_MOST_WAITING)
        self._heard = asyncio.Event()
        self._closed = False
        self._furthest = -math.inf
        self._sender: asyncio.Task[None] | None = None

    def __call__(self, done: float, total: float | None, message: str) -> None:
        """Hear of progress."""
        step = Step(done, total if total is not None and math.isfinite(total) else None, _clean(message))
        with suppress(RuntimeError):  # a function that nobody waits for any more may outlive the loop
            self._loop.call_soon_threadsafe(self._keep, step)

    async def __aenter__(self) -> ProgressRelay:
        self._sender = self._loop.create_task(self._send_all())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._sender is not None
        if error is not None:
            self._sender.cancel()
        self._loop.call_soon_threadsafe(self._close)  # after all that was heard before
        try:
            await asyncio.gather(self._sender, return_exceptions=True)
        finally:
            self._sender.cancel()

    def _keep(self, step: Step) -> None:
        if self._closed or not math.isfinite(step.done) or step.done <= self._furthest:
            return
        self._furthest = step.done
        self._waiting.append(step)
        self._heard.set()

    def _close(self) -> None:
        self._closed = True
        self._heard.set()

    async def _send_all(self) -> None:
        while self._waiting or not self._closed:
            while self._waiting:
                await self._send(self._waiting.popleft())
            self._heard.clear()
            if not self._closed:
                await self._heard.wait()


def _clean(message: str) -> str | None:
    text = message[:MAX_MESSAGE_LENGTH].encode("utf-8", "replace").decode()
    return text or None
