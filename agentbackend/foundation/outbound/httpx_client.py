"""The guarded client on httpx."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from typing import Any

import httpcore
import httpx

from agentbackend.foundation.outbound.guard import GuardedConnections, GuardedTransport, no_cookies, send_guarded
from agentbackend.foundation.outbound.limits import ACCEPT_ENCODING
from agentbackend.foundation.outbound.policy import OutboundPolicy


class _Connections(GuardedConnections, httpcore.AsyncNetworkBackend):
    """The guard as httpcore's network backend."""


class _Body(httpx.AsyncByteStream):
    """An answer's body as httpx reads it; closing it gives the connection back."""

    def __init__(self, source: Any, parts: AsyncIterable[bytes]) -> None:
        self._source = source
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._parts:
            yield part

    async def aclose(self) -> None:
        await self._source.aclose()


class _Transport(GuardedTransport, httpx.AsyncBaseTransport):
    """The guard as httpx's transport."""

    def _stream(self, source: Any, encoding: bytes) -> _Body:
        return _Body(source, self.read(source, encoding))


class GuardedClient(httpx.AsyncClient):
    """An httpx client that keeps to an OutboundPolicy. Made by `guarded_client`."""

    total_seconds: float | None = None

    async def send(
        self,
        request: httpx.Request,
        *,
        stream: bool = False,
        auth: Any = httpx.USE_CLIENT_DEFAULT,
        follow_redirects: Any = httpx.USE_CLIENT_DEFAULT,
    ) -> httpx.Response:
        """As in httpx, within the total time; redirects carry no credentials to other origins."""
        follow = self.follow_redirects if follow_redirects is httpx.USE_CLIENT_DEFAULT else bool(follow_redirects)
        response: httpx.Response = await send_guarded(
            super().send,
            request,
            stream=stream,
            auth=auth,
            follow_redirects=follow,
            total_seconds=self.total_seconds,
        )
        return response


def guarded_client(
    policy: OutboundPolicy,
    *,
    timeout: float | httpx.Timeout = 10.0,
    total_seconds: float | None = 60.0,
    max_response_bytes: int | None = 4 * 1024 * 1024,
    max_connections: int = 100,
    follow_redirects: bool = False,
    headers: Mapping[str, str] | None = None,
    base_url: str = "",
    auth: httpx.Auth | tuple[str, str] | None = None,
    event_hooks: Mapping[str, list[Callable[..., Any]]] | None = None,
    tls: ssl.SSLContext | None = None,
) -> GuardedClient:
    """A client that keeps to the policy; whoever makes it closes it.

    `timeout` bounds each step (connecting, one read, one write), `total_seconds` a whole request (of a
    streamed one: up to its headers), `max_response_bytes` an answer after decompression; a client for endless
    streams passes None. `tls` takes the place of the policy's (a client certificate, other authorities). The rest is httpx's.

    Beside httpx's errors requests raise OutboundRefusedError, OutboundTooLargeError and OutboundTimeoutError.
    """
    transport = _Transport(
        httpx,
        httpcore,
        _Connections(httpcore, policy),
        policy,
        max_response_bytes=max_response_bytes,
        max_connections=max_connections,
        tls=tls,
    )
    client = GuardedClient(
        transport=transport,
        timeout=timeout,
        trust_env=False,
        cookies=no_cookies(),
        follow_redirects=follow_redirects,
        headers=headers,
        base_url=base_url,
        auth=auth,
        event_hooks=event_hooks,
    )
    client.headers["accept-encoding"] = ACCEPT_ENCODING
    client.total_seconds = total_seconds
    if policy.prepare is not None:
        policy.prepare(client)
    return client
