"""A real peer: npm's server-everything over streamable HTTP, found, imported, and called by a run of the real service."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from asgiref.sync import sync_to_async

from agentbackend.dispatch.jobs import Jobs, JobsConfig
from agentbackend.foundation.database import database
from agentbackend.foundation.outbound import OutboundPolicy
from audit.actor import SYSTEM
from tests.node_packages import executable, installed
from tests.running_service import Caller, Frame, RunningService, ServiceFactory, free_port
from tests.runs.support import eventually
from tests.tools.remote_servers import imported, remove, row
from tests.tools.support import Door
from tools import process
from tools.calls import CallContext, ToolCall
from tools.door import call_tool
from tools.mcp_client import health, loading
from tools.mcp_client.discovery import discover
from tools.models import RemoteServer
from tools.registry import registry

pytestmark = pytest.mark.node

SOURCES = Path(__file__).resolve().parent.parent / "node_mcp"
START_SECONDS = 30.0


@pytest.fixture(scope="module")
def everything() -> Iterator[int]:
    """The server's port."""
    folder = installed(SOURCES) / "node_modules" / "@modelcontextprotocol" / "server-everything"
    port = free_port()
    process_ = subprocess.Popen(
        [executable("node"), str(folder / "dist" / "index.js"), "streamableHttp"],
        env={**os.environ, "PORT": str(port)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        _wait_for(port)
        yield port
    finally:
        os.killpg(process_.pid, signal.SIGKILL)  # `node` may be a program that starts the real one
        process_.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/mcp", trust_env=False)
        except httpx.TransportError:
            assert time.monotonic() < deadline, "server-everything does not listen"
            time.sleep(0.05)
        else:
            return


@pytest.fixture
def server(everything: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteServer]:
    policy = OutboundPolicy(allowed_hosts=[f"127.0.0.1:{everything}"])
    monkeypatch.setattr(process, "outbound_policy", lambda: policy)
    found = RemoteServer.objects.create(name=f"everything-{everything}", url=f"http://127.0.0.1:{everything}/mcp")
    yield found
    remove(found)


@pytest.fixture(scope="module")
def service(everything: int, service_factory: ServiceFactory) -> Iterator[RunningService]:
    """A service that may reach the server."""
    started = service_factory.start(OUTBOUND_ALLOWED_HOSTS=f"127.0.0.1:{everything}")
    yield started
    started.stop()


def test_a_run_calls_a_tool_that_was_imported_from_it(server: RemoteServer, service: RunningService):
    name = imported(server, "echo")
    probe = f'demo: call {name} {{"message": "over there"}}'
    eventually(lambda: results(service.post_run(Caller(), probe)) == ["Echo: over there"], "the service has seen it")


def results(frames: list[Frame]) -> list[str]:
    assert frames[-1].event["type"] == "RUN_FINISHED"
    return [frame.event["content"] for frame in frames if frame.event["type"] == "TOOL_CALL_RESULT"]


async def test_the_scheduled_job_asks_it(server: RemoteServer):
    jobs = Jobs(database, _TakesNothing(), JobsConfig())
    await jobs.app.tasks["maintenance.ask_remote_servers"].func(timestamp=0)
    assert await server.remote_tools.acount() >= 10


class _TakesNothing:
    has_room = False

    async def adopt(self, run_id: UUID, *, wait: bool = True) -> bool:
        return False


def test_all_its_tools_can_be_used_here(server: RemoteServer):
    told = discover(server, by=SYSTEM)
    assert not told.failure
    assert told.offered >= 10
    unusable = server.remote_tools.exclude(problem="").values_list("remote_name", "problem")
    assert list(unusable) == []


async def test_structured_results_pictures_and_progress_come_through_the_door(server: RemoteServer, door: Door):
    told: list[tuple[float, float | None]] = []
    try:
        structured = await _call(door, await _imported(server, "get-structured-content"), '{"location": "Chicago"}')
        assert set(structured.value) == {"temperature", "conditions", "humidity"}
        picture = await _call(door, await _imported(server, "get-tiny-image"), "{}")
        assert "[An image (image/png, about " in picture.content
        slow = await _imported(server, "trigger-long-running-operation")
        await _call(door, slow, '{"duration": 0.2, "steps": 2}', lambda done, total, _: told.append((done, total)))
        assert told == [(1, 2), (2, 2)]
    finally:
        await health.book.settled()
        await loading.close_connections()


async def _imported(server: RemoteServer, name: str) -> str:
    found = await sync_to_async(imported)(server, name)
    assert (await sync_to_async(row)(server, name)).problem == ""
    registry.expire()
    return found


async def _call(door: Door, name: str, arguments: str, progress: Any = None) -> Any:
    context = CallContext(actor=SYSTEM, recorder=door.recorder, request_id="request-1", progress=progress)
    result = await call_tool(ToolCall("call-1", name, arguments), context, registry=door.registry)
    assert result.ok, result.error
    return result
