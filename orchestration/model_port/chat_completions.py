"""The port to an OpenAI-compatible provider: the openai package makes the request, `chunks` reads the answer."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
import openai
import orjson
from openai import AsyncOpenAI
from openai._constants import RAW_RESPONSE_HEADER
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from orchestration.model_port import ModelError, ModelEvent, ModelRequest
from orchestration.model_port.chunks import ChunkDecoder, interrupted

_RAW_STREAM = {"Content-Type": "application/json", "Accept": "text/event-stream", RAW_RESPONSE_HEADER: "stream"}

logger = logging.getLogger(__name__)

ATTEMPTS = 3
LONGEST_WAIT_SECONDS = 20.0
MAX_WHOLE_BYTES = 8 * 1024 * 1024
_RETRIED_STATUSES = frozenset({408, 409, 425, 429})


class ChatCompletions:
    """A provider behind one base URL. `client` is shared by all runs; its own retries must be off."""

    def __init__(self, client: AsyncOpenAI, *, first_token_timeout: float) -> None:
        self._client = client
        self._first_token_timeout = first_token_timeout
        self._asks_for_usage = True

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[list[ModelEvent]]]:
        """See ModelPort.stream."""
        try:
            async with asyncio.timeout(self._first_token_timeout):
                response = await self._open(request)
        except TimeoutError as error:
            raise _timed_out() from error
        try:
            yield self._events(response)
        finally:
            # At once and whatever happens: a provider that goes on writing costs money.
            with suppress(httpx2.HTTPError, OSError):
                await asyncio.shield(response.aclose())

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.close()

    # --- the request

    async def _open(self, request: ModelRequest) -> httpx2.Response:
        """The opened answer; tried again while nothing of it has been read and the failure may pass."""
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception(_may_pass), stop=stop_after_attempt(ATTEMPTS), wait=_wait_seconds, reraise=True
            ):
                with attempt:
                    return await self._send(request)
        except openai.APIError as error:
            raise _translated(error) from error
        raise AssertionError("unreachable: reraise is on")

    async def _send(self, request: ModelRequest) -> httpx2.Response:
        try:
            return await self._post(request)
        except openai.BadRequestError as error:
            if not self._asks_for_usage or "stream_options" not in str(error.message):
                raise
            logger.info("the model's provider knows no stream_options; going on without token counts")
            self._asks_for_usage = False
            return await self._post(request)

    async def _post(self, request: ModelRequest) -> httpx2.Response:
        # The package's generic request: its typed one walks through every message and tool by their annotations, which costs
        # more than all the rest of the request.
        return await self._client.post(
            "/chat/completions",
            cast_to=httpx2.Response,
            content=orjson.dumps(self._parameters(request)),
            options={"headers": _RAW_STREAM},
        )

    def _parameters(self, request: ModelRequest) -> dict[str, Any]:
        parameters: dict[str, Any] = {"model": request.model, "messages": request.messages, "stream": True}
        if request.tools:
            parameters["tools"] = request.tools
        if request.temperature is not None:
            parameters["temperature"] = request.temperature
        if request.max_output_tokens is not None:
            parameters["max_completion_tokens"] = request.max_output_tokens
        if self._asks_for_usage:
            parameters["stream_options"] = {"include_usage": True}
        return parameters

    # --- the answer

    async def _events(self, response: httpx2.Response) -> AsyncIterator[list[ModelEvent]]:
        decoder = ChunkDecoder()
        try:
            if not response.headers.get("content-type", "text/event-stream").startswith("text/event-stream"):
                yield decoder.feed_whole(await _whole_body(response))
                return
            async for data in response.aiter_bytes():
                events = decoder.feed(data)
                if events:
                    yield events
        except httpx2.TimeoutException as error:
            raise _timed_out() from error
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as error:
            raise interrupted() from error
        yield decoder.end()


async def _whole_body(response: httpx2.Response) -> bytes:
    body = b""
    async for data in response.aiter_bytes():
        body += data
        if len(body) > MAX_WHOLE_BYTES:
            raise ModelError("model_invalid_response", "The model's answer is too large.")
    return body


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, openai.APITimeoutError):
        return False  # it has already taken as long as it may
    if isinstance(error, openai.APIConnectionError):
        return True
    return isinstance(error, openai.APIStatusError) and (
        error.status_code in _RETRIED_STATUSES or error.status_code >= 500
    )


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


def _timed_out() -> ModelError:
    return ModelError("model_timeout", "The model did not answer in time.", retryable=True)


def _translated(error: openai.APIError) -> ModelError:
    """What a failure means for the user; the operator finds status and the provider's code in the log, never texts or keys."""
    if isinstance(error, openai.APITimeoutError):
        return _timed_out()
    if not isinstance(error, openai.APIStatusError):
        logger.warning("the model could not be reached", extra={"reason": type(error.__cause__ or error).__name__})
        return ModelError("model_unavailable", "The model could not be reached.", retryable=True)
    code = str(error.code or error.type or "")[:80]
    logger.warning(
        "the model's provider answered with an error", extra={"status": error.status_code, "provider_code": code}
    )
    if error.status_code == 429:
        return ModelError(
            "model_rate_limited",
            "The model takes no more requests at the moment.",
            retryable=True,
            retry_after=_retry_after(error),
        )
    if error.status_code >= 500 or error.status_code in _RETRIED_STATUSES:
        return ModelError("model_unavailable", "The model's provider has a problem.", retryable=True)
    if code in ("context_length_exceeded", "string_above_max_length"):
        return ModelError("model_context_too_long", "The conversation is too long for the model.")
    if code in ("content_filter", "content_policy_violation"):
        return ModelError("model_content_filter", "The model's provider withheld the answer.")
    return ModelError("model_refused", "The model's provider refused the request.")
