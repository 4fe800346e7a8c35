"""The port against a provider on a real socket: requests, retries, time-outs, closing, and what the user is told."""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from orchestration.model_port import Finished, ModelError, ModelEvent, ModelPort, ModelRequest, TextDelta, Usage
from orchestration.model_port.chat_completions import ATTEMPTS, LONGEST_WAIT_SECONDS
from orchestration.model_port.opening import ModelConfig, open_model_port
from tests.model_port.frames import DONE, HELLO, chunk, end, text
from tests.model_port.raw_server import (
    BOUND_SECONDS,
    STREAM_HEAD,
    RawServer,
    Script,
    answers,
    error,
    hangs_up,
    keeps_alive,
    raw_server,
    says_nothing,
    sends,
    streams,
    streams_then_waits,
)

KEY = "sk-secret-key-of-the-tests"
REQUEST = ModelRequest("some-model", [{"role": "user", "content": "hello"}])
USAGE_REFUSED = error(400, message="Unknown parameter: 'stream_options'.")


class Waits:
    """Stands in for sleeping: writes down how long it should have been."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@asynccontextmanager
async def port_at(
    url: str, *, sleep: Callable[[float], Awaitable[None]] | None = None, **config: Any
) -> AsyncIterator[ModelPort]:
    port = open_model_port(ModelConfig(api_key=KEY, base_url=url, **config), sleep=sleep or Waits())
    try:
        yield port
    finally:
        await port.aclose()


async def read(port: ModelPort, request: ModelRequest = REQUEST) -> list[ModelEvent]:
    async with port.stream(request) as batches:
        return [event async for batch in batches for event in batch]


async def failure_of(*scripts: Script, **config: Any) -> tuple[ModelError, RawServer]:
    async with raw_server(*scripts) as server, port_at(server.url, **config) as port:
        with pytest.raises(ModelError) as caught:
            await asyncio.wait_for(read(port), BOUND_SECONDS)
        return caught.value, server


async def answer_of(*scripts: Script, **config: Any) -> tuple[str, RawServer]:
    async with raw_server(*scripts) as server, port_at(server.url, **config) as port:
        events = await asyncio.wait_for(read(port), BOUND_SECONDS)
        assert isinstance(events[-1], Finished)
        return "".join(event.text for event in events if isinstance(event, TextDelta)), server


# --- the request and the answer


async def test_a_request_carries_what_was_asked_and_the_key() -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    request = ModelRequest("some-model", REQUEST.messages, tools, temperature=0.5, max_output_tokens=99)
    async with raw_server(streams(HELLO)) as server, port_at(server.url) as port:
        await read(port, request)
    received = server.requests[0]
    assert received.line == "POST /v1/chat/completions HTTP/1.1"
    assert received.headers["authorization"] == f"Bearer {KEY}"
    assert received.body == {
        "model": "some-model",
        "messages": REQUEST.messages,
        "tools": tools,
        "temperature": 0.5,
        "max_completion_tokens": 99,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_a_model_that_may_not_call_tools_is_told_so_unless_its_server_does_not_know_how() -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    request = ModelRequest("some-model", REQUEST.messages, tools, may_call=False)
    refusal = error(400, message="Unknown parameter: 'tool_choice'.")
    async with raw_server(streams(HELLO), refusal, streams(HELLO)) as server, port_at(server.url) as port:
        await read(port, request)
        await read(port, request)
    assert [received.body.get("tool_choice") for received in server.requests] == ["none", "none", None]
    assert all(received.body["tools"] == tools for received in server.requests)


async def test_a_stream_is_read_to_its_end_with_its_usage() -> None:
    body = (
        text("Hel") + text("lo") + chunk({}, "stop") + chunk(usage={"prompt_tokens": 3, "completion_tokens": 2}) + DONE
    )
    async with raw_server(streams(body)) as server, port_at(server.url) as port:
        assert await read(port) == [TextDelta("Hel"), TextDelta("lo"), Finished("stop", Usage(3, 2, 5))]


async def test_each_read_comes_as_soon_as_it_is_there() -> None:
    may_go_on = asyncio.Event()

    async def script(exchange: Any) -> None:
        await exchange.send(STREAM_HEAD + text("first"))
        await may_go_on.wait()
        await exchange.send(text("second") + end())

    async with raw_server(script) as server, port_at(server.url) as port:
        async with asyncio.timeout(BOUND_SECONDS), port.stream(REQUEST) as batches:
            assert await anext(batches) == [TextDelta("first")]
            may_go_on.set()
            assert [event async for batch in batches for event in batch] == [
                TextDelta("second"),
                Finished("stop", None),
            ]


async def test_an_answer_that_was_not_streamed_is_read() -> None:
    body = {"choices": [{"message": {"role": "assistant", "content": "whole"}, "finish_reason": "stop"}]}
    assert (await answer_of(answers(200, body)))[0] == "whole"


async def test_a_compressed_stream_is_read() -> None:
    head = STREAM_HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n")
    assert (await answer_of(sends(head + gzip.compress(HELLO))))[0] == "Hello"


async def test_an_answer_whose_connection_breaks_after_the_finish_reason_is_whole() -> None:
    head = STREAM_HEAD.replace(b"connection: close", b"transfer-encoding: chunked")
    body = text("all") + chunk({}, "stop")
    assert (await answer_of(sends(head + b"%x\r\n%b\r\n" % (len(body), body))))[0] == "all"


async def test_an_answer_that_is_done_does_not_wait_for_the_end_of_the_body() -> None:
    assert (await answer_of(streams_then_waits(HELLO)))[0] == "Hello"


async def test_what_a_provider_writes_after_the_end_mark_keeps_nobody_waiting() -> None:
    async def goes_on(exchange: Any) -> None:
        await exchange.send(STREAM_HEAD + HELLO)
        while True:
            await exchange.send(b": still here\n\n" + text("more"))
            await asyncio.sleep(0.02)

    assert (await answer_of(goes_on))[0] == "Hello"


async def test_the_next_turn_uses_the_same_connection() -> None:
    async with raw_server(keeps_alive(HELLO)) as server, port_at(server.url) as port:
        assert await read(port) == await read(port)
    assert (server.connections, len(server.requests)) == (1, 2)


async def test_many_turns_at_once_share_a_port() -> None:
    async with raw_server(streams(HELLO)) as server, port_at(server.url) as port:
        answers_found = await asyncio.gather(*(read(port) for _ in range(40)))
    assert all(found == answers_found[0] for found in answers_found)
    assert len(server.requests) == 40


# --- failures


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (streams(b"<html><body>Bad gateway</body></html>"), "model_invalid_response"),
        (answers(200, b"<html></html>"), "model_invalid_response"),
        (answers(200, {"unexpected": True}), "model_invalid_response"),
        (streams(b"data: {broken\n\n"), "model_invalid_response"),
        (streams(text("x")), "model_stream_interrupted"),
        (streams(), "model_stream_interrupted"),
        (streams(text("x") + b'data: {"error": {"code": "server_error"}}\n\n'), "model_stream_interrupted"),
        (sends(STREAM_HEAD.replace(b"connection: close", b"content-length: 9999") + text("x")), "model_stream_interrupted"),
        (sends(STREAM_HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n") + HELLO), "model_stream_interrupted"),
        (sends(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "model_unavailable"),
        (answers(302, b"", ["location: http://127.0.0.1:1/"]), "model_refused"),
    ],
)  # fmt: skip
async def test_a_broken_answer_is_told_by_a_code(script: Script, code: str) -> None:
    assert (await failure_of(script))[0].code == code


async def test_text_before_a_break_is_delivered_before_the_failure() -> None:
    async with raw_server(streams(text("so far"))) as server, port_at(server.url) as port:
        async with port.stream(REQUEST) as batches:
            assert await anext(batches) == [TextDelta("so far")]
            with pytest.raises(ModelError):
                await anext(batches)


async def test_neither_key_nor_address_nor_the_providers_words_reach_messages_or_logs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    words = "the providers own words"
    refusals = [error(status, message=f"{words} {KEY}") for status in (400, 401, 404, 429, 500)]
    for script in (*refusals, hangs_up, streams(b"<html>" + words.encode()), streams(text("x"))):
        found, server = await failure_of(script)
        own_log = "".join(str(vars(record)) for record in caplog.records if record.name.startswith("orchestration"))
        for told in (str(found), own_log):
            assert not any(secret in told for secret in (KEY, str(server.port), words)), told
        caplog.clear()


# --- retries


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
async def test_a_failure_that_may_pass_is_tried_again(status: int) -> None:
    found, server = await answer_of(error(status), error(status), streams(HELLO))
    assert found == "Hello"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("script", "code"),
    [(error(429), "model_rate_limited"), (error(503), "model_unavailable"), (hangs_up, "model_unavailable")],
)
async def test_after_the_last_try_the_failure_is_told(script: Script, code: str) -> None:
    found, server = await failure_of(script)
    assert (found.code, found.retryable) == (code, True)
    assert len(server.requests) == ATTEMPTS


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (error(400), "model_refused"),
        (error(401, "invalid_api_key"), "model_refused"),
        (error(403), "model_refused"),
        (error(404, "model_not_found"), "model_refused"),
        (error(400, "context_length_exceeded"), "model_context_too_long"),
        (error(400, "content_filter"), "model_content_filter"),
        (error(429, "insufficient_quota"), "model_refused"),
    ],
)
async def test_a_refusal_is_not_tried_again(script: Script, code: str) -> None:
    found, server = await failure_of(script)
    assert (found.code, found.retryable) == (code, False)
    assert len(server.requests) == 1


async def test_a_dropped_connection_is_tried_again() -> None:
    assert (await answer_of(hangs_up, streams(HELLO)))[0] == "Hello"


async def test_nothing_is_tried_again_once_the_answer_has_begun() -> None:
    _, server = await failure_of(streams(text("x")), streams(HELLO))
    assert len(server.requests) == 1


async def test_a_provider_that_nobody_listens_for_is_unavailable_after_three_tries(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with raw_server(hangs_up) as server:
        url = server.url
    waits = Waits()
    async with port_at(url, sleep=waits) as port:
        with pytest.raises(ModelError) as caught:
            await read(port)
    assert caught.value.code == "model_unavailable"
    assert len(waits.seconds) == ATTEMPTS - 1
    assert [vars(record)["reason"] for record in caplog.records if "reached" in record.message] == [
        "ConnectionRefusedError"
    ]


async def waits_for(*scripts: Script) -> list[float]:
    waits = Waits()
    await answer_of(*scripts, streams(HELLO), sleep=waits)
    return waits.seconds


async def test_retry_after_in_seconds_is_honoured() -> None:
    assert await waits_for(error(429, headers=["retry-after: 7"]), error(503, headers=["retry-after: 0.5"])) == [
        7.0,
        0.5,
    ]


async def test_retry_after_as_a_date_is_honoured() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=15), usegmt=True)
    (waited,) = await waits_for(error(429, headers=[f"retry-after: {date}"]))
    assert 5.0 < waited <= 15.0


@pytest.mark.parametrize("value", ["3600", "inf", "1e999"])
async def test_no_wait_is_longer_than_the_bound(value: str) -> None:
    assert await waits_for(error(429, headers=[f"retry-after: {value}"])) == [LONGEST_WAIT_SECONDS]


@pytest.mark.parametrize("headers", [[], ["retry-after: soon"], ["retry-after: nan"], ["retry-after: -4"]])
async def test_without_a_usable_retry_after_the_wait_is_short(headers: list[str]) -> None:
    waited = await waits_for(error(429, headers=headers))
    assert len(waited) == 1
    assert 0.0 <= waited[0] < 1.0


async def test_a_server_that_knows_only_the_old_name_of_the_limit_is_given_that_from_then_on() -> None:
    limited = ModelRequest("some-model", [{"role": "user", "content": "hello"}], max_output_tokens=9)
    refusal = error(400, message="Unrecognized request argument supplied: max_completion_tokens")
    async with raw_server(USAGE_REFUSED, refusal, streams(HELLO)) as server, port_at(server.url) as port:
        await read(port, limited)
        await read(port, limited)
    assert [[request.body.get(name) for name in ("max_completion_tokens", "max_tokens")] for request in server.requests] == [
        [9, None], [9, None], [None, 9], [None, 9],
    ]  # fmt: skip


async def test_stream_options_are_dropped_once_refused_and_stay_dropped() -> None:
    async with raw_server(USAGE_REFUSED, streams(HELLO)) as server, port_at(server.url) as port:
        await read(port)
        await read(port)
    assert ["stream_options" in request.body for request in server.requests] == [True, False, False]


async def test_turns_whose_stream_options_are_refused_at_the_same_time_all_go_on() -> None:
    both_came = asyncio.Barrier(2)

    async def refuses(exchange: Any) -> None:
        await both_came.wait()
        await USAGE_REFUSED(exchange)

    async with raw_server(refuses, refuses, streams(HELLO)) as server, port_at(server.url) as port:
        found = await asyncio.wait_for(asyncio.gather(read(port), read(port)), BOUND_SECONDS)
    assert [events[-1] for events in found] == [Finished("stop", None)] * 2


# --- time-outs


async def test_a_provider_that_sends_no_head_ends_in_the_first_token_time_out() -> None:
    found, server = await failure_of(says_nothing, first_token_timeout=0.1, idle_timeout=60.0)
    assert found.code == "model_timeout"
    assert len(server.requests) == 1


@pytest.mark.parametrize("early", [b"", b": working\n\n", chunk({"role": "assistant", "content": ""})])
async def test_an_early_head_without_a_token_ends_in_the_first_token_time_out(early: bytes) -> None:
    found, server = await failure_of(streams_then_waits(early), first_token_timeout=0.2, idle_timeout=60.0)
    assert found.code == "model_timeout"
    await asyncio.wait_for(server.hung_up.wait(), BOUND_SECONDS)


async def test_comments_do_not_put_the_first_token_time_out_off() -> None:
    async def comments(exchange: Any) -> None:
        await exchange.send(STREAM_HEAD)
        while True:
            await exchange.send(b": working\n\n")
            await asyncio.sleep(0.02)

    found, _ = await failure_of(comments, first_token_timeout=0.2, idle_timeout=60.0)
    assert found.code == "model_timeout"


async def test_silence_in_the_midst_of_an_answer_ends_in_the_idle_time_out() -> None:
    found, server = await failure_of(streams_then_waits(text("x")), first_token_timeout=60.0, idle_timeout=0.1)
    assert found.code == "model_timeout"
    await asyncio.wait_for(server.hung_up.wait(), BOUND_SECONDS)


async def test_the_time_that_the_reader_takes_is_not_the_models() -> None:
    async with raw_server(streams(text("x"), end())) as server, port_at(server.url, idle_timeout=0.05) as port:
        async with port.stream(REQUEST) as batches:
            assert await anext(batches)
            await asyncio.sleep(0.2)  # the reader's own time, longer than the limit
            assert [event async for batch in batches for event in batch][-1] == Finished("stop", None)


async def test_the_wait_between_tries_counts_towards_the_first_token() -> None:
    async def sleeps_for_ever(seconds: float) -> None:
        await asyncio.Event().wait()

    found, _ = await failure_of(error(503), sleep=sleeps_for_ever, first_token_timeout=0.1)
    assert found.code == "model_timeout"


# --- closing


async def test_leaving_the_context_closes_the_providers_connection() -> None:
    async with raw_server(streams_then_waits(text("x"))) as server, port_at(server.url) as port:
        async with port.stream(REQUEST) as batches:
            await anext(batches)
        await asyncio.wait_for(server.hung_up.wait(), BOUND_SECONDS)


async def test_an_error_of_the_reader_closes_the_providers_connection() -> None:
    async with raw_server(streams_then_waits(text("x"))) as server, port_at(server.url) as port:
        with pytest.raises(LookupError):
            async with port.stream(REQUEST) as batches:
                async for _ in batches:
                    raise LookupError
        await asyncio.wait_for(server.hung_up.wait(), BOUND_SECONDS)


@pytest.mark.parametrize("script", [says_nothing, streams_then_waits(), streams_then_waits(text("x"))])
async def test_cancelling_the_task_closes_the_providers_connection(script: Script) -> None:
    async with raw_server(script) as server, port_at(server.url) as port:
        task = asyncio.create_task(read(port))
        await asyncio.wait_for(server.arrived.wait(), BOUND_SECONDS)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.hung_up.wait(), BOUND_SECONDS)


async def test_a_provider_that_never_stops_writing_is_cut_off() -> None:
    async def floods(exchange: Any) -> None:
        await exchange.send(STREAM_HEAD)
        try:
            while True:
                await exchange.send(text("x" * 10_000))
        except ConnectionError:
            exchange.server.hung_up.set()

    async with raw_server(floods) as server, port_at(server.url) as port:
        async with port.stream(REQUEST) as batches:
            await anext(batches)
        await asyncio.wait_for(server.hung_up.wait(), BOUND_SECONDS)


# --- proxies


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_server(hangs_up) as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{proxy.port}")
        assert (await answer_of(streams(HELLO)))[0] == "Hello"
        assert proxy.requests == []


async def test_without_a_base_url_the_environments_is_not_used_either(monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_server(hangs_up) as proxy:
        for value in ("", "https://elsewhere.invalid/v1"):
            monkeypatch.setenv("OPENAI_BASE_URL", value)
            async with port_at("", proxy=f"http://127.0.0.1:{proxy.port}") as port:
                with pytest.raises(ModelError):
                    await asyncio.wait_for(read(port), BOUND_SECONDS)
    assert {request.line for request in proxy.requests} == {"CONNECT api.openai.com:443 HTTP/1.1"}
    assert len(proxy.requests) == 2 * ATTEMPTS


async def test_the_configured_proxy_is_used() -> None:
    async with raw_server(streams(HELLO)) as proxy:
        async with port_at("http://model.invalid/v1", proxy=f"http://127.0.0.1:{proxy.port}") as port:
            assert (await read(port))[-1] == Finished("stop", None)
        assert proxy.requests[0].line == "POST http://model.invalid/v1/chat/completions HTTP/1.1"
