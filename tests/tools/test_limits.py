"""How often tools are called: rate limits, calls at the same time, results that are kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from limits import RateLimitItemPerHour

from audit.actor import SYSTEM
from tests.redis_server import RedisServer
from tests.tools.support import Door, ToolMaker, details, envelope, somebody
from tools import result_cache
from tools.calls import CacheScope, RateLimitScope, SideEffects, ToolOutcome
from tools.governance.rate_limits import RateLimitedError, RateLimiter, RateLimitFormatError, read_limit
from tools.invocation import ToolError
from tools.models import Tool
from tools.registry import RegisteredServer
from tools.versions import Definition, publish_version


async def govern(name: str, **changes: Any) -> None:
    """Publish a version of the tool with these limits."""

    def publish() -> None:
        tool = Tool.objects.select_related("current_version").get(name=name)
        assert tool.current_version is not None
        said = Definition.of(tool.current_version).as_dict()
        publish_version(tool, Definition(**{**said, **changes}), by=SYSTEM)

    await sync_to_async(publish)()


class Counter:
    """A tool that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    async def count(self, word: str = "") -> dict[str, Any]:
        self.calls += 1
        return {"call": self.calls, "word": word}


# --- rate limits


async def test_each_caller_has_a_limit_of_its_own(door: Door, make_tool: ToolMaker):
    counter, ada, bob = Counter(), somebody(), somebody()
    name = await make_tool(counter.count)
    await govern(name, rate_limit="2/hour")

    outcomes = [(await door.call(name, actor=actor)).outcome for actor in (ada, ada, ada, bob)]

    assert outcomes == [ToolOutcome.OK, ToolOutcome.OK, ToolOutcome.RATE_LIMITED, ToolOutcome.OK]
    assert counter.calls == 3


async def test_a_limit_of_the_tool_is_shared_by_all_and_says_when_to_try_again(door: Door, make_tool: ToolMaker):
    name = await make_tool(Counter().count)
    await govern(name, rate_limit="1 per 2 hour", rate_limit_scope=RateLimitScope.TOOL.value)

    await door.call(name)
    result = await door.call(name)

    assert (result.outcome, result.retryable) == (ToolOutcome.RATE_LIMITED, True)
    assert 3600 < result.retry_after_seconds <= 7200
    assert f"{result.retry_after_seconds:.0f} seconds" in result.content
    assert envelope(door.last)["reason"] == "rate_limited"


async def test_who_may_not_call_uses_up_nothing(door: Door, make_tool: ToolMaker):
    name = await make_tool(Counter().count, required_role="analyst")
    await govern(name, rate_limit="1/hour", rate_limit_scope=RateLimitScope.TOOL.value)

    assert (await door.call(name, actor=somebody("user"))).outcome is ToolOutcome.DENIED
    assert (await door.call(name, actor=somebody("analyst"))).ok


@pytest.mark.parametrize("text", ["often", "0/minute", "5", "1/year", "-1/minute"])
def test_what_is_no_limit_is_refused(text: str):
    with pytest.raises(RateLimitFormatError, match=r"rate limit|at least one"):
        read_limit(text)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    if not RedisServer.is_installed():
        pytest.skip("there is no redis-server on this machine")
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


async def uses_until_limited(limiter: RateLimiter, limit: RateLimitItemPerHour, key: str) -> int:
    for used in range(100):
        try:
            await limiter.use(limit, key)
        except RateLimitedError:
            return used
    return 100


async def test_processes_share_a_limit_through_redis_and_keep_it_each_when_redis_is_away(redis: RedisServer):
    one, other = RateLimiter(redis.url), RateLimiter(redis.url)
    limit, key = RateLimitItemPerHour(3), str(uuid4())
    await one.use(limit, key)
    assert await uses_until_limited(other, limit, key) == 2
    assert await uses_until_limited(one, limit, key) == 0

    redis.stop()
    assert await uses_until_limited(one, limit, key) == 3
    assert await uses_until_limited(other, limit, key) == 3


# --- calls at the same time


class Gate:
    """A tool whose calls wait until they may end."""

    def __init__(self) -> None:
        self.entered = 0
        self.most = 0
        self.inside = 0
        self.may_end = asyncio.Event()
        self.changed = asyncio.Condition()

    async def wait(self) -> str:
        async with self.changed:
            self.entered += 1
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.changed.notify_all()
        try:
            await self.may_end.wait()
        finally:
            self.inside -= 1
        return "done"

    async def until_entered(self, calls: int) -> None:
        async with self.changed, asyncio.timeout(10):
            await self.changed.wait_for(lambda: self.entered >= calls)


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    return Gate()


async def test_calls_beyond_the_limit_wait_for_their_turn(door: Door, make_tool: ToolMaker, gate: Gate):
    name = await make_tool(gate.wait)
    await govern(name, max_concurrent=2)

    calls = [asyncio.create_task(door.call(name)) for _ in range(5)]
    await gate.until_entered(2)
    gate.may_end.set()
    results = await asyncio.gather(*calls)

    assert [result.content for result in results] == ["done"] * 5
    assert (gate.entered, gate.most) == (5, 2)


