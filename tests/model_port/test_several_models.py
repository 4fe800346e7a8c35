"""Several models behind one port: in which order they are tried, how short a wait is worth it, and ports that change owners."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from agentbackend.foundation.outbound import OutboundPolicy
from orchestration.model_port import ModelError, ModelEvent, ModelPort, ModelRequest, TextDelta
from orchestration.model_port.circuit import FAILURES_TO_OPEN, OPEN_SECONDS, REMEMBERED_SECONDS, Circuit
from orchestration.model_port.fallback import Failure, first_answer
from orchestration.model_port.opening import ModelConfig, open_demo_port, open_provider_port
from orchestration.model_port.several import SeveralProviders
from orchestration.model_providers.catalogue import Models, Provider
from tests.model_port.frames import HELLO, text
from tests.model_port.raw_server import error, hangs_up, raw_server, streams, streams_then_waits
from tests.model_port.test_port import Waits, port_at

REQUEST = ModelRequest("", [{"role": "user", "content": "hello"}])


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_model_is_tried_last_after_failures_in_a_row_and_first_again_after_a_while() -> None:
    clock = Clock()
    circuit = Circuit(clock)
    for _ in range(FAILURES_TO_OPEN):
        assert circuit.in_order(["a", "b"]) == ["a", "b"]
        circuit.failed("a", "model_timeout")
    assert circuit.in_order(["a", "b"]) == ["b", "a"]
    clock.now += OPEN_SECONDS
    assert circuit.in_order(["a", "b"]) == ["a", "b"]
    circuit.failed("a", "model_timeout")
    assert circuit.in_order(["a", "b"]) == ["b", "a"], "once more is enough"
    circuit.answered("a")
    assert circuit.in_order(["a", "b"]) == ["a", "b"]


def test_what_says_nothing_of_the_model_and_what_is_long_past_does_not_count() -> None:
    clock = Clock()
    circuit = Circuit(clock)
    for _ in range(5):
        circuit.failed("a", "model_refused")
        circuit.failed("a", "model_timeout")
        clock.now += REMEMBERED_SECONDS + 1
    assert circuit.in_order(["a", "b"]) == ["a", "b"]


def test_a_provider_that_says_when_to_come_back_is_believed_at_once() -> None:
    clock = Clock()
    circuit = Circuit(clock)
    circuit.failed("a", "model_rate_limited", retry_after=7)
    assert circuit.in_order(["a", "b"]) == ["b", "a"]
    clock.now += 7
    assert circuit.in_order(["a", "b"]) == ["a", "b"]


async def test_where_others_could_answer_no_long_wait_is_worth_it() -> None:
    busy, waits = error(429, headers=["retry-after: 15"]), Waits()
    async with raw_server(busy) as server, port_at(server.url, sleep=waits) as port:
        with pytest.raises(ModelError) as caught:
            async with port.stream(replace(REQUEST, model="m", may_be_slow=False)):
                pass
        assert (server.connections, waits.seconds) == (1, [])
        assert caught.value.retry_after == 15
    async with raw_server(hangs_up) as server, port_at(server.url, sleep=waits) as port:
        with pytest.raises(ModelError):
            async with port.stream(replace(REQUEST, model="m", may_be_slow=False)):
                pass
        assert server.connections == 2, "a wait that is short is"


async def test_a_model_that_refuses_media_is_asked_without_them_before_another_one_is() -> None:
    plain = replace(REQUEST, messages=[{"role": "user", "content": "no picture"}])
    async with raw_server(error(400), streams(HELLO)) as server, port_at(server.url) as port:
        async with first_answer(port, REQUEST, ["a", "b"], without_media=plain, remembered=Circuit()) as answer:
            assert (answer.model, answer.failures) == ("a", [])
        assert [request.body["messages"] for request in server.requests] == [REQUEST.messages, plain.messages]


async def test_failures_are_told_also_when_nobody_answers() -> None:
    failures: list[Failure] = []
    async with raw_server(error(401), error(503)) as server, port_at(server.url) as port:
        with pytest.raises(ModelError) as caught:
            async with first_answer(port, REQUEST, ["a", "b"], failures=failures, remembered=Circuit()):
                pass
    assert caught.value.code == "model_unavailable"
    assert failures == [Failure("a", "model_refused"), Failure("b", "model_unavailable")]


# --- ports of providers


class Known:
    """What the catalogue and the registry know."""

    def __init__(self, **providers: Provider) -> None:
        self.providers = providers
        self.vault: dict[str, Any] = {}

    async def models(self) -> Models:
        return Models(self.providers, ())

    async def registry(self) -> Any:
        return self


@asynccontextmanager
async def providers(known: Known) -> AsyncIterator[SeveralProviders]:
    config, policy = ModelConfig(demo_delay_seconds=0.0), OutboundPolicy(allowed_hosts=["127.0.0.1"])
    port = SeveralProviders(
        open_demo_port(config),
        open_demo=lambda: open_demo_port(config),
        open_provider=lambda access: open_provider_port(access, config, policy, sleep=Waits()),
        models=known.models,
        registry=known.registry,
    )
    try:
        yield port
    finally:
        await port.aclose()


def provider(url: str, **changes: Any) -> Provider:
    return replace(Provider("q", url, "", True, None, None), **changes)


async def said(port: ModelPort, model: str) -> str:
    async with port.stream(replace(REQUEST, model=model)) as batches:
        events: list[ModelEvent] = [event async for batch in batches for event in batch]
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def test_a_colon_makes_a_provider_only_where_there_is_one() -> None:
    async with raw_server(streams(HELLO)) as server:
        async with providers(Known(q=provider(server.url))) as port:
            assert await said(port, "q:a:b") == "Hello"
            assert server.requests[0].body["model"] == "a:b"
            assert "demo" in (await said(port, "llama3.1:8b")).lower()
            assert len(server.requests) == 1


@pytest.mark.parametrize("changes", [{"enabled": False}, {"credential": "KEY_THAT_IS_NOT_SET"}])
async def test_a_provider_that_is_off_or_lacks_its_key_is_not_asked(changes: dict[str, Any]) -> None:
    async with raw_server(streams(HELLO)) as server:
        async with providers(Known(q=provider(server.url, **changes))) as port:
            with pytest.raises(ModelError) as caught:
                await said(port, "q:m")
    assert caught.value.code == "model_refused"
    assert "KEY_THAT" not in caught.value.message
    assert server.connections == 0


async def test_an_answer_that_is_being_read_ends_where_it_began_when_its_provider_moves() -> None:
    async with raw_server(streams_then_waits(text("Hel"))) as first, raw_server(streams(HELLO)) as second:
        known = Known(q=provider(first.url))
        async with providers(known) as port:
            async with port.stream(replace(REQUEST, model="q:m")) as batches:
                await anext(batches)
                known.providers = {"q": provider(second.url)}
                assert await said(port, "q:m") == "Hello"
                assert not first.hung_up.is_set(), "who reads still reads"
            await first.hung_up.wait()
        assert (first.connections, second.connections) == (1, 1)
