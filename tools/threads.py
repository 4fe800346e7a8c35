"""Threads for functions that block: a few at most, each call with the context of its caller.

They are daemons, unlike those of `concurrent.futures`: a function that hangs keeps its thread, not the process.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeAlias

_Work: TypeAlias = "tuple[Future[Any], Callable[[], Any]]"


class FunctionThreads:
    """Runs blocking functions on at most `size` threads, started when they are needed; calls beyond that wait."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._started = 0
        self._queue: SimpleQueue[_Work] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()

    async def run(self, function: Callable[[], Any]) -> Any:
        """Call the function on a thread and return what it returns.

        When the caller is cancelled a call that still waits is dropped; one that runs ends unheard.
        """
        future: Future[Any] = Future()
        context = contextvars.copy_context()
        self._queue.put((future, lambda: context.run(function)))
        self._start_thread_if_needed()
        return await asyncio.wrap_future(future)

    def _start_thread_if_needed(self) -> None:
        if self._idle.acquire(blocking=False):
            return
        with self._lock:
            if self._started == self._size:
                return
            self._started += 1
            threading.Thread(target=self._work, name=f"tool-{self._started}", daemon=True).start()

    def _work(self) -> None:
        while True:
            future, function = self._queue.get()
            if future.set_running_or_notify_cancel():
                _settle(future, function)
            del future, function
            self._idle.release()


def _settle(future: Future[Any], function: Callable[[], Any]) -> None:
    try:
        result = function()
    except Exception as error:
        # asyncio takes no StopIteration from a future
        future.set_exception(RuntimeError("StopIteration") if isinstance(error, StopIteration) else error)
    except BaseException as error:  # SystemExit and the like end the call, not the service
        future.set_exception(RuntimeError(f"the function raised {type(error).__name__}"))
    else:
        future.set_result(result)
