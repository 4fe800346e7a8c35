"""A scripted remote agent for the demo and for tests: it researches nothing, and says so, piece by piece as a real one would."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

from a2a.delegation import DelegationError, RemoteAgent, Task
from tools.calls import SideEffects

_PIECES = re.compile(r"\s*\S+")


class ScriptedAgent:
    """Answers from a script. A task that begins with `fail` fails, with `stall` never ends, with `flood` is answered at great length."""

    agent = RemoteAgent(
        name="researcher",
        title="Researcher",
        description="A scripted agent that stands in for a real one.",
        skills=("looking things up", "summing up what is known about a subject"),
        side_effects=SideEffects.IDEMPOTENT,
    )

    def __init__(self, delay_seconds: float = 0.015) -> None:
        self._delay = delay_seconds

    async def answer(self, task: Task) -> AsyncIterator[str]:
        """See Peer.answer."""
        command = task.text.split(maxsplit=1)[0].lower().rstrip(":") if task.text.strip() else ""
        if command == "fail":
            yield "I begin to look"
            raise DelegationError("The researcher could not do it: its sources are closed today.", retryable=True)
        if command == "stall":
            yield "I begin to look"
            await asyncio.Event().wait()
        repeated = 20_000 if command == "flood" else 1
        text = f"I am a scripted agent, so I looked nothing up. I was asked: {task.text[:200]}. It is a good question."
        for piece in _PIECES.findall(text) * repeated:
            if repeated == 1:
                await asyncio.sleep(self._delay)
            yield piece
