"""CPU of the model port on either HTTP transport: per request, and per chunk in bursts and at an even pace.

    python -m benchmarks.model_port

Runs are interleaved, and medians are printed with their ratio: the ratio travels from machine to machine, the times do not.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event

import httpx2
from openai import AsyncOpenAI, DefaultAioHttpClient

from benchmarks.paced_model import paced_model, serve
from orchestration.model_port import ModelPort, ModelRequest
from orchestration.model_port.chat_completions import ChatCompletions

PORT_BURST, PORT_PACED, PORT_SHORT = 9741, 9742, 9743
PACE_SECONDS = 0.005
CHUNKS = 200
AT_ONCE = 40
ROUNDS = 5
CLIENTS: dict[str, type[httpx2.AsyncClient]] = {"httpx2": httpx2.AsyncClient, "aiohttp": DefaultAioHttpClient}
REQUEST = ModelRequest("paced", [{"role": "user", "content": "go"}])


async def _serve_all(ready: Event) -> None:
    for port, tokens, pace in ((PORT_BURST, CHUNKS, 0.0), (PORT_PACED, CHUNKS, PACE_SECONDS), (PORT_SHORT, 1, 0.0)):
        await serve(paced_model(tokens, pace), port)
    ready.set()
    await asyncio.Event().wait()


def _model_process(ready: Event) -> None:
    asyncio.run(_serve_all(ready))


@contextmanager
def running_models() -> Iterator[None]:
    """The models in a process of their own, so that only the port's CPU is counted here."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_model_process, args=(ready,), daemon=True)
    process.start()
    if not ready.wait(30):
        raise RuntimeError("the models did not start")
    try:
        yield
    finally:
        process.terminate()
        process.join()


def port_on(kind: str, number: int) -> ModelPort:
    """The port on one transport."""
    http_client = CLIENTS[kind](
        timeout=httpx2.Timeout(None, connect=10.0),
        limits=httpx2.Limits(max_connections=1000, max_keepalive_connections=100),
        trust_env=False,
    )
    url = f"http://127.0.0.1:{number}/v1"
    client = AsyncOpenAI(api_key="none", base_url=url, http_client=http_client, max_retries=0)
    return ChatCompletions(client, first_token_timeout=60.0, idle_timeout=60.0)


async def _read(port: ModelPort, turns: int) -> None:
    for _ in range(turns):
        async with port.stream(REQUEST) as batches:
            async for _events in batches:
                pass


async def cpu_seconds(kind: str, number: int, at_once: int, turns: int) -> float:
    """CPU of this process for so many turns on each of so many tasks, connections warm."""
    port = port_on(kind, number)
    try:
        await asyncio.gather(*(_read(port, 1) for _ in range(at_once)))
        started = time.process_time()
        await asyncio.gather(*(_read(port, turns) for _ in range(at_once)))
        return time.process_time() - started
    finally:
        await port.aclose()


async def measure() -> None:
    """Print the table."""
    cases = {
        "a request, us": (PORT_SHORT, 1, 200, 200),
        "a chunk in a burst, us": (PORT_BURST, AT_ONCE, 5, AT_ONCE * 5 * CHUNKS),
        f"a chunk every {PACE_SECONDS * 1000:g} ms, us": (PORT_PACED, AT_ONCE, 1, AT_ONCE * CHUNKS),
    }
    print(f"{'':28}" + "".join(f"{kind:>10}" for kind in CLIENTS) + "     ratio")
    for name, (number, at_once, turns, units) in cases.items():
        found: dict[str, list[float]] = {kind: [] for kind in CLIENTS}
        for _ in range(ROUNDS):
            for kind, values in found.items():
                values.append(await cpu_seconds(kind, number, at_once, turns) / units * 1e6)
        medians = [statistics.median(values) for values in found.values()]
        print(f"{name:28}" + "".join(f"{median:10.1f}" for median in medians) + f"{medians[1] / medians[0]:10.2f}")


if __name__ == "__main__":
    with running_models():
        asyncio.run(measure())
