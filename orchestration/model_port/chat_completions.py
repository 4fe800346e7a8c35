"""The port to an OpenAI-compatible provider: the openai package makes the request, `chunks` reads the answer."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import httpx2
import openai
import orjson
from openai import AsyncOpenAI
from openai._constants import RAW_RESPONSE_HEADER
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from agentbackend.foundation.outbound import OutboundError, OutboundRefusedError
from orchestration.model_port import ModelError, ModelEvent, ModelRequest
from orchestration.model_port.chunks import ChunkDecoder, interrupted
from orchestration.model_port.deadline import Deadline

logger = logging.getLogger(__name__)

ATTEMPTS = 3
LONGEST_WAIT_SECONDS = 20.0
SHORT_WAIT_SECONDS = 1.0
LONGEST_END_SECONDS = 1.0
_RETRIED_STATUSES = frozenset({408, 409, 425, 429})
_RAW_STREAM = {"Content-Type": "application/json", "Accept": "text/event-stream", RAW_RESPONSE_HEADER: "stream"}
_NO_MONEY = "insufficient_quota"
# The aiohttp transport lets some of aiohttp's own errors through, and calls a dropped connection a time-out of the connection.
_NETWORK_ERRORS = (httpx2.HTTPError, httpx2.StreamError, aiohttp.ClientError, OutboundError, OSError)


class ChatCompletions:
    """A provider behind one base URL. `client` is shared by all runs; its own retries and read time-outs must be off.

    Time-outs are seconds: `first_token` from the request, with all its tries, to the first event; `idle` between two reads after that.
    """

    def __init__(
        self,
        client: AsyncOpenAI,
        *,
        first_token_timeout: float,
        idle_timeout: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._first_token_timeout = first_token_timeout
        self._idle_timeout = idle_timeout
        self._sleep = sleep
        self._refused: dict[str, frozenset[str]] = {}  # by model: parameters that its server does not know

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[list[ModelEvent]]]:
        """See ModelPort.stream."""
        deadline = Deadline()
        deadline.expire_in(self._first_token_timeout)
        try:
            response = await self._open(request, deadline)
            try:
                async with aclosing(self._events(response, deadline)) as events:
                    yield events
            except ModelError as error:
                logger.warning("the model's answer failed while it was read", extra={"code": error.code})
                raise
            finally:
                # At once and whatever happens: a provider that goes on writing costs money.
                with suppress(*_NETWORK_ERRORS):
                    await response.aclose()
        finally:
            deadline.close()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.close()

    # --- the request

    async def _open(self, request: ModelRequest, deadline: Deadline) -> httpx2.Response:
        try:
            with deadline:
                return await self._tried(request)
        except TimeoutError as error:
            raise _timed_out() from error
        except openai.APIStatusError as error:
            raise _translated(error) from error
        except (openai.APIError, *_NETWORK_ERRORS) as error:
            if (refused := _cause(error, OutboundRefusedError)) is not None:
                logger.warning("the model's address may not be reached: %s", refused)
                raise ModelError("model_refused", "The model may not be reached from this service.") from error
            logger.warning("the model could not be reached", extra={"reason": _root_of(error)})
            raise ModelError("model_unavailable", "The model could not be reached.", retryable=True) from error

    async def _tried(self, request: ModelRequest) -> httpx2.Response:
        """The opened answer; tried again while nothing of it has been read and the failure may pass."""
        attempts = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_attempt(ATTEMPTS) if request.may_be_slow else _when_it_would_wait,
            wait=_wait_seconds,
            sleep=self._sleep,
            reraise=True,
        )
        async for attempt in attempts:
            with attempt:
                return await self._send(request)
        raise AssertionError("unreachable: reraise is on")

    async def _send(self, request: ModelRequest) -> httpx2.Response:
        """Post the request; without what its server turns out not to know, now and from then on."""
        while True:
            refused = self._refused.get(request.model, frozenset())
            try:
                return await self._post(_parameters(request, refused))
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                unknown = next((name for name in _DISPENSABLE if name not in refused and name in error.message), None)
                if unknown is None:
                    raise
                logger.info(
                    "the model's server does not know a parameter; going on without it", extra={"parameter": unknown}
                )
                self._refused[request.model] = refused | {unknown}

    async def _post(self, parameters: dict[str, Any]) -> httpx2.Response:
        # The package's generic request: its typed one walks through every message and tool by their annotations, which costs
        # more than all the rest of the request.
        return await self._client.post(
            "/chat/completions",
            cast_to=httpx2.Response,
            content=orjson.dumps(parameters),
            options={"headers": _RAW_STREAM},
        )

    # --- the answer

    async def _events(self, response: httpx2.Response, deadline: Deadline) -> AsyncGenerator[list[ModelEvent], None]:
        decoder = ChunkDecoder()
        answered = False
        reads = response.aiter_bytes()
        ended = False
        try:
            while True:
                with deadline:
                    data = await anext(reads, b"")
                if not data or ended:
                    break
                events = decoder.feed(data)
                if events:
                    answered = True
                    yield events
                if decoder.failure is not None:
                    raise decoder.failure
                ended = decoder.done
                if ended:
                    # Only the end of the body is missing: awaited, not for long, so that the connection can be used again.
                    deadline.expire_in(LONGEST_END_SECONDS)
                elif answered:
                    deadline.expire_in(self._idle_timeout)
        except TimeoutError as error:
            if not decoder.done:
                raise _timed_out() from error
        except _NETWORK_ERRORS as error:
            if not decoder.complete:
                raise interrupted() from error
        yield decoder.end()


_DISPENSABLE = ("stream_options", "max_completion_tokens", "response_format", "tool_choice")
"""Parameters that older servers refuse: token counts are done without, the limit is given under its old name, the form of the answer and
that no tools are to be called are left to what the model is told."""


def _parameters(request: ModelRequest, refused: frozenset[str]) -> dict[str, Any]:
    parameters: dict[str, Any] = {"model": request.model, "messages": request.messages, "stream": True}
    if request.tools:
        parameters["tools"] = request.tools
        if (
            not request.may_call and "tool_choice" not in refused
        ):  # the tools stay: a prompt cache's prefix, and calls refer to them
            parameters["tool_choice"] = "none"
    if request.temperature is not None:
        parameters["temperature"] = request.temperature
    if request.max_output_tokens is not None:
        name = "max_tokens" if "max_completion_tokens" in refused else "max_completion_tokens"
        parameters[name] = request.max_output_tokens
    if request.response_format is not None and "response_format" not in refused:
        parameters["response_format"] = request.response_format
    if "stream_options" not in refused:
        parameters["stream_options"] = {"include_usage": True}
    return parameters


def _when_it_would_wait(state: RetryCallState) -> bool:
    """For a model that others could stand in for: one more try, if that can be at once."""
    return state.attempt_number >= ATTEMPTS - 1 or state.upcoming_sleep > SHORT_WAIT_SECONDS


def _may_pass(error: BaseException) -> bool:
    if _cause(error, OutboundRefusedError) is not None:
        return False
    if isinstance(error, openai.APIStatusError):
        passing = error.status_code in _RETRIED_STATUSES or error.status_code >= 500
        return passing and _provider_code(error) != _NO_MONEY
    return isinstance(error, (openai.APIConnectionError, *_NETWORK_ERRORS))


def _wait_seconds(state: RetryCallState) -> float:
    """As long as the provider asks for, within bounds; else exponential with jitter."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked = _retry_after(error)
    if asked is not None:
        return min(asked, LONGEST_WAIT_SECONDS)
    return min(0.25 * 2.0 ** (state.attempt_number - 1), 4.0) * (0.5 + random.random())  # noqa: S311 - jitter


