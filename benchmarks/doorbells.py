"""Readers in another process, with Redis and without: how much later they see an event, and what telling them costs.

Two processes on one database, twice: with a Redis of their own, and without. Runs are begun in the first process of a pair and read
there; with `watched`, each is followed in the second process, too. Lateness is the time between an event's arrival at the reader in
the first process, which gets it right after the commit, and at the reader in the second. CPU is that of each process while the
runs go on. Rounds are taken in turns; the table holds medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from uuid import uuid4

import aiohttp
import orjson

from benchmarks.measured_service import MeasuredService, free_port, measured_service
from benchmarks.paced_model import paced_model, serve

Arrivals = dict[int, float]


@dataclass(frozen=True, slots=True)
class Pair:
    """The process that carries out the runs, and the one in which they are followed."""

    owner: MeasuredService
    viewer: MeasuredService


@dataclass(slots=True)
class Round:
    """What one round measured: seconds of lateness of each event, CPU seconds of the two processes."""

    late: list[float] = field(default_factory=list)
    owner_cpu: float = 0.0
    viewer_cpu: float = 0.0


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A Redis on loopback that keeps nothing; yields its URL."""
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(20)


async def arrivals(response: aiohttp.ClientResponse) -> Arrivals:
    """When each event of a stream came, by its number."""
    found: Arrivals = {}
    rest = b""
    async for piece in response.content.iter_any():
        now = time.perf_counter()
        *frames, rest = (rest + piece).split(b"\n\n")
        for frame in frames:
            if frame.startswith(b"id: "):
                found[int(frame.partition(b"\n")[0].rpartition(b".")[2])] = now
    return found


async def one_run(session: aiohttp.ClientSession, pair: Pair, watched: bool) -> list[float]:
    """One run, read in the first process and followed in the second; returns how much later its events came there."""
    message = {"id": str(uuid4()), "role": "user", "content": "What is the weather in London?"}
    run_id = str(uuid4())
    document = {"threadId": str(uuid4()), "runId": run_id, "protocolVersion": "1.0", "messages": [message]}
    headers = {"content-type": "application/json", "X-Supabase-User-ID": str(uuid4())}
    async with session.post(f"{pair.owner.url}/ag-ui/events", data=orjson.dumps(document), headers=headers) as own:
        reading = asyncio.create_task(arrivals(own))
        if not watched:
            await reading
            return []
        async with session.get(f"{pair.viewer.url}/ag-ui/runs/{run_id}/events", headers=headers) as followed:
            opened = time.perf_counter()
            there = await arrivals(followed)
        here = await reading
    assert there.keys() == here.keys(), "every event is seen in both processes"
    return [there[number] - here[number] for number in here if here[number] > opened]


async def one_round(pair: Pair, runs: int, watched: bool) -> Round:
    """All runs at once."""
    before = pair.owner.cpu_seconds(), pair.viewer.cpu_seconds()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        late = await asyncio.gather(*(one_run(session, pair, watched) for _ in range(runs)))
    return Round(
        late=[seconds for run in late for seconds in run],
        owner_cpu=pair.owner.cpu_seconds() - before[0],
        viewer_cpu=pair.viewer.cpu_seconds() - before[1],
    )


def start_pairs(stack: ExitStack, model_port: int) -> dict[str, Pair]:
    """The two pairs, each on a database of its own."""
    pairs: dict[str, Pair] = {}
    for name in ("redis", "no redis"):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentbackend-bench-")))
        settings = {"REDIS_URL": stack.enter_context(redis_server(folder))} if name == "redis" else {}
        pairs[name] = Pair(
            *(stack.enter_context(measured_service(model_port, folder=folder, **settings)) for _ in ("owner", "viewer"))
        )
    return pairs


def summary(rounds: list[Round], runs: int) -> dict[str, float]:
    """The medians of a setting's rounds: milliseconds."""
    late = [seconds * 1000 for measured in rounds for seconds in measured.late]
    found = {
        "owner_cpu_ms_per_run": round(median(measured.owner_cpu for measured in rounds) * 1000 / runs, 1),
        "viewer_cpu_ms_per_run": round(median(measured.viewer_cpu for measured in rounds) * 1000 / runs, 1),
    }
    if late:
        found |= {"late_ms_p50": round(median(late), 1), "late_ms_p95": round(quantiles(late, n=20)[-1], 1)}
    return found


async def main() -> None:
    """Measure, and print a table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="runs at once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pace", type=float, default=0.02, help="seconds between tokens")
    chosen = parser.parse_args()
    model_port = free_port()
    model = await serve(paced_model(100, chosen.pace), model_port)
    loop = asyncio.get_running_loop()
    stack = ExitStack()
    try:
        pairs = await loop.run_in_executor(None, start_pairs, stack, model_port)
        measured: dict[tuple[str, bool], list[Round]] = defaultdict(list)
        for number in range(chosen.rounds + 1):
            for name, pair in sorted(pairs.items(), reverse=number % 2 == 0):
                for watched in (False, True):
                    found = await one_round(pair, chosen.runs, watched)
                    if number:  # the first round warms up
                        measured[name, watched].append(found)
        print(json.dumps({
            f"{name}, {'watched' if watched else 'not watched'}": summary(rounds, chosen.runs)
            for (name, watched), rounds in measured.items()
        }, indent=2))  # fmt: skip
    finally:
        await loop.run_in_executor(None, stack.close)
        await model.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
