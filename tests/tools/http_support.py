"""HTTP tools for tests: rows in the registry, servers on the loopback interface, and what a process may reach."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from asgiref.sync import sync_to_async

from audit.actor import SYSTEM
from tools.models import Tool
from tools.versions import Definition, publish_version, switch_tool

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def schema_of(**properties: str) -> dict[str, Any]:
    """A schema of arguments by the names of their types."""
    return {"type": "object", "properties": {name: {"type": kind} for name, kind in properties.items()}}


class HttpToolMaker:
    """Makes HTTP tools with rows in the registry; all are gone after the test."""

    def __init__(self) -> None:
        self._names: list[str] = []

    async def __call__(self, handler: dict[str, Any], **options: Any) -> str:
        name = f"http_{uuid4().hex[:12]}"
        self._names.append(name)
        filled = {"title": "A test", "description": "For a test.", "input_schema": {"type": "object"}, **options}
        definition = Definition(handler_type="http_endpoint", handler=handler, **filled)
        await sync_to_async(self._publish)(name, definition)
        return name

    def _publish(self, name: str, definition: Definition) -> None:
        tool = Tool.objects.create(name=name)
        publish_version(tool, definition, by=SYSTEM)
        switch_tool(tool, enabled=True, by=SYSTEM)

    async def remove_all(self) -> None:
        await Tool.objects.filter(name__in=self._names).adelete()


@asynccontextmanager
async def raw_server(serve: Serve) -> AsyncIterator[int]:
    """A TCP server that does to each connection, after the request's head, what `serve` does; gives its port."""
    running: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await reader.readuntil(b"\r\n\r\n")
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            running.discard(task)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
