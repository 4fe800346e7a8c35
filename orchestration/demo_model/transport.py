"""The demo model behind an HTTP client, without a network: a transport that answers from the script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx2
import orjson

from orchestration.demo_model import wire
from orchestration.demo_model.script import Answer, answer


class _Body(httpx2.AsyncByteStream):
    """A streamed body: pieces with their pauses."""

    def __init__(self, found: Answer, request: dict[str, object], pace: float) -> None:
        self._pieces = wire.streamed(found, request, pace)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            if piece.delay:
                await asyncio.sleep(piece.delay)
            if piece.breaks_off:
                raise httpx2.RemoteProtocolError("the demo cut the connection")
            if piece.data:
                yield piece.data


class DemoTransport(httpx2.AsyncBaseTransport):
    """Answers chat-completions requests as the demo model; `pace` is the pause before each token in seconds."""

    def __init__(self, pace: float) -> None:
        self._pace = pace

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer one request."""
        given = orjson.loads(await request.aread())
        found = answer(given)
        if found.status != 200:
            return httpx2.Response(found.status, headers={"retry-after": "0"}, content=wire.error_body(found.status))
        headers = {"content-type": "text/event-stream"}
        return httpx2.Response(200, headers=headers, stream=_Body(found, given, self._pace))
