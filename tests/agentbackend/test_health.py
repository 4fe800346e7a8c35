"""Liveness and readiness of the real service, and what it says while a part is away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from agentbackend import readiness
from tests.running_service import RunningService


@pytest.fixture
def no_checks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(readiness, "_checks", {})
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
    assert set(document["checks"]) == {"database", "migrations", "channel_layer", "writer", "accepting"}
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
