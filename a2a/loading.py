"""Where the A2A SDK's client comes into the process: on first use, on a thread, so that the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Final

from a2a.contract import AgentClient

_CLIENT_MODULE: Final = "a2a.sdk_client"


class _LoadedLater:
    client: AgentClient | None = None


async def agent_client() -> AgentClient:
    """The process's client of remote agents."""
    if _LoadedLater.client is None:
        module = await asyncio.to_thread(import_module, _CLIENT_MODULE)
        _LoadedLater.client = module.client
    found: AgentClient = _LoadedLater.client
    return found


async def close_connections() -> None:
    """Close what this event loop has open to remote agents; nothing, when none was ever asked."""
    if _LoadedLater.client is not None:
        await _LoadedLater.client.aclose()
