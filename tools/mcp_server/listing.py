"""How a client sees the registry: pages of tools."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Final

from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, ListToolsResult, Tool, ToolAnnotations
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from tools.calls import SideEffects, ToolDefinition
from tools.models.names import TOOL_NAME_PATTERN

PAGE_SIZE: Final = 100
FRESH_MILLISECONDS: Final = 30_000
"""How long a client may go on with a list. A call is checked when it is made, so an old list shows too much, never allows it."""


def tools_page(definitions: Sequence[ToolDefinition], cursor: str | None, protocol_version: str) -> ListToolsResult:
    """The page after `cursor` of these tools, which come by name; raises MCPError for a cursor that is not one of ours.

    A cursor is the last name before it, so pages stay true when tools come and go between them.
    """
    after = _name_in(cursor) if cursor else ""
    left = [definition for definition in definitions if definition.name > after]
    page = left[:PAGE_SIZE]
    return ListToolsResult(
        tools=[_tool(definition, protocol_version) for definition in page],
        next_cursor=_cursor_after(page[-1].name) if len(left) > PAGE_SIZE else None,
        ttl_ms=FRESH_MILLISECONDS,
        cache_scope="private",  # it depends on who asks
    )


def serves_output_schema(definition: ToolDefinition, protocol_version: str) -> bool:
    """Whether clients of this revision are promised the result's form: before 2026-07-28 it could only be an object."""
    schema = definition.output_schema
    return schema is not None and (protocol_version in MODERN_PROTOCOL_VERSIONS or schema.get("type") == "object")


def _tool(definition: ToolDefinition, protocol_version: str) -> Tool:
    output_schema = definition.output_schema if serves_output_schema(definition, protocol_version) else None
    return Tool(
        name=definition.name,
        title=definition.title or None,
        description=definition.description,
        input_schema=definition.input_schema,
        output_schema=output_schema,
        annotations=_annotations(definition),
    )


def _annotations(definition: ToolDefinition) -> ToolAnnotations:
    """What is known, and nothing else: a tool that may be repeated may well write, and what it reaches is not recorded.

    `keyed` is not claimed to be idempotent: it is under its key, which each call through MCP has anew.
    """
    return ToolAnnotations(
        title=definition.title or None, idempotent_hint=definition.side_effects is SideEffects.IDEMPOTENT
    )


def _cursor_after(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _name_in(cursor: str) -> str:
    try:
        name = base64.b64decode(cursor, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        name = ""
    if re.fullmatch(TOOL_NAME_PATTERN, name) is None:
        raise MCPError(code=INVALID_PARAMS, message="The cursor is not one that this server gave.")
    return name
