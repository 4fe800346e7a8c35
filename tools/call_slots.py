"""How many calls of a tool this process makes at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


class NoSlotError(Exception):
    """No other call of the tool ended in time."""


@dataclass(slots=True)
class _Calls:
    """Of one tool: how many are going on, and who waits."""

    busy: int = 0
    waiting: list[asyncio.Future[None]] = field(default_factory=list)


class CallSlots:
    """Slots by tool. The limit is given with each call, so a change of it counts at once."""

    def __init__(self) -> None:
        self._tools: dict[str, _Calls] = {}

    @asynccontextmanager
    async def slot(self, tool: str, limit: int, seconds: float) -> AsyncIterator[None]:
        """Hold one of the tool's `limit` slots (0: any number), waiting at most `seconds`; raises NoSlotError."""
        if limit == 0:
            yield
            return
        calls = self._tools.setdefault(tool, _Calls())
        try:
            async with asyncio.timeout(seconds):
                await self._room(calls, limit)
        except TimeoutError:
            raise NoSlotError from None
        calls.busy += 1
        try:
            yield
        finally:
            calls.busy -= 1
            self._wake(calls)

    async def _room(self, calls: _Calls, limit: int) -> None:
        while calls.busy >= limit:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            calls.waiting.append(turn)
            await turn

    @staticmethod
    def _wake(calls: _Calls) -> None:
        """Wake everybody who waits, the first first: each looks again, so one that gave up loses nobody's turn."""
        waiting, calls.waiting = calls.waiting, []
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)
