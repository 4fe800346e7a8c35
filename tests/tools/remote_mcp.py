"""An MCP server for tests, on a loopback port and a thread of its own: well-behaved, unless a test says how it shall not be."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

STATELESS = "2026-07-28"
HANDSHAKE = "2025-06-18"
_FLOOD_PART = b"x" * 65536


@dataclass
class Asked:
    """A request as it came; `message` is the JSON-RPC message of a POST."""

    method: str
    target: str
    headers: dict[str, str]
    message: dict[str, Any]

    @property
    def rpc(self) -> str:
        return str(self.message.get("method", ""))

    @property
    def params(self) -> dict[str, Any]:
        return self.message.get("params") or {}


@dataclass
class Reply:
    """An HTTP answer; `then`: close, hang (send no more, until the client goes), or flood (send for ever)."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    then: str = "close"
    declared: int | None = None


HANG = Reply(status=0, then="hang")


def as_json(document: Any, status: int = 200, **headers: str) -> Reply:
    return Reply(status, json.dumps(document).encode(), {"content-type": "application/json", **headers})


def as_events(*messages: dict[str, Any], then: str = "close", ids: bool = False) -> Reply:
    lines = []
    for number, message in enumerate(messages):
        identifier = f"id: {number}\n" if ids else ""
        lines.append(f"{identifier}event: message\ndata: {json.dumps(message)}\n\n")
    return Reply(200, "".join(lines).encode(), {"content-type": "text/event-stream"}, then)


def tool(name: str, **fields: Any) -> dict[str, Any]:
    """A tool as a server describes it."""
    properties = {"text": {"type": "string"}}
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"name": name, "description": f"Does {name}.", "inputSchema": schema, **fields}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": words}], **more}


class RemoteMcp:
    """The server. `call` gives the result of a tool's call, `before` may answer anything in its own way first."""

    def __init__(self) -> None:
        self.tools: list[dict[str, Any]] = [tool("echo")]
        self.era = STATELESS
        self.page_size = 1000
        self.call: Callable[[Asked], dict[str, Any] | Reply] = lambda asked: text(
            f"echo: {asked.params.get('arguments', {}).get('text', '')}"
        )
        self.before: Callable[[Asked], Reply | None] = lambda asked: None
        self.asked: list[Asked] = []
        self.sessions: set[str] = set()
        self.left = threading.Event()  # a client went while it was left waiting
        self.waiting = threading.Event()  # a client is left waiting
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    @property
    def calls(self) -> list[str]:
        """The methods of the messages that came."""
        return [asked.rpc or asked.method for asked in self.asked]

    def answer(self, asked: Asked) -> Reply:
        own = self.before(asked)
        if own is not None:
            return own
        if asked.method == "DELETE":
            self.sessions.discard(asked.headers.get("mcp-session-id", ""))
            return Reply()
        if asked.method != "POST":
            return Reply(405)
        if "id" not in asked.message:
            return Reply(202)
        return self._handshake(asked) if self.era == HANDSHAKE else self._stateless(asked)

    def result(self, asked: Asked, result: dict[str, Any]) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": asked.message["id"], "result": result}

    def error(self, asked: Asked, code: int, words: str) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": asked.message["id"], "error": {"code": code, "message": words}}

    def _stateless(self, asked: Asked) -> Reply:
        hints = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
        if asked.rpc == "server/discover":
            found = {"supportedVersions": [STATELESS], "capabilities": {"tools": {}}}
            return as_json(self.result(asked, {**hints, **found}))
        if asked.rpc == "tools/list":
            return as_json(self.result(asked, {**hints, **self._page(asked)}))
        if asked.rpc == "tools/call":
            return self._called(asked, {"resultType": "complete"})
        return as_json(self.error(asked, -32601, f"no method {asked.rpc}"), status=404)

    def _handshake(self, asked: Asked) -> Reply:
        if asked.rpc == "initialize":
            session = uuid4().hex
            self.sessions.add(session)
            about = {"capabilities": {"tools": {}}, "serverInfo": {"name": "test", "version": "1"}}
            return as_json(self.result(asked, {"protocolVersion": HANDSHAKE, **about}), **{"mcp-session-id": session})
        if asked.headers.get("mcp-session-id") not in self.sessions:
            return Reply(404 if "mcp-session-id" in asked.headers else 400)
        if asked.rpc == "tools/list":
            return as_json(self.result(asked, self._page(asked)))
        return self._called(asked, {})

    def _page(self, asked: Asked) -> dict[str, Any]:
        start = int(asked.params.get("cursor", "0"))
        end = start + self.page_size
        page: dict[str, Any] = {"tools": self.tools[start:end]}
        return {**page, "nextCursor": str(end)} if end < len(self.tools) else page

    def _called(self, asked: Asked, more: dict[str, Any]) -> Reply:
        found = self.call(asked)
        return found if isinstance(found, Reply) else as_json(self.result(asked, {**more, **found}))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request of one connection."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            asked = await _read(reader)
            self.asked.append(asked)
            await self._send(self.answer(asked), reader, writer)
        writer.close()

    async def _send(self, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if reply.status:
            is_endless = reply.then != "close" or reply.headers.get("content-type") == "text/event-stream"
            length = {} if is_endless else {"content-length": str(reply.declared or len(reply.body))}
            headers = {**length, "connection": "close", **reply.headers}
            lines = [f"HTTP/1.1 {reply.status} X", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
            writer.write("\r\n".join(lines).encode() + reply.body)
            await writer.drain()
        while reply.then == "flood":
            writer.write(_FLOOD_PART)
            await writer.drain()
        if reply.then == "hang":
            self.waiting.set()
            await reader.read()
            self.left.set()


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, target, headers, json.loads(body) if body else {})


@contextmanager
def remote_mcp() -> Iterator[RemoteMcp]:
    """Serve until left."""
    server, loop, ready = RemoteMcp(), asyncio.new_event_loop(), threading.Event()

    async def listen() -> None:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=2**24)
        server.port = listening.sockets[0].getsockname()[1]
        stopped.append(asyncio.Event())
        ready.set()
        await stopped[0].wait()
        listening.close()
        going = asyncio.all_tasks() - {asyncio.current_task()}
        for task in going:
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)

    stopped: list[asyncio.Event] = []
    thread = threading.Thread(target=lambda: loop.run_until_complete(listen()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stopped[0].set)
        thread.join(10)
        loop.close()
