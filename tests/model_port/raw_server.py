"""A provider that answers with chosen bytes: each connection takes the next of a list of scripts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
BOUND_SECONDS = 10.0


@dataclass(slots=True)
class Received:
    """One request as it came."""

    line: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass(slots=True)
class Exchange:
    """One connection under way: what the script may do with it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    server: RawServer

    async def send(self, data: bytes) -> None:
        """Send bytes at once."""
        self.writer.write(data)
        await self.writer.drain()

    async def wait_for_hang_up(self) -> None:
        """Wait until the client has closed, and note that it has."""
        try:
            while await self.reader.read(1024):
                pass
        except ConnectionError:
            pass
        self.server.hung_up.set()


Script = Callable[[Exchange], Awaitable[None]]


@dataclass(slots=True)
class RawServer:
    """The running server. `hung_up` is set when a script that waits for it saw the client close."""

    scripts: list[Script]
    port: int = 0
    connections: int = 0
    requests: list[Received] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        """The base URL for the port."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: one request, then its script."""
        self.connections += 1
        try:
            self.requests.append(await read_request(reader))
            self.arrived.set()
            script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
            await script(Exchange(reader, writer, self))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def read_request(reader: asyncio.StreamReader) -> Received:
    line, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
    headers = {name.lower(): value for name, value in (entry.split(": ", 1) for entry in rest)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(line, headers, json.loads(body or b"{}"))


@asynccontextmanager
async def raw_server(*scripts: Script) -> AsyncIterator[RawServer]:
    """Serve; the last script answers all further connections."""
    server = RawServer(list(scripts))
    listening = await asyncio.start_server(server.take, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


def streams(*pieces: bytes) -> Script:
    """Answer with a stream of these bytes, then close."""

    async def script(exchange: Exchange) -> None:
        for piece in (STREAM_HEAD, *pieces):
            await exchange.send(piece)

    return script


def keeps_alive(body: bytes) -> Script:
    """Answer each request on the connection with this stream, properly ended."""
    head = STREAM_HEAD.replace(b"connection: close", b"transfer-encoding: chunked")

    async def script(exchange: Exchange) -> None:
        while True:
            await exchange.send(head + b"%x\r\n%b\r\n" % (len(body), body))
            await exchange.send(b"0\r\n\r\n")
            exchange.server.requests.append(await read_request(exchange.reader))

    return script


def streams_then_waits(*pieces: bytes) -> Script:
    """Answer with these bytes, then keep the connection open until the client closes it."""

    async def script(exchange: Exchange) -> None:
        for piece in (STREAM_HEAD, *pieces):
            await exchange.send(piece)
        await exchange.wait_for_hang_up()

    return script


def sends(raw: bytes) -> Script:
    """Answer with these very bytes, then close."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(raw)

    return script


async def says_nothing(exchange: Exchange) -> None:
    """Take the request and answer nothing."""
    await exchange.wait_for_hang_up()


async def hangs_up(exchange: Exchange) -> None:
    """Close without an answer."""


def answers(status: int, body: Any, headers: Sequence[str] = ()) -> Script:
    """Answer with one whole document."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        f"HTTP/1.1 {status} X",
        "content-type: application/json",
        f"content-length: {len(data)}",
        "connection: close",
    ]
    return sends("\r\n".join([*lines, *headers, "", ""]).encode() + data)


def error(status: int, code: str = "", message: str = "no", headers: Sequence[str] = ()) -> Script:
    """Answer with an error as providers write them."""
    return answers(status, {"error": {"message": message, "type": "x", "code": code or None}}, headers)
