"""How long a reader waits when a run's process dies: from the kill to the first event of the successor, at another process.

Leases as the service has them where nothing is set. `killed`: SIGKILL; `stopped`: SIGTERM without a grace period; `many_killed`: many runs
of a process that is killed, to the first and to the last that goes on. Prints seconds as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import aiohttp

from benchmarks.measured_service import MeasuredService, free_port, measured_service
from benchmarks.paced_model import paced_model, serve


async def take_over_many(owner: MeasuredService, witness: MeasuredService, runs: int) -> list[float]:
    """Begin many runs at `owner`, kill it, and wait at `witness` until each has gone on; seconds after the kill, sorted."""
    all_run = asyncio.Barrier(runs + 1)
    ended_at = 0.0

    async def one(session: aiohttp.ClientSession) -> float:
        caller = {"X-Supabase-User-ID": str(uuid4())}
        run_id, message = str(uuid4()), {"id": str(uuid4()), "role": "user", "content": "Tell me a lot."}
        wish = {"threadId": str(uuid4()), "runId": run_id, "protocolVersion": "1.0", "messages": [message]}
        begun = await session.post(f"{owner.url}/ag-ui/events", json=wish, headers=caller)
        async with begun, session.get(f"{witness.url}/ag-ui/runs/{run_id}/events", headers=caller) as followed:
            await _read_until(followed, b"TEXT_MESSAGE_CONTENT")
            await all_run.wait()
            await _read_until(followed, b"run_recovered")
            return time.perf_counter() - ended_at

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        waiting = [asyncio.create_task(one(session)) for _ in range(runs)]
        await all_run.wait()
        os.kill(owner.pid, signal.SIGKILL)
        ended_at = time.perf_counter()
        return sorted(await asyncio.gather(*waiting))


async def take_over(owner: MeasuredService, witness: MeasuredService, number: signal.Signals) -> float:
    """Begin a run at `owner`, end that process in the middle, and wait at `witness` for the run to go on."""
    caller = {"X-Supabase-User-ID": str(uuid4())}
    run_id, message = str(uuid4()), {"id": str(uuid4()), "role": "user", "content": "Tell me a lot."}
    wish = {"threadId": str(uuid4()), "runId": run_id, "protocolVersion": "1.0", "messages": [message]}
    async with aiohttp.ClientSession(headers=caller) as session:
        async with session.post(f"{owner.url}/ag-ui/events", json=wish) as begun:
            await begun.content.readline()
            async with session.get(f"{witness.url}/ag-ui/runs/{run_id}/events") as followed:
                await _read_until(followed, b"TEXT_MESSAGE_CONTENT")
                os.kill(owner.pid, number)
                ended_at = time.perf_counter()
                await _read_until(followed, b"run_recovered")
                return time.perf_counter() - ended_at


async def _read_until(response: aiohttp.ClientResponse, wanted: bytes) -> None:
    async for line in response.content:
        if wanted in line:
            return
    raise RuntimeError(f"the stream ended without {wanted!r}")


async def main() -> None:
    """Several rounds of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--many", type=int, default=300)
    chosen = parser.parse_args()
    model_port = free_port()
    model = await serve(paced_model(600, 0.2), model_port)
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentbackend-bench-")))
        settings = {"SHUTDOWN_GRACE_SECONDS": "0", "REDIS_URL": os.environ.get("REDIS_URL", "")}

        async def start() -> MeasuredService:
            service = measured_service(model_port, folder=folder, **settings)
            return await loop.run_in_executor(None, stack.enter_context, service)

        witness = await start()
        for name, number in (("killed", signal.SIGKILL), ("stopped", signal.SIGTERM)):
            found = [await take_over(await start(), witness, number) for _ in range(chosen.rounds)]
            print(
                json.dumps({name: {"median": round(statistics.median(found), 2), "max": round(max(found), 2)}}),
                flush=True,
            )
        found = await take_over_many(await start(), witness, chosen.many)
        print(
            json.dumps({"many_killed": {"runs": len(found), "first": round(found[0], 2), "last": round(found[-1], 2)}})
        )
        await loop.run_in_executor(None, stack.close)
    await model.cleanup()


asyncio.run(main())
