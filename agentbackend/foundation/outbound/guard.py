"""What the guarded clients for httpx and httpx2 share.

The two libraries are twins: the same classes and names in `httpx`/`httpcore` and `httpx2`/`httpcore2`. So the
work is written once here against either (hence `Any` where a type differs by library), and the two client
modules only bind it. The guard stands where a connection is made, as the connection pool's network backend:
what was checked is what is connected to, and TLS and the Host header keep the name.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import ModuleType
from typing import Any

from agentbackend.foundation.outbound.errors import OutboundRefusedError, OutboundTimeoutError
from agentbackend.foundation.outbound.limits import bounded_body, split_encoding
from agentbackend.foundation.outbound.policy import OutboundPolicy

MAX_REDIRECTS = 3
# What may follow a redirect to another origin: anything else may be a credential.
_HARMLESS_HEADERS = frozenset({"accept", "accept-encoding", "accept-language", "connection", "host", "user-agent"})
_DEFAULT_PORTS = {"http": 80, "https": 443}

Send = Callable[..., Awaitable[Any]]


class GuardedConnections:
    """A network backend (`core` is httpcore or httpcore2) that connects to checked addresses only."""

    def __init__(self, core: ModuleType, policy: OutboundPolicy) -> None:
        self._core = core
        self._plain = core.AnyIOBackend()
        self._policy = policy

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Any:
        """Resolve, check every address, then try them in turn within `timeout` seconds."""
        give_up = None if timeout is None else time.monotonic() + timeout
        addresses = await self._checked(host, port, timeout)
        for position, address in enumerate(addresses):
            is_last = position == len(addresses) - 1
            share = None if give_up is None else max(0.001, (give_up - time.monotonic()) / (len(addresses) - position))
            try:
                return await self._plain.connect_tcp(
                    address, port, timeout=share, local_address=local_address, socket_options=socket_options
                )
            except (self._core.ConnectError, self._core.ConnectTimeout):
                if is_last:
                    raise
        raise AssertionError("a route has at least one address")

    async def _checked(self, host: str, port: int, timeout: float | None) -> tuple[str, ...]:
        try:
            async with asyncio.timeout(timeout):
                return (await self._policy.route(host, port)).addresses
        except TimeoutError:
            raise self._core.ConnectTimeout("the host name could not be resolved in time") from None
        except OSError:
            raise self._core.ConnectError("the host name cannot be resolved") from None

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> Any:
        """Never: no URL leads to a socket of this machine."""
        raise OutboundRefusedError("sockets of this machine are not allowed")

    async def sleep(self, seconds: float) -> None:
        """Part of the backend's interface: the pause between two attempts."""
        await asyncio.sleep(seconds)


