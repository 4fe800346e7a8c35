"""The client of remote MCP servers, on the official SDK. Imported by `loading` only.

A session lives for one call or one listing and belongs to one caller; the connections beneath are shared by all, one pool an event
loop, and keep nothing of a caller's. The pinned definition is what a call is checked against, by the door: the SDK's own check, which
asks the server for its schemas again and believes them, is passed by.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import (
    HEADER_MISMATCH,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    Implementation,
    InputRequiredResult,
    PaginatedRequestParams,
    Tool,
)
from opentelemetry import trace
from pydantic import TypeAdapter

from agentbackend.foundation.outbound.httpx2_client import GuardedClientHttpx2, guarded_client_httpx2
from tools import process
from tools.calls import ProgressListener
from tools.credentials import Credentials
from tools.mcp_client.contract import Listing, OfferedTool, RemoteAnswer, RemoteError, Target
from tools.mcp_client.exchange import Exchange
from tools.mcp_client.sdk_answers import answer_of
from tools.mcp_client.sdk_failures import bounded, explained, too_late

MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
MAX_LISTING_BYTES: Final = 2 * 1024 * 1024  # reading it holds the event loop up for about 60 ms a MiB
MAX_TOOLS: Final = 1000
MAX_PAGES: Final = 100
MAX_PROGRESS_REPORTS: Final = 500
MAX_CONNECTIONS: Final = 100

_STEP_SECONDS = 10.0  # connecting, sending; how long an answer may take is the call's own matter
_OURSELVES = Implementation(name="agentbackend", version="1")
_Result: TypeAdapter[CallToolResult | InputRequiredResult] = TypeAdapter(CallToolResult | InputRequiredResult)

# The SDK's own lines repeat what servers send, as often as they send it; what matters of it is raised, and logged by us.
for _name in ("mcp.client", "mcp.shared.jsonrpc_dispatcher", "client"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class SdkClient:
    """`RemoteClient` on the SDK."""

    def __init__(self) -> None:
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, GuardedClientHttpx2] = WeakKeyDictionary()

    async def call(
        self,
        target: Target,
        tool: str,
        arguments: dict[str, Any],
        *,
        seconds: float,
        progress: ProgressListener | None = None,
    ) -> RemoteAnswer:
        """Call a tool in a session of its own; raises RemoteError."""
        async with _session(target, self._pool(), seconds, MAX_ANSWER_BYTES) as (client, exchange):
            exchange.is_calling = True
            result = await _result_of(client, tool, arguments, progress)
        if isinstance(result, InputRequiredResult):
            name = target.server.name
            raise RemoteError(f"The server {name!r} asks for more input in between, which cannot be given here.")
        answer = answer_of(result)
        return RemoteAnswer(bounded(answer.value, target), failed=True) if answer.failed else answer

    async def list_tools(self, target: Target) -> Listing:
        """Ask for all tools, over connections that are closed at the end: this may run in an event loop of its own."""
        seconds = target.server.timeout_seconds
        async with _new_pool() as pool, _session(target, pool, seconds, MAX_LISTING_BYTES) as (client, _):
            offered, is_complete = await _offered(client)
            version = client.protocol_version
        return Listing(tuple(_described(tool, target.credentials) for tool in offered), is_complete, version)

    async def aclose(self) -> None:
        """Close this event loop's connections."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.aclose()

    def _pool(self) -> GuardedClientHttpx2:
        loop = asyncio.get_running_loop()
        if loop not in self._pools:
            self._pools[loop] = _new_pool()
        return self._pools[loop]


def _new_pool() -> GuardedClientHttpx2:
    """Connections to servers. Time and size of a session are bounded by it, not by each of its requests."""
    return guarded_client_httpx2(
        process.outbound_policy(),
        timeout=_STEP_SECONDS,
        total_seconds=None,
        max_response_bytes=None,
        max_connections=MAX_CONNECTIONS,
    )


