"""Threads for blocking functions: bounded, and no call runs that nobody waits for any more."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from tools.threads import FunctionThreads


async def test_not_more_functions_run_at_once_than_there_are_threads():
    threads = FunctionThreads(2)
    release = threading.Event()
    lock = threading.Lock()
    running: list[int] = []
    most = 0

    def act() -> None:
        nonlocal most
        with lock:
            running.append(1)
            most = max(most, len(running))
        release.wait(10)
        with lock:
            running.pop()

    calls = [asyncio.ensure_future(threads.run(act)) for _ in range(6)]
    await asyncio.wait_for(asyncio.to_thread(until, lambda: len(running) == 2), 10)
    release.set()
    await asyncio.wait_for(asyncio.gather(*calls), 10)

    assert most == 2


async def test_a_call_that_waits_is_dropped_when_its_caller_gives_up():
    threads = FunctionThreads(1)
    release = threading.Event()
    done: list[str] = []
    first = asyncio.ensure_future(threads.run(lambda: release.wait(10)))
    dropped = asyncio.ensure_future(threads.run(lambda: done.append("dropped")))
    await asyncio.sleep(0)
    dropped.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dropped

    release.set()
    await asyncio.wait_for(first, 10)
    await asyncio.wait_for(threads.run(lambda: done.append("last")), 10)

    assert done == ["last"]


def until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    while not condition():
        pause.wait(0.001)
