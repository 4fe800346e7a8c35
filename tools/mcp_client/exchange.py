"""The HTTP side of one session with a server: over connections that are shared, with a credential that is not.

The SDK turns what happens on the wire into a few texts, so what went wrong is noted here, and read by `sdk_failures`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import httpx2
from opentelemetry import context as telemetry_context

from agentbackend.foundation.outbound import OutboundTooLargeError
from agentbackend.foundation.outbound.httpx2_client import GuardedClientHttpx2

FAREWELL_SECONDS: Final = 1.0


class Exchange(httpx2.AsyncBaseTransport):
    """Sends one session's requests through the pool, reads at most `max_bytes` of answers in all, and notes failures.

    `status` is that of the last answer to a message (0: none came), `failure` the first error of the transport.
    """

    def __init__(self, pool: GuardedClientHttpx2, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.status = 0
        self.content_type = ""
        self.failure: Exception | None = None
        self.is_calling = False
        self._pool = pool
        self._read_bytes = 0
        self._telemetry = telemetry_context.get_current()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """httpx2's transport interface."""
        if request.method == "GET" and "last-event-id" not in request.headers:
            return httpx2.Response(405)  # the stream of what a server says unasked: nobody here listens
        if request.method == "DELETE":
            async with asyncio.timeout(FAREWELL_SECONDS):
                return await self._send(request)
        try:
            response = await self._send(request)
        except Exception as error:
            self.note(error)
            raise
        self.status = response.status_code
        self.content_type = response.headers.get("content-type", "")
        return response

    async def _send(self, request: httpx2.Request) -> httpx2.Response:
        token = telemetry_context.attach(self._telemetry)  # the request's own span is recorded, the SDK's are not
        try:
            response = await self._pool.send(request, stream=True, follow_redirects=False)
        finally:
            telemetry_context.detach(token)
        return httpx2.Response(response.status_code, headers=response.headers.raw, stream=_Body(self, response))

    def note(self, error: Exception) -> None:
        """Keep the first error."""
        if self.failure is None:
            self.failure = error

    def count(self, size: int) -> None:
        """Add to what was read; raises OutboundTooLargeError."""
        self._read_bytes += size
        if self._read_bytes > self.max_bytes:
            raise OutboundTooLargeError(f"the answers have more than {self.max_bytes} bytes")


class _Body(httpx2.AsyncByteStream):
    """An answer's body, counted; the pool's transport has undone its compression."""

    def __init__(self, exchange: Exchange, response: httpx2.Response) -> None:
        self._exchange = exchange
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._response.aiter_raw():
                self._exchange.count(len(part))
                yield part
        except Exception as error:
            self._exchange.note(error)
            raise

    async def aclose(self) -> None:
        await self._response.aclose()
