"""Five hundred open streams on a pool of ten connections: what waits holds none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import psycopg

from tests.running_service import Caller, RunningService, ServiceFactory, run_input
from tests.runs.support import assert_well_formed, eventually

STREAMS = 500
POOL = 10
NAME = "many-streams"


class _Stream:
    """A stream that is read by nobody but this test; a thread for each would be dear."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.received = b""

    async def read_until(self, wanted: bytes) -> None:
        """Read on until this was received."""
        async with asyncio.timeout(60):
            while wanted not in self.received:
                piece = await self._reader.read(65536)
                assert piece, f"the stream ended: {self.received[-300:]!r}"
                self.received += piece


async def _open(service: RunningService, caller: Caller, run_id: str) -> _Stream:
    stream = _Stream(*await asyncio.open_connection("127.0.0.1", service.port))
    headers = "".join(f"{name}: {value}\r\n" for name, value in caller.headers.items())
    address = f"GET /ag-ui/runs/{run_id}/events HTTP/1.1\r\nHost: 127.0.0.1:{service.port}\r\n{headers}\r\n"
    stream.writer.write(address.encode())
    await stream.read_until(b'"RUN_STARTED"')
    assert stream.received.startswith(b"HTTP/1.1 200")
    return stream


@asynccontextmanager
async def _streams(service: RunningService, caller: Caller, run_ids: list[str]) -> AsyncIterator[list[_Stream]]:
    opened = [asyncio.create_task(_open(service, caller, run_ids[number % len(run_ids)])) for number in range(STREAMS)]
    try:
        yield await asyncio.gather(*opened)
    finally:
        for task in opened:
            if task.done() and not task.cancelled() and task.exception() is None:
                task.result().writer.close()


def _begin(service: RunningService, caller: Caller) -> str:
    """Begin a run that says a word every twenty seconds, and leave."""
    wish = run_input("demo: slow 20000")
    with service.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        next(frames)
    return str(wish["runId"])


def _metric(service: RunningService, name: str) -> float:
    page = httpx.get(f"{service.url}/metrics", trust_env=False).text
    return next(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(f"{name} "))


def _connections(service: RunningService, state: str) -> float:
    return _metric(service, f'agentbackend_pool_connections{{state="{state}"}}')


async def test_open_streams_that_wait_hold_no_database_connection(
    service: RunningService, service_factory: ServiceFactory, superuser_connection: psycopg.Connection
) -> None:
    viewers = service_factory.start(
        PGAPPNAME=NAME, DATABASE_POOL_SIZE=str(POOL), STREAM_HEARTBEAT_SECONDS="2", WORKER_IN_PROCESS="0"
    )
    caller = Caller()
    held_here = [_begin(viewers, caller) for _ in range(3)]
    held_elsewhere = [_begin(service, caller) for _ in range(3)]

    def sessions() -> list[str]:
        rows = superuser_connection.execute(
            "SELECT state FROM pg_stat_activity WHERE application_name = %s", (NAME,)
        ).fetchall()
        return [state for (state,) in rows]

    async with _streams(viewers, caller, [*held_here, *held_elsewhere]) as streams:
        assert _metric(viewers, "agentbackend_streams_open") == STREAMS
        assert _connections(viewers, "open") <= POOL
        eventually(lambda: set(sessions()) == {"idle"}, "no session does anything")
        eventually(lambda: _connections(viewers, "open") == _connections(viewers, "free"), "all connections are free")
        for stream in streams:
            stream.received = b""
        for stream in streams:  # heartbeats: each of them is alive
            await stream.read_until(b": heartbeat")
        wish = run_input("hello")  # and there is room for others
        frames = await asyncio.to_thread(viewers.stream, Caller(), "POST", "/ag-ui/events", json=wish)
        assert_well_formed(frames, wish["runId"])
        for process, run_ids in ((viewers, held_here), (service, held_elsewhere)):
            with process.client(caller) as client:
                for run_id in run_ids:
                    assert client.post(f"/ag-ui/runs/{run_id}/cancel").status_code == 202
        for stream in streams:
            await stream.read_until(b'"RUN_FINISHED"')
    viewers.stop()
