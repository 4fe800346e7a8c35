"""What a real server makes of requests before authentication sees them."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.gateway.support import USER, signed

PROJECT = Path(__file__).resolve().parents[2]


@asynccontextmanager
async def daphne() -> AsyncIterator[int]:
    """Serve `daphne_site` on a free port of this machine."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        # The socket is handed over open, so that nobody else can take the port and nothing has to wait for it.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "daphne", "-v", "0", "--fd", str(listening.fileno()),
            "tests.gateway.daphne_site:application",
            cwd=PROJECT, pass_fds=[listening.fileno()],
        )  # fmt: skip
    try:
        yield port
    finally:
        process.terminate()
        await process.wait()


async def ask(port: int, lines: list[str], body: bytes = b"") -> tuple[int, bytes]:
    """Send exactly these bytes; the answer's status and body."""
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b"chunked" in head.lower():
        rest = rest.split(b"\r\n")[1]
    return int(head.split(b" ")[1]), rest


def request(method: str, target: str, body: bytes = b"", host: str = "agents.example") -> list[str]:
    headers = signed(method, target, body, now=time.time())
    length = [f"Content-Length: {len(body)}"] if body else []
    lines = [f"{name.title()}: {value}" for name, value in headers.items()]
    return [f"{method} {target} HTTP/1.1", f"Host: {host}", *lines, *length]


def code(body: bytes) -> str:
    return json.loads(body)["code"]


async def test_signatures_hold_through_a_real_server_and_doubled_headers_do_not():
    async with daphne() as port:
        target = "/caf%C3%A9%2Fx//y?q=a%20b&q=%ff&e="
        assert await ask(port, request("GET", target)) == (
            200,
            json.dumps([USER, "operator", "/caf%C3%A9%2Fx//y", 0]).encode(),
        )

        body = b"x" * 200_000  # more than a server hands over in one part
        status, said = await ask(port, request("OPTIONS", "/a", body), body)
        assert (status, json.loads(said)[3]) == (200, 200_000)

        status, said = await ask(port, request("OPTIONS", "/a", body), b"y" * 200_000)
        assert (status, code(said)) == (401, "invalid_signature")

        doubled = [*request("GET", "/a"), "X-Supabase-User-Role: admin"]
        status, said = await ask(port, doubled)
        assert (status, code(said)) == (400, "malformed_headers")

        # Daphne drops names with underscores: the caller stays who the gateway says.
        status, said = await ask(port, [*request("GET", "/a"), "X_Supabase_User_Role: admin"])
        assert (status, json.loads(said)[1]) == (200, "operator")

        status, said = await ask(port, request("GET", "/a", host="else.example"))
        assert (status, code(said)) == (400, "invalid_host")

        too_long = b"x" * (1024 * 1024 + 1)
        status, said = await ask(port, request("OPTIONS", "/a", too_long), too_long)
        assert (status, code(said)) == (413, "body_too_large")
