"""What came of a call, as the protocol says it.

Only a name that nobody registered is an error of the protocol. Everything else that keeps a tool from being called is told as a
result with `isError`, because a client shows results to its model and hides errors from it, and the model can do something about
most of them. What a program needs stands in `_meta` under `META_KEY`.
"""

from __future__ import annotations

from math import ceil
from typing import Any, Final

from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult, TextContent

from tools.calls import SideEffects, ToolDefinition, ToolOutcome, ToolResult
from tools.mcp_server.listing import serves_output_schema

META_KEY: Final = "io.agentbackend/call"
TRUNCATED: Final = "output_truncated"
INTERRUPTED: Final = "interrupted"


def call_result(result: ToolResult, definition: ToolDefinition | None, protocol_version: str) -> CallToolResult:
    """The result of a call of this tool; raises MCPError when there is no such tool."""
    if result.outcome is ToolOutcome.UNKNOWN_TOOL:
        data = {"code": result.outcome.value}
        raise MCPError(code=INVALID_PARAMS, message=f"Unknown tool. {result.error}", data=data)
    if not result.ok:
        return _error(result.error, _about(result))
    promised = definition is not None and serves_output_schema(definition, protocol_version)
    if result.truncated:
        # Clients refuse a result without the form that the tool promises, unless it is an error: then the model sees what there is.
        return _text(result.content, {"code": TRUNCATED, "retryable": False}, is_error=promised)
    answer = _text(result.content)
    if promised:
        answer.structured_content = result.value
    return answer


def interrupted_result(definition: ToolDefinition | None) -> CallToolResult:
    """The result of a call that was stopped because the process ends."""
    may_repeat = definition is not None and definition.side_effects is SideEffects.IDEMPOTENT
    message = "The call was stopped because the service is shutting down."
    message += (
        " Call the tool again." if may_repeat else " It may have taken effect all the same; do not repeat it unasked."
    )
    return _error(message, {"code": INTERRUPTED, "retryable": may_repeat})


def _about(result: ToolResult) -> dict[str, Any]:
    about: dict[str, Any] = {"code": result.outcome.value, "retryable": result.retryable}
    if result.retry_after_seconds:
        about["retryAfter"] = ceil(result.retry_after_seconds)
    return about


def _error(message: str, about: dict[str, Any]) -> CallToolResult:
    return _text(message, about, is_error=True)


def _text(text: str, about: dict[str, Any] | None = None, *, is_error: bool = False) -> CallToolResult:
    content = [TextContent(type="text", text=text)]
    meta = {META_KEY: about} if about else None
    return CallToolResult(content=[*content], is_error=is_error, _meta=meta)
