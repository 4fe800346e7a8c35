"""One request of an MCP client: what the SDK's server asks of us, answered through the registry and the door."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from mcp.server.caching import CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
)
from opentelemetry import trace

from agentbackend.foundation.identifiers import uuid7
from agentbackend.foundation.release import VERSION
from audit.actor import Actor
from tools import process
from tools.calls import CallContext, ProgressListener, ToolCall, ToolDefinition, ToolResult
from tools.door import call_tool
from tools.mcp_server.listing import tools_page
from tools.mcp_server.open_requests import CallKey, OpenRequests, StopReason
from tools.mcp_server.progress import ProgressRelay, Send, Step
from tools.mcp_server.results import call_result, interrupted_result
from tools.registry import Snapshot, ToolRegistry

logger = logging.getLogger(__name__)

SERVER_NAME: Final = "agentbackend"
INSTRUCTIONS: Final = (
    "The tools of this organisation that the caller's role may use. Every call is checked and recorded. "
    "A result with isError says what would help; what may be tried again says so under io.agentbackend/call."
)
REQUEST_CANCELLED: Final = -32800  # as the SDK answers it

_DISCOVERY_FRESH_MILLISECONDS = 3_600_000

Context = ServerRequestContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Exchange:
    """Who asks, and what an answer needs. Its `server` is thrown away with it."""

    actor: Actor
    request_id: str
    session_id: str
    snapshot: Snapshot
    requests: OpenRequests
    registry: ToolRegistry

    def server(self) -> Server[Any]:
        """The SDK's server for this request."""
        return Server(
            SERVER_NAME,
            version=VERSION,
            title=SERVER_NAME,
            instructions=INSTRUCTIONS,
            cache_hints={"server/discover": CacheHint(ttl_ms=_DISCOVERY_FRESH_MILLISECONDS, scope="private")},
            get_tool_input_schema=self.visible_schema,
            on_list_tools=self.list_tools,
            on_call_tool=self.call_tool,
        )

    def visible_schema(self, name: str) -> dict[str, Any] | None:
        """The schema that the SDK holds `Mcp-Param-*` headers against; without this it would make the whole list for each call."""
        tool = self.snapshot.tools.get(name)
        if tool is None or not tool.enabled or not self.snapshot.decide(self.actor, tool).allowed:
            return None
        return tool.definition.input_schema

    async def list_tools(self, context: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        """`tools/list`: what the caller may use."""
        async with _failures_told("the tools could not be listed"):
            definitions = await self.registry.offered_tools(self.actor)
        return tools_page(definitions, params.cursor if params else None, context.protocol_version)

    async def call_tool(self, context: Context, params: CallToolRequestParams) -> CallToolResult:
        """`tools/call`: through the door, which checks the caller's rights again."""
        arguments = json.dumps(params.arguments or {}, ensure_ascii=False, separators=(",", ":"))
        # An id of ours: the client's is unique within one client only, and idempotency keys are made of it.
        call = ToolCall(str(uuid7()), params.name, arguments)
        async with _failures_told("a tool call could not be carried out"):
            if "progress_token" not in (context.meta or {}):
                return await self._call(context, call, None)
            async with ProgressRelay(_sending_to(context)) as relay:
                return await self._call(context, call, relay)

    async def _call(self, context: Context, call: ToolCall, progress: ProgressListener | None) -> CallToolResult:
        work = call_tool(call, self._call_context(progress), registry=self.registry)
        task: asyncio.Task[ToolResult] = asyncio.get_running_loop().create_task(work, name="mcp-call")
        with self.requests.call(task, self._key(context)) as open_call:
            try:
                result = await task
            except asyncio.CancelledError:
                if _is_cancelled_itself():  # the client has left
                    raise
                return await self._stopped(open_call.stopped, call)
        return call_result(result, await self._definition(call.name), context.protocol_version)

    async def _stopped(self, reason: StopReason | None, call: ToolCall) -> CallToolResult:
        if reason is StopReason.CANCELLED:
            raise MCPError(code=REQUEST_CANCELLED, message="The call was cancelled.")
        if reason is StopReason.SHUTTING_DOWN:
            return interrupted_result(await self._definition(call.name))
        raise RuntimeError(f"the tool {call.name!r} cancelled its own call")

    def _call_context(self, progress: ProgressListener | None) -> CallContext:
        span = trace.get_current_span().get_span_context()
        return CallContext(
            actor=self.actor,
            recorder=process.recorder(),
            request_id=self.request_id,
            trace_id=trace.format_trace_id(span.trace_id) if span.is_valid else "",
            origin="mcp",
            progress=progress,
        )

    def _key(self, context: Context) -> CallKey | None:
        if not self.session_id or context.request_id is None:
            return None
        return CallKey(self.actor.id, self.session_id, str(context.request_id))

    async def _definition(self, name: str) -> ToolDefinition | None:
        tool = await self.registry.get_tool(name)
        return tool.definition if tool else None


def _is_cancelled_itself() -> bool:
    """Whether the task that runs here is being cancelled, and not only one that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _sending_to(context: Context) -> Send:
    async def send(step: Step) -> None:
        await context.session.report_progress(step.done, step.total, step.message)

    return send


@asynccontextmanager
async def _failures_told(what: str) -> AsyncIterator[None]:
    """Have a fault of the service logged, and told without anything of its inside, on which the SDK's eras do not agree."""
    try:
        yield
    except MCPError:
        raise
    except Exception as error:
        logger.exception(what)
        raise MCPError(code=INTERNAL_ERROR, message="The service failed to handle the request.") from error