@asynccontextmanager
async def _session(
    target: Target, pool: GuardedClientHttpx2, seconds: float, max_bytes: int
) -> AsyncIterator[tuple[Client, Exchange]]:
    """A session with the server, greeting and farewell included, within `seconds`; raises RemoteError for all that fails."""
    exchange = Exchange(pool, max_bytes)
    server = target.server
    try:
        async with asyncio.timeout(seconds) as limit:
            with _unrecorded():
                http = httpx2.AsyncClient(
                    transport=exchange,
                    headers={**target.headers(), "accept-encoding": pool.headers["accept-encoding"]},
                    timeout=httpx2.Timeout(_STEP_SECONDS, read=None),
                    trust_env=False,
                )
                streams = streamable_http_client(server.url, http_client=http, max_sse_event_size=max_bytes)
                async with http, Client(streams, mode=server.protocol, cache=None, client_info=_OURSELVES) as client:
                    yield client, exchange
    except RemoteError:
        raise
    except TimeoutError as error:
        late = limit.expired()
        raise (too_late(exchange, server.name, seconds) if late else explained(error, exchange, target)) from None
    except Exception as error:
        raise explained(error, exchange, target) from None


async def _result_of(
    client: Client, tool: str, arguments: dict[str, Any], progress: ProgressListener | None
) -> CallToolResult | InputRequiredResult:
    """Send the call. A server that wants arguments in headers, too, says so once: then its listing tells which."""
    request = CallToolRequest(params=CallToolRequestParams(name=tool, arguments=arguments))
    told = _Progress(progress) if progress is not None else None
    try:
        return await client.session.send_request(request, _Result, progress_callback=told)
    except MCPError as error:
        if error.code != HEADER_MISMATCH:
            raise
    await _offered(client)
    return await client.session.send_request(request, _Result, progress_callback=told)


class _Progress:
    """Passes a server's reports on, so many at most."""

    def __init__(self, listener: ProgressListener) -> None:
        self._listener = listener
        self._left = MAX_PROGRESS_REPORTS

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        is_number = math.isfinite(progress) and (total is None or math.isfinite(total))
        if self._left > 0 and is_number:
            self._left -= 1
            self._listener(progress, total, (message or "")[:500])


async def _offered(client: Client) -> tuple[list[Tool], bool]:
    """Tools page by page, and whether these are all."""
    found: list[Tool] = []
    cursors: set[str] = set()
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        params = PaginatedRequestParams(cursor=cursor) if cursor is not None else None
        page = await client.session.list_tools(params=params)
        found.extend(page.tools)
        cursor = page.next_cursor
        if len(found) > MAX_TOOLS:
            return found[:MAX_TOOLS], False
        if cursor is None:
            return found, True
        if cursor in cursors:
            return found, False
        cursors.add(cursor)
    return found, False


def _described(tool: Tool, credentials: Credentials) -> OfferedTool:
    """In the server's words, without our credential in case it repeats that."""
    said = tool.model_dump(mode="json", by_alias=True, exclude_none=True)
    if credentials:
        said = json.loads(credentials.hide(json.dumps(said)))
    hints = said.get("annotations", {})
    return OfferedTool(
        name=tool.name,
        title=said.get("title") or hints.get("title", ""),
        description=said.get("description", ""),
        input_schema=said["inputSchema"],
        output_schema=said.get("outputSchema"),
        annotations=hints,
    )


@contextmanager
def _unrecorded() -> Iterator[None]:
    """The SDK's spans are not recorded in here: it writes servers' words into them, which may repeat a credential."""
    here = trace.get_current_span().get_span_context()
    hidden = trace.SpanContext(
        trace_id=here.trace_id or secrets.randbits(127) + 1,
        span_id=here.span_id or secrets.randbits(63) + 1,
        is_remote=False,
        trace_flags=trace.TraceFlags(trace.TraceFlags.DEFAULT),
    )
    with trace.use_span(trace.NonRecordingSpan(hidden), record_exception=False, set_status_on_exception=False):
        yield


client = SdkClient()
"""The process's client."""