async def test_a_call_whose_turn_does_not_come_in_time_is_told_so_and_was_never_made(
    door: Door, make_tool: ToolMaker, gate: Gate
):
    name = await make_tool(gate.wait, timeout_seconds=0.2)
    other = await make_tool(gate.wait, timeout_seconds=30)
    for tool in (name, other):
        await govern(tool, max_concurrent=1)
    await govern(name, timeout_seconds=30.0)
    first = asyncio.create_task(door.call(name))
    await gate.until_entered(1)
    await govern(name, timeout_seconds=0.2)

    result = await door.call(name)

    assert (result.outcome, result.retryable) == (ToolOutcome.RATE_LIMITED, True)
    assert "busy" in result.content
    assert gate.entered == 1
    gate.may_end.set()
    assert (await first).ok


async def test_a_caller_who_gives_up_leaves_the_turn_to_the_next(door: Door, make_tool: ToolMaker, gate: Gate):
    name = await make_tool(gate.wait)
    await govern(name, max_concurrent=1)
    calls = [asyncio.create_task(door.call(name)) for _ in range(3)]
    await gate.until_entered(1)
    calls[1].cancel()
    gate.may_end.set()

    first, cancelled, third = await asyncio.gather(*calls, return_exceptions=True)

    assert isinstance(cancelled, asyncio.CancelledError)
    assert first.ok and third.ok
    assert gate.entered == 2


# --- results that are kept


async def kept_counter(make_tool: ToolMaker, counter: Counter, **changes: Any) -> str:
    name = await make_tool(counter.count, side_effects=SideEffects.IDEMPOTENT)
    await govern(name, cache_seconds=600, **changes)
    return name


async def test_the_same_call_is_answered_again_without_being_made(door: Door, make_tool: ToolMaker):
    counter, ada = Counter(), somebody()
    name = await kept_counter(make_tool, counter)

    first = await door.call(name, {"word": "a"}, actor=ada)
    second = await door.call(name, '{ "word" : "a" }', actor=ada)
    third = await door.call(name, {"word": "b"}, actor=ada)

    assert (first.content, first.cached) == (second.content, False)
    assert (second.value, second.cached) == ({"call": 1, "word": "a"}, True)
    assert (third.cached, counter.calls) == (False, 2)
    assert [details(entry).get("cached") for entry in door.recorder.entries if entry.action == "tool.called"] == [
        False, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize(("scope", "calls"), [(CacheScope.USER, 3), (CacheScope.ROLE, 2)])
async def test_a_result_is_shared_as_the_tool_says(door: Door, make_tool: ToolMaker, scope: CacheScope, calls: int):
    counter = Counter()
    name = await kept_counter(make_tool, counter, cache_scope=scope.value)

    for actor in (somebody("user"), somebody("user"), somebody("admin")):
        await door.call(name, actor=actor)

    assert counter.calls == calls


async def test_a_kept_result_is_given_to_nobody_who_may_not_call(door: Door, make_tool: ToolMaker):
    counter, ada = Counter(), somebody()
    name = await kept_counter(make_tool, counter)
    await door.call(name, actor=ada)
    await make_tool.deny(name)

    assert (await door.call(name, actor=ada)).outcome is ToolOutcome.DENIED


async def test_a_new_version_forgets_what_was_kept(door: Door, make_tool: ToolMaker):
    counter, ada = Counter(), somebody()
    name = await kept_counter(make_tool, counter)
    await door.call(name, actor=ada)
    await govern(name, description="Counts otherwise.")

    assert (await door.call(name, actor=ada)).value["call"] == 2


async def test_failures_are_not_kept(door: Door, make_tool: ToolMaker):
    tried = []

    async def fail_once() -> str:
        tried.append(1)
        if len(tried) == 1:
            raise ToolError("not now")
        return "well"

    name = await make_tool(fail_once, side_effects=SideEffects.IDEMPOTENT)
    await govern(name, cache_seconds=600)
    ada = somebody()

    assert not (await door.call(name, actor=ada)).ok
    assert (await door.call(name, actor=ada)).content == "well"


async def test_a_cache_that_is_away_costs_no_call(door: Door, make_tool: ToolMaker, monkeypatch: pytest.MonkeyPatch):
    class Away:
        def get(self, key: str) -> None:
            raise ConnectionError

        def set(self, *_: Any) -> None:
            raise ConnectionError

    counter, ada = Counter(), somebody()
    name = await kept_counter(make_tool, counter)
    monkeypatch.setattr(result_cache, "_cache", Away)

    assert [(await door.call(name, actor=ada)).ok for _ in range(2)] == [True, True]
    assert counter.calls == 2


async def test_what_was_kept_is_not_found_once_the_remote_server_is_off(door: Door, make_tool: ToolMaker):
    name, ada = await make_tool(Counter().count), somebody()
    snapshot = await door.registry.snapshot()
    tool = replace(snapshot.tools[name], handler={"server": "docs", "tool": "search"})
    server = RegisteredServer(uuid4(), "docs", "https://example.org", "auto", "", "bearer", "", 30.0, enabled=True)

    def key(enabled: bool) -> str:
        servers = {"docs": replace(server, enabled=enabled)}
        return result_cache.key_of(replace(snapshot, servers=servers), tool, {"q": 1}, ada)

    assert key(True) == key(True)
    assert key(True) != key(False)
