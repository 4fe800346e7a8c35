"""Tools of remote MCP servers: `settings` is `{"server": name, "tool": its name there, "pinned": digest of what was imported}`.

What a call is checked against is the registry's version, never what the server says today.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tools.calls import FailureKind, SideEffects
from tools.handlers.contract import UnusableHandlerError
from tools.invocation import ToolError, ToolInvocation
from tools.mcp_client import health, loading
from tools.mcp_client.contract import RemoteAnswer, RemoteError, Target
from tools.mcp_client.targets import target_of
from tools.models.names import SERVER_NAME_PATTERN
from tools.output import as_output
from tools.registry import Snapshot, registry

_FIELDS = frozenset({"server", "tool", "pinned"})
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LONGEST_NAME = 200
_UNBOUNDED = 1 << 40  # what was read is bounded already, and the door cuts to the tool's own limit


class McpToolHandler:
    """Calls tools of registered servers, each call in a session of its own."""

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise UnusableHandlerError unless the settings have their form. The server may be registered later."""
        if set(settings) != _FIELDS or not all(isinstance(value, str) for value in settings.values()):
            raise UnusableHandlerError('Expected {"server": ..., "tool": ..., "pinned": ...}, three texts.')
        if not re.fullmatch(SERVER_NAME_PATTERN, settings["server"]):
            raise UnusableHandlerError(f"{settings['server']!r} is not the name of a remote server.")
        if not 0 < len(settings["tool"]) <= _LONGEST_NAME:
            raise UnusableHandlerError(f"The tool's name on its server has 1 to {_LONGEST_NAME} characters.")
        if not _DIGEST.fullmatch(settings["pinned"]):
            raise UnusableHandlerError("`pinned` is the digest of what was imported: 64 hexadecimal digits.")

    async def execute(self, settings: Mapping[str, Any], arguments: dict[str, Any], invocation: ToolInvocation) -> Any:
        """Call the tool on its server, within the shorter of the two times."""
        snapshot = await registry.snapshot()
        try:
            target = _target(settings["server"], snapshot)
            answer = await _call(target, settings["tool"], arguments, invocation)
        except RemoteError as error:
            raise _as_tool_error(error, may_repeat=_may_repeat(snapshot, invocation.tool)) from None
        if answer.failed:
            raise ToolError(str(answer.value))
        return _without_credential(answer.value, target)


def _target(name: str, snapshot: Snapshot) -> Target:
    server = snapshot.servers.get(name)
    if server is None:
        raise RemoteError(f"The server {name!r} of this tool is not registered any more.", is_operators=True)
    if not server.enabled:
        raise RemoteError(f"The server {name!r} of this tool is switched off at the moment.")
    return target_of(server, snapshot.vault)


async def _call(target: Target, tool: str, arguments: dict[str, Any], invocation: ToolInvocation) -> RemoteAnswer:
    """The call, and what it says of the server's health."""
    client = await loading.remote_client()
    seconds = min(invocation.seconds_left, target.server.timeout_seconds)
    try:
        answer = await client.call(target, tool, arguments, seconds=seconds, progress=invocation.progress)
    except RemoteError as error:
        if error.unreachable:
            health.book.note_failure(target.server.id, error.message)
        raise
    health.book.note_ok(target.server.id)
    return answer


def _without_credential(value: Any, target: Target) -> Any:
    """The door takes the tool's credentials out of what comes back; the server's it does not know."""
    try:
        return as_output(value, target.credentials, _UNBOUNDED).value
    except (TypeError, ValueError, RecursionError):
        name = target.server.name
        raise ToolError(f"The server {name!r} answered with a value that cannot be passed on.") from None


def _as_tool_error(error: RemoteError, *, may_repeat: bool) -> ToolError:
    text = error.message
    if error.is_operators:
        text += " An operator of this service can put that right."
    if error.perhaps_done and not may_repeat:
        return ToolError(text + " The call may have taken effect all the same; do not repeat it unasked.")
    kind = FailureKind.UNAVAILABLE if error.unreachable or error.is_operators else FailureKind.UPSTREAM_ERROR
    return ToolError(text, retryable=error.passing, kind=kind)


def _may_repeat(snapshot: Snapshot, name: str) -> bool:
    tool = snapshot.tools.get(name)
    return tool is not None and tool.definition.side_effects is not SideEffects.UNSAFE