class GuardedTransport:
    """Sends one request, redirects not followed (`client` is httpx or httpx2).

    Binding classes make `_stream`.
    """

    def __init__(
        self,
        client: ModuleType,
        core: ModuleType,
        connections: Any,
        policy: OutboundPolicy,
        *,
        max_response_bytes: int | None,
        max_connections: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._client = client
        self._core = core
        self._policy = policy
        self._tls = tls or policy.tls
        self._max_response_bytes = max_response_bytes
        bounds = {
            "max_connections": max_connections,
            "max_keepalive_connections": 20,
            "keepalive_expiry": 15.0,
        }
        self._direct = core.AsyncConnectionPool(ssl_context=self._tls, network_backend=connections, **bounds)
        self._proxied = self._proxied_pool(bounds) if policy.proxy is not None else None

    def _proxied_pool(self, bounds: dict[str, Any]) -> Any:
        """The pool that connects to the proxy and nowhere else, so it needs no guard of its own."""
        proxy = self._policy.proxy
        assert proxy is not None
        context = self._policy.tls if proxy.url.startswith("https:") else None
        target = self._core.Proxy(proxy.url, auth=proxy.credentials, ssl_context=context)
        return self._core.AsyncConnectionPool(ssl_context=self._tls, proxy=target, **bounds)

    async def handle_async_request(self, request: Any) -> Any:
        """The HTTP library's transport interface."""
        url = request.url
        host = url.raw_host.decode("ascii")
        self._policy.check_url(url.scheme, host, url.userinfo)
        sent = self._core.Request(
            method=request.method,
            url=self._core.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions={name: value for name, value in request.extensions.items() if name != "sni_hostname"},
        )
        with self._own_errors():
            pool = await self._pool_for(host, url.port or _DEFAULT_PORTS[url.scheme])
            received = await pool.handle_async_request(sent)
        try:
            headers, encoding = split_encoding(received.headers)
        except OutboundRefusedError:
            await received.aclose()
            raise
        return self._client.Response(
            status_code=received.status,
            headers=headers,
            stream=self._stream(received.stream, encoding),
            extensions=received.extensions,
        )

    async def _pool_for(self, host: str, port: int) -> Any:
        """Through the proxy, unless the operator allowed the target.

        The proxy resolves names itself, perhaps to other addresses than we see: what is not public from here
        is refused here, a name that only the proxy knows is left to it.
        """
        if self._proxied is None:
            return self._direct
        try:
            route = await self._policy.route(host, port)
        except OSError:
            return self._proxied
        return self._direct if route.exempt else self._proxied

    def _stream(self, source: Any, encoding: bytes) -> Any:
        raise NotImplementedError

    @contextmanager
    def _own_errors(self) -> Iterator[None]:
        """Turn the connection pool's errors into the client's, which carry the same names."""
        core = self._core
        known = (
            core.TimeoutException,
            core.NetworkError,
            core.ProtocolError,
            core.ProxyError,
            core.UnsupportedProtocol,
        )
        try:
            yield
        except known as error:
            raise getattr(self._client, type(error).__name__)(str(error)) from error

    async def read(self, source: Any, encoding: bytes) -> AsyncIterator[bytes]:
        """The body of an answer, decompressed and bounded."""
        with self._own_errors():
            async for part in bounded_body(source, encoding, self._max_response_bytes):
                yield part

    async def aclose(self) -> None:
        """Close all connections."""
        await self._direct.aclose()
        if self._proxied is not None:
            await self._proxied.aclose()


def no_cookies() -> CookieJar:
    """A jar that keeps nothing: clients are shared, and one caller's session at a site must not become another's."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=()))


async def send_guarded(
    send: Send, request: Any, *, stream: bool, auth: Any, follow_redirects: bool, total_seconds: float | None
) -> Any:
    """Send a request and follow its redirects.

    `total_seconds` bounds all of it, with `stream` up to the headers.
    """
    try:
        async with asyncio.timeout(total_seconds) as limit:
            response = await send(request, stream=True, auth=auth, follow_redirects=False)
            if follow_redirects:
                response = await _follow(send, response)
            if not stream:
                await _read_whole(response)
            return response
    except TimeoutError:
        if not limit.expired():
            raise
        raise OutboundTimeoutError(f"the request took longer than {total_seconds} seconds") from None


async def _read_whole(response: Any) -> None:
    try:
        await response.aread()
    except BaseException:
        await response.aclose()
        raise


async def _follow(send: Send, response: Any) -> Any:
    history: list[Any] = []
    while response.next_request is not None:
        await response.aclose()
        if len(history) == MAX_REDIRECTS:
            raise OutboundRefusedError(f"more than {MAX_REDIRECTS} redirects")
        history.append(response)
        # auth=None: what the first request carried is still in the headers where it may go.
        response = await send(_next_hop(response), stream=True, auth=None, follow_redirects=False)
    response.history = history
    return response


def _next_hop(response: Any) -> Any:
    """The redirected request, without credentials when it leaves the origin."""
    before, request = response.request, response.next_request
    if _origin(before.url) == _origin(request.url):
        return request
    if before.url.scheme == "https" and request.url.scheme != "https":
        raise OutboundRefusedError("a redirect leads away from TLS")
    if request.method not in ("GET", "HEAD"):
        raise OutboundRefusedError("a redirect would carry the request's body to another origin")
    for name in set(request.headers) - _HARMLESS_HEADERS:
        del request.headers[name]
    return request


def _origin(url: Any) -> tuple[str, str, int | None]:
    return url.scheme, url.host.lower(), url.port or _DEFAULT_PORTS.get(url.scheme)
