"""The guarded client that all HTTP tools of an event loop share, so that connections are used again."""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

import httpx

from agentbackend.foundation.outbound import GuardedClient, OutboundPolicy, guarded_client
from tools.http_endpoint.request import Outgoing
from tools.http_endpoint.settings import MAX_RESPONSE_BYTES
from tools.process import outbound_policy

CONNECT_SECONDS = 10.0
MAX_CONNECTIONS = 200
_USER_AGENT = "agentbackend"

_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[OutboundPolicy, GuardedClient]] = WeakKeyDictionary()


async def send(request: Outgoing, *, follow_redirects: bool, seconds: float) -> httpx.Response:
    """Send a request; returns with the headers, whoever calls reads and closes the answer.

    `seconds` bounds each step and is longer than the call may take: the call as a whole is cancelled by the door when its time
    is up.
    """
    client = shared_client()
    timeout = httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))
    built = client.build_request(
        request.method, request.url, headers=dict(request.headers), content=request.content, timeout=timeout
    )
    return await client.send(built, stream=True, follow_redirects=follow_redirects)


def shared_client() -> GuardedClient:
    """The client of the running event loop, under the process's policy."""
    loop, policy = asyncio.get_running_loop(), outbound_policy()
    held = _clients.get(loop)
    if held is not None and held[0] is policy:
        return held[1]
    client = guarded_client(
        policy,
        total_seconds=None,
        max_response_bytes=MAX_RESPONSE_BYTES,
        max_connections=MAX_CONNECTIONS,
        headers={"user-agent": _USER_AGENT},
    )
    _clients[loop] = (policy, client)
    return client


async def close_client() -> None:
    """Close the running event loop's client; the next request makes another."""
    held = _clients.pop(asyncio.get_running_loop(), None)
    if held is not None:
        await held[1].aclose()