def _retry_after(error: BaseException | None) -> float | None:
    if not isinstance(error, openai.APIStatusError):
        return None
    value = error.response.headers.get("retry-after", "")
    with suppress(ValueError):
        return max(0.0, float(value))
    with suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return None


def _cause(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """The cause of this kind, if there is one."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__
    return error


def _root_of(error: BaseException) -> str:
    """The kind of the first cause: what stands above it is named wrongly by the transport."""
    while error.__cause__ is not None:
        error = error.__cause__
    return type(error).__name__


def _timed_out() -> ModelError:
    return ModelError("model_timeout", "The model did not answer in time.", retryable=True)


def _provider_code(error: openai.APIStatusError) -> str:
    return str(error.code or error.type or "")[:80]


def _translated(error: openai.APIStatusError) -> ModelError:
    """What a refusal means for the user; the operator finds status and the provider's code in the log, never texts or keys."""
    code, status = _provider_code(error), error.status_code
    logger.warning("the model's provider answered with an error", extra={"status": status, "provider_code": code})
    if status == 429 and code != _NO_MONEY:
        return ModelError(
            "model_rate_limited",
            "The model takes no more requests at the moment.",
            retryable=True,
            retry_after=_retry_after(error),
        )
    if status >= 500 or status in _RETRIED_STATUSES - {429}:
        return ModelError("model_unavailable", "The model's provider has a problem.", retryable=True)
    if code in ("context_length_exceeded", "string_above_max_length"):
        return ModelError("model_context_too_long", "The conversation is too long for the model.")
    if code in ("content_filter", "content_policy_violation"):
        return ModelError("model_content_filter", "The model's provider withheld the answer.")
    return ModelError("model_refused", "The model's provider refused the request.")
