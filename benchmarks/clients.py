"""Clients that post runs and read them to their end, as cheaply as they can: counts and times, no parsing."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from uuid import uuid4

import aiohttp
import orjson


@dataclass(frozen=True, slots=True)
class RunTimes:
    """Seconds from the request to the first event, and to the end; how many events; whether it ended as it should."""

    first_event: float
    total: float
    events: int
    ok: bool


def body() -> bytes:
    """A RunAgentInput in a thread of its own."""
    message = {"id": str(uuid4()), "role": "user", "content": "What is the weather in London?"}
    return orjson.dumps(
        {"threadId": str(uuid4()), "runId": str(uuid4()), "protocolVersion": "1.0", "messages": [message]}
    )


async def one_run(session: aiohttp.ClientSession, url: str) -> RunTimes:
    """Post one run and read it."""
    started = time.perf_counter()
    first, events, tail = 0.0, 0, b""
    headers = {"content-type": "application/json", "X-Supabase-User-ID": str(uuid4())}
    async with session.post(f"{url}/ag-ui/events", data=body(), headers=headers) as response:
        async for piece in response.content.iter_any():
            first = first or time.perf_counter() - started
            events += piece.count(b"\ndata: ")
            tail = (tail + piece)[-2000:]
    return RunTimes(first, time.perf_counter() - started, events, b'"RUN_FINISHED"' in tail)


async def many_runs(url: str, runs: int, at_once: int) -> list[RunTimes]:
    """`runs` runs by `at_once` clients, each one after another."""
    left = iter(range(runs))
    found: list[RunTimes] = []

    async def client(session: aiohttp.ClientSession) -> None:
        for _ in left:
            found.append(await one_run(session, url))

    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        await asyncio.gather(*(client(session) for _ in range(at_once)))
    return found
