"""The MCP server in process: its ASGI application as it stands behind authentication, and a client that speaks plain JSON-RPC."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from asgiref.sync import sync_to_async

from audit.actor import SYSTEM, Actor
from tests.tools.support import KeepingRecorder, ToolMaker, details, envelope, somebody
from tools.mcp_server.application import McpApplication
from tools.mcp_server.open_requests import OpenRequests
from tools.models import Tool
from tools.registry import ToolRegistry
from tools.versions import Definition, publish_version

HANDSHAKE = "2025-11-25"
STATELESS = "2026-07-28"
REVISIONS = ("2024-11-05", "2025-03-26", "2025-06-18", HANDSHAKE, STATELESS)
META_KEY = "io.agentbackend/call"


@dataclass
class Answer:
    """What came back: the status, and the JSON-RPC messages of the body, whether it was one or a stream."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def messages(self) -> list[dict[str, Any]]:
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            lines = self.body.decode().splitlines()
            return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
        return [json.loads(self.body)] if self.body else []

    @property
    def result(self) -> dict[str, Any]:
        return self.messages[-1]["result"]

    @property
    def error(self) -> dict[str, Any]:
        return self.messages[-1]["error"]

    @property
    def problem(self) -> str:
        """The code of a problem document."""
        assert self.headers["content-type"] == "application/problem+json"
        return json.loads(self.body)["code"]


@dataclass
class Sent:
    """A request that is going on. `leave` is the client's disconnect."""

    task: asyncio.Task[Answer]
    left: asyncio.Event

    def leave(self) -> None:
        self.left.set()

    async def answer(self) -> Answer:
        async with asyncio.timeout(20):
            return await self.task


@dataclass
class Endpoint:
    """`/mcp` for one caller after another; what it records is kept."""

    registry: ToolRegistry
    recorder: KeepingRecorder
    requests: OpenRequests = field(default_factory=lambda: OpenRequests(100))

    @property
    def application(self) -> McpApplication:
        return McpApplication(self.requests, registry=self.registry)

    def send(
        self,
        document: Any,
        *,
        actor: Actor | None = None,
        version: str = HANDSHAKE,
        session_id: str = "",
        method: str = "POST",
        headers: dict[str, str] | None = None,
        request_id: str = "",
    ) -> Sent:
        """Send a request, as bytes or as what is to become JSON."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        given = {
            "host": "localhost",
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": version,
            **_routing(document),
            **(headers or {}),
        }
        scope = {
            "type": "http",
            "method": method,
            "path": "/mcp",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in given.items() if value],
            "actor": actor or somebody(),
            "request_id": request_id or str(uuid4()),
            "session_id": session_id,
        }
        left = asyncio.Event()
        return Sent(asyncio.get_running_loop().create_task(self._exchange(scope, body, left)), left)

    async def post(self, document: Any, **options: Any) -> Answer:
        """Send a request and wait for its answer."""
        return await self.send(document, **options).answer()

    async def list_tools(self, actor: Actor, version: str = HANDSHAKE) -> dict[str, dict[str, Any]]:
        """The caller's tools by name, first page."""
        answer = await self.post(request("tools/list", version=version), actor=actor, version=version)
        return {tool["name"]: tool for tool in answer.result["tools"]}

    def call(self, tool: str, arguments: dict[str, Any] | None = None, *, token: Any = None, **options: Any) -> Sent:
        """Send a call."""
        version = options.setdefault("version", HANDSHAKE)
        return self.send(call_of(tool, arguments, version=version, token=token), **options)

    async def _exchange(self, scope: dict[str, Any], body: bytes, left: asyncio.Event) -> Answer:
        sent: list[dict[str, Any]] = []
        given = False

        async def receive() -> dict[str, Any]:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.application(scope, receive, send)
        start = sent[0] if sent else {"status": 0, "headers": []}
        return Answer(
            start["status"],
            {name.decode(): value.decode() for name, value in start["headers"]},
            b"".join(message.get("body", b"") for message in sent),
        )

    def recorded(self, request_id: str) -> list[tuple[str, str]]:
        """Action and reason of what was recorded for a request."""
        found = [envelope(entry) for entry in self.recorder.entries]
        return [(entry["action"], entry["reason"]) for entry in found if entry["request_id"] == request_id]

    def details(self, action: str) -> dict[str, Any]:
        """The details of the last entry with this action."""
        return details([entry for entry in self.recorder.entries if entry.action == action][-1])


def request(
    method: str, params: dict[str, Any] | None = None, *, version: str = HANDSHAKE, id: Any = 1
) -> dict[str, Any]:
    """A JSON-RPC request, with the envelope that the newest revision wants."""
    meta: dict[str, Any] = dict((params or {}).get("_meta", {}))
    if version == STATELESS:
        meta |= {
            "io.modelcontextprotocol/protocolVersion": version,
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "7"},
        }
    every = {**(params or {}), **({"_meta": meta} if meta else {})}
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": every}


def call_of(
    tool: str, arguments: dict[str, Any] | None = None, *, version: str = HANDSHAKE, token: Any = None, id: Any = 1
) -> dict[str, Any]:
    """A `tools/call`."""
    meta = {} if token is None else {"_meta": {"progressToken": token}}
    return request("tools/call", {"name": tool, "arguments": arguments or {}, **meta}, version=version, id=id)


def _routing(document: Any) -> dict[str, str]:
    if not isinstance(document, dict):
        return {}
    params = document.get("params")
    name = params.get("name", "") if isinstance(params, dict) else ""
    return {"mcp-method": document.get("method", ""), "mcp-name": name}


class GovernedTools:
    """Makes tools of functions, governed as the test says."""

    def __init__(self, maker: ToolMaker) -> None:
        self._maker = maker

    async def __call__(
        self, function: Callable[..., Any], *, rules: dict[str, Any] | None = None, **options: Any
    ) -> str:
        name = await self._maker(function, **options)
        if rules:
            await sync_to_async(self._govern)(name, rules)
        return name

    @staticmethod
    def _govern(name: str, rules: dict[str, Any]) -> None:
        tool = Tool.objects.select_related("current_version").get(name=name)
        assert tool.current_version is not None
        publish_version(tool, replace(Definition.of(tool.current_version), **rules), by=SYSTEM)
