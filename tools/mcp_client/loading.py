"""The one place where the SDK comes into the process: on first use, on a thread, so that the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Final

from tools.mcp_client.contract import RemoteClient

_CLIENT_MODULE: Final = "tools.mcp_client.sdk_client"


class _LoadedLater:
    client: RemoteClient | None = None


async def remote_client() -> RemoteClient:
    """The process's client of remote MCP servers."""
    if _LoadedLater.client is None:
        module = await asyncio.to_thread(import_module, _CLIENT_MODULE)
        _LoadedLater.client = module.client
    found: RemoteClient = _LoadedLater.client
    return found


async def close_connections() -> None:
    """Close what this event loop has open to remote servers; nothing, when none was ever asked."""
    if _LoadedLater.client is not None:
        await _LoadedLater.client.aclose()
