"""The MCP requests that this process is serving: how many at once, who may cancel a call, and their end at shut-down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from agentbackend.foundation.problems import Problem

logger = logging.getLogger(__name__)

_LAST_ANSWERS_SECONDS: Final = 2.0


class StopReason(StrEnum):
    """Why a call was stopped by somebody else than its own connection."""

    CANCELLED = "cancelled"
    SHUTTING_DOWN = "shutting_down"


@dataclass(frozen=True, slots=True)
class CallKey:
    """How a caller names a call that is going on.

    JSON-RPC ids are unique within one client only, and a user may have several, all counting from 1: so a call can be named only
    where the client sends `X-Session-ID`.
    """

    actor_id: str
    session_id: str
    request_id: str


@dataclass(eq=False, slots=True)
class OpenCall:
    """A tool call that is going on, as the task that carries it out."""

    task: asyncio.Task[Any]
    key: CallKey | None
    stopped: StopReason | None = None

    def stop(self, reason: StopReason) -> None:
        """End the call; whoever waits for it finds the reason here."""
        if self.stopped is None:
            self.stopped = reason
            self.task.cancel()


class OpenRequests:
    """One for each process. Requests are counted from their admission to the last byte of their answer."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._is_draining = False
        self._none_left = asyncio.Event()
        self._calls: set[OpenCall] = set()

    @property
    def count(self) -> int:
        """How many are going on."""
        return self._count

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Hold a place for one request; raises Problem `shutting_down` or `overloaded`."""
        if self._is_draining:
            raise Problem("shutting_down", headers=((b"retry-after", b"2"),))
        if self._count >= self._limit:
            detail = "This process is serving as many MCP requests as it may."
            raise Problem("overloaded", detail, headers=((b"retry-after", b"5"),))
        self._count += 1
        self._none_left.clear()
        try:
            yield
        finally:
            self._count -= 1
            if self._count == 0:
                self._none_left.set()

    @contextmanager
    def call(self, task: asyncio.Task[Any], key: CallKey | None) -> Iterator[OpenCall]:
        """Have a call known while it goes on."""
        found = OpenCall(task, key)
        self._calls.add(found)
        try:
            yield found
        finally:
            self._calls.discard(found)

    def cancel(self, key: CallKey) -> bool:
        """Stop the call of this name, if exactly one is going on in this process."""
        named = [call for call in self._calls if call.key == key]
        if len(named) != 1:
            return False
        named[0].stop(StopReason.CANCELLED)
        return True

    async def drain(self, grace_seconds: float) -> None:
        """Admit nothing more, give what is going on its time, then stop the calls that are left and have them answered."""
        self._is_draining = True
        if await self._ended_within(grace_seconds):
            return
        logger.warning("MCP calls are stopped because the process ends", extra={"calls": len(self._calls)})
        for call in list(self._calls):
            call.stop(StopReason.SHUTTING_DOWN)
        await self._ended_within(_LAST_ANSWERS_SECONDS)

    async def _ended_within(self, seconds: float) -> bool:
        if self._count == 0:
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._none_left.wait()
        except TimeoutError:
            return False
        return True
