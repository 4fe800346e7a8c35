"""Liveness and readiness of the real service, and what it says while a part is away."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from agentbackend import readiness
from tests.running_service import Caller, RunningService, ServiceFactory, free_port, run_input

WAIT_SECONDS = 15.0


@pytest.fixture
def no_checks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(readiness, "_checks", {})
    monkeypatch.setattr(readiness, "_round", None)
    yield


def test_health_answers_without_a_caller(service: RunningService) -> None:
    with service.client() as client:
        answer = client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_readiness_names_each_check_with_its_duration(service: RunningService) -> None:
    with service.client() as client:
        answer = client.get("/readiness")
    document = answer.json()
    assert (answer.status_code, document["status"]) == (200, "ready")
    assert set(document["checks"]) == {"database", "migrations", "channel_layer", "writer", "worker", "accepting"}
    assert all(check["ok"] and check["duration_ms"] >= 0 for check in document["checks"].values())


async def test_a_failing_check_says_why_in_its_own_words(no_checks: None) -> None:
    async def away() -> None:
        raise readiness.NotReadyError("the writer does not run")

    readiness.register("writer", away)
    result = (await readiness.results())["writer"]
    assert (result.ok, result.reason) == (False, "the writer does not run")


async def test_an_unexpected_failure_tells_strangers_its_kind_only(no_checks: None) -> None:
    async def broken() -> None:
        raise ConnectionError("to postgresql://user:password@inside/name")

    readiness.register("database", broken)
    assert (await readiness.results())["database"].reason == "ConnectionError"


async def test_a_check_that_hangs_is_given_up_and_holds_up_no_other(
    no_checks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hangs() -> None:
        await asyncio.Event().wait()

    async def passes() -> None: ...

    monkeypatch.setattr(readiness, "CHECK_SECONDS", 0.05)
    readiness.register("database", hangs)
    readiness.register("writer", passes)
    results = await readiness.results()
    assert not results["database"].ok
    assert "no answer within" in results["database"].reason
    assert results["writer"].ok


async def test_who_asks_while_the_checks_run_gets_their_results(no_checks: None) -> None:
    asked, go_on = 0, asyncio.Event()

    async def slow() -> None:
        nonlocal asked
        asked += 1
        await go_on.wait()

    readiness.register("database", slow)
    first = asyncio.create_task(readiness.results())
    others = [asyncio.create_task(readiness.results()) for _ in range(20)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    go_on.set()
    assert [(await other)["database"].ok for other in others] == [True] * 20
    assert asked == 1
    assert (await readiness.results())["database"].ok
    assert asked == 2


def _readiness_until(service: RunningService, status: int) -> httpx.Response:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        answer = httpx.get(f"{service.url}/readiness", timeout=5.0, trust_env=False)
        if answer.status_code == status:
            return answer
    raise AssertionError(f"/readiness did not answer {status}:\n{service.tail()}")


def test_a_service_that_drains_lives_but_takes_no_more_runs(service_factory: ServiceFactory) -> None:
    service = service_factory.start(SHUTDOWN_GRACE_SECONDS="30")
    wish = run_input("Please give me a long answer")
    with service.open_stream(Caller(), "POST", "/ag-ui/events", json=wish) as (_, frames):
        next(frames)
        service.process.send_signal(signal.SIGTERM)
        checks = _readiness_until(service, 503).json()["checks"]
        assert checks["accepting"]["reason"] == "shutting down"
        with service.client(Caller()) as client:
            assert client.get("/health").status_code == 200
            assert client.post("/ag-ui/events", json=run_input("hello")).json()["code"] == "shutting_down"
        assert list(frames)[-1].event["type"] == "RUN_FINISHED"
    assert service.stop() == 0


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[int]:
    """The port of a Redis server of this test's own."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen([program, *options], stdout=subprocess.DEVNULL) as server:
        try:
            yield port
        finally:
            server.terminate()


def _subscriptions(port: int) -> int:
    """How many channels somebody listens on."""
    with socket.create_connection(("127.0.0.1", port), timeout=5.0) as connection:
        connection.sendall(b"PUBSUB CHANNELS\r\n")
        return int(connection.makefile("rb").readline().removeprefix(b"*"))


def test_readiness_leaves_nothing_behind_in_redis(service_factory: ServiceFactory, redis: int) -> None:
    service = service_factory.start(REDIS_URL=f"redis://127.0.0.1:{redis}/0")
    before = _subscriptions(redis)
    for _ in range(10):
        _readiness_until(service, 200)
    assert before >= 1
    assert _subscriptions(redis) == before
    service.stop()


def test_a_redis_that_is_away_is_named_and_welcome_back(
    service_factory: ServiceFactory, redis: int, tmp_path: Path
) -> None:
    service = service_factory.start(REDIS_URL=f"redis://127.0.0.1:{redis}/0")
    with socket.create_connection(("127.0.0.1", redis), timeout=5.0) as connection:
        connection.sendall(b"SHUTDOWN NOSAVE\r\n")
        connection.recv(100)
    checks = _readiness_until(service, 503).json()["checks"]
    assert [name for name, check in checks.items() if not check["ok"]] == ["channel_layer"]
    program = shutil.which("redis-server") or ""
    options = ["--port", str(redis), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen([program, *options], stdout=subprocess.DEVNULL) as server:
        _readiness_until(service, 200)
        service.stop()
        server.terminate()


def test_every_answer_repeats_the_requests_id(service: RunningService):
    with service.client() as client:
        for path in ("/health", "/admin/login/", "/nothing-here"):
            assert (
                client.get(path, headers={"X-Request-ID": "of-the-caller"}).headers["x-request-id"] == "of-the-caller"
            )
