"""`/mcp` on the raw ASGI scope: one POST in, one answer out, nothing kept.

It stands behind gateway authentication, which has checked Host, signature and first use, has read the whole body (1 MiB at most), and
has put `actor`, `request_id` and `session_id` into the scope. What is wrong with a request as HTTP is answered here as problem+json,
what is wrong with it as JSON-RPC as the protocol wants; the rest is the SDK's, which speaks the revisions with a handshake and those
without. A client that leaves cancels its call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
import psycopg
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types import INVALID_REQUEST, PARSE_ERROR
from opentelemetry import context as trace_context
from opentelemetry import propagate
from psycopg_pool import PoolTimeout

from agentbackend.foundation import metrics
from agentbackend.foundation.problems import Problem
from audit import actions
from audit.actor import Actor
from audit.entry import Outcome, Target, entry
from tools import process
from tools.mcp_server.exchange import Exchange
from tools.mcp_server.open_requests import CallKey, OpenRequests
from tools.registry import Snapshot, ToolRegistry, registry

logger = logging.getLogger(__name__)

Scope = dict[str, Any]
Extend = Callable[[Server[Any]], None]

LONGEST_NAME: Final = 128  # of what a client says, in the audit trail

# Answers are for one caller: nobody on the way may keep them, or hold a stream back.
_OURS = (
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
)


class RpcError(Exception):
    """A body that is no JSON-RPC message which can be served: answered with HTTP status 400, and an id of null."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Message:
    """What the request says it is, as far as it says so; everything in it is the client's word."""

    method: str
    params: dict[str, Any]
    is_request: bool

    @property
    def name(self) -> str:
        """What a call is of."""
        return _text(self.params.get("name"))

    @property
    def client(self) -> str:
        """How the client names itself: in the handshake, or with each request."""
        meta = self.params.get("_meta")
        found = self.params.get("clientInfo") or (
            meta.get("io.modelcontextprotocol/clientInfo") if isinstance(meta, dict) else None
        )
        if not isinstance(found, dict):
            return ""
        return f"{_text(found.get('name'))} {_text(found.get('version'))}".strip()


class McpApplication:
    """The ASGI application of `/mcp`; one for each process.

    `extend` may add to each request's server: the fixtures of the conformance suite come in there.
    """

    def __init__(
        self, requests: OpenRequests, *, extend: Extend | None = None, registry: ToolRegistry = registry
    ) -> None:
        self._requests = requests
        self._extend = extend
        self._registry = registry

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """ASGI's entry point."""
        try:
            _check_request(scope)
            body = await _whole_body(receive)
            message = _read_message(body)
            with self._requests.admitted():
                await self._serve(scope, message, _Connection(body, receive, send))
        except Problem as problem:
            if problem.code != "method_not_allowed":  # clients try a GET as a matter of course
                _record_refusal(scope, problem.code)
            headers = (b"content-type", b"application/problem+json"), *problem.headers
            await _answer(send, problem.kind.status, problem.body(scope["request_id"]), *headers)
        except RpcError as error:
            _record_refusal(scope, "invalid_json" if error.code == PARSE_ERROR else "invalid_input")
            answer = {"jsonrpc": "2.0", "id": None, "error": {"code": error.code, "message": error.message}}
            await _answer(send, 400, orjson.dumps(answer), (b"content-type", b"application/json"))

    async def _serve(self, scope: Scope, message: Message, connection: _Connection) -> None:
        snapshot = await self._snapshot()
        _record_opened(scope, message)
        if message.method == "notifications/cancelled":
            self._cancel(scope, message)
        exchange = Exchange(
            scope["actor"], scope["request_id"], scope["session_id"], snapshot, self._requests, self._registry
        )
        server = exchange.server()
        if self._extend is not None:
            self._extend(server)
        try:
            await _speak(server, scope, message, connection)
        except Exception as error:
            logger.exception("an MCP request failed")
            if not connection.opened:
                raise Problem("internal_error") from error
            await connection.send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            if connection.client_left:
                _record(scope, actions.REQUEST_CLIENT_GONE)

    async def _snapshot(self) -> Snapshot:
        """The registry, asked for before the protocol begins: a service without its database says so in HTTP."""
        try:
            return await self._registry.snapshot()
        except (psycopg.Error, PoolTimeout, OSError) as error:
            logger.exception("the tool registry could not be read for an MCP request")
            raise Problem("unavailable", headers=((b"retry-after", b"2"),)) from error

    def _cancel(self, scope: Scope, message: Message) -> None:
        """Stop the call that the client names, where it can be known which one is meant and this process carries it out."""
        named = message.params.get("requestId")
        if scope["session_id"] and isinstance(named, str | int) and not isinstance(named, bool):
            self._requests.cancel(CallKey(scope["actor"].id, scope["session_id"], str(named)))


class _Connection:
    """The body again, then what really comes; knows whether the client left before its answer was complete."""

    def __init__(self, body: bytes, receive: Any, send: Any) -> None:
        self._body: bytes | None = body
        self._receive = receive
        self._send = send
        self._answered = False
        self.opened = False
        self.client_left = False

    async def receive(self) -> dict[str, Any]:
        """ASGI's `receive`."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        message: dict[str, Any] = await self._receive()
        if message["type"] == "http.disconnect" and not self._answered:
            self.client_left = True
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """ASGI's `send`."""
        if message["type"] == "http.response.start":
            self.opened = True
            headers = [pair for pair in message["headers"] if pair[0] != b"connection" and pair[0] not in dict(_OURS)]
            message = {**message, "headers": [*headers, *_OURS]}
        elif not message.get("more_body"):
            self._answered = True
        await self._send(message)


async def _speak(server: Server[Any], scope: Scope, message: Message, connection: _Connection) -> None:
    """Have the SDK answer, under the client's trace if it sent one.

    Only a call can take long or report progress, so only a call needs a stream (which the SDK opens at once, or, from 2026-07-28 on,
    when there is something to send). Host and Origin are checked already, by rules that the SDK's settings cannot express.
    """
    manager = StreamableHTTPSessionManager(
        app=server, stateless=True, json_response=not _may_stream(message), security_settings=None
    )
    carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    token = trace_context.attach(propagate.extract(carrier))
    try:
        async with manager.run():
            await manager.handle_request(scope, connection.receive, connection.send)
    finally:
        trace_context.detach(token)


def _may_stream(message: Message) -> bool:
    return message.method not in ("initialize", "ping", "tools/list", "server/discover")


# --- reading


def _check_request(scope: Scope) -> None:
    """Raises Problem unless this is a POST of JSON that no page of another site has sent."""
    if scope["method"] != "POST":  # there are no streams to open by GET, and no sessions to DELETE
        raise Problem("method_not_allowed", headers=((b"allow", b"POST"),))
    headers: dict[bytes, bytes] = dict(scope["headers"])
    origin = headers.get(b"origin")
    if origin is not None and not _is_of(origin.decode("latin-1"), headers.get(b"host", b"").decode("latin-1")):
        raise Problem("forbidden", "A page of another origin may not use this address.", field="Origin")
    if headers.get(b"content-type", b"").split(b";")[0].strip().lower() != b"application/json":
        raise Problem("unsupported_media_type", field="Content-Type")


def _is_of(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


async def _whole_body(receive: Any) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _read_message(body: bytes) -> Message:
    """One JSON-RPC object; raises RpcError. What else it must be depends on the revision, and is the SDK's to say."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RpcError(PARSE_ERROR, "The body is not JSON.") from error
    if not isinstance(document, dict):
        raise RpcError(INVALID_REQUEST, "The body must be one JSON-RPC message; batches are not served.")
    is_request = "method" in document and "id" in document
    if is_request and (isinstance(document["id"], bool) or not isinstance(document["id"], str | int)):
        raise RpcError(INVALID_REQUEST, "The id of a request must be a text or a whole number.")
    params = document.get("params")
    return Message(_text(document.get("method")), params if isinstance(params, dict) else {}, is_request)


def _text(value: Any) -> str:
    return value[:LONGEST_NAME] if isinstance(value, str) else ""


# --- answering and recording


async def _answer(send: Any, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length, *_OURS]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _record_opened(scope: Scope, message: Message) -> None:
    if not message.is_request:
        return
    version = next((value for name, value in scope["headers"] if name == b"mcp-protocol-version"), b"")
    details = {
        "method": message.method,
        "name": message.name,
        "client": message.client,
        "protocol": _text(version.decode("latin-1")),
    }
    _record(scope, actions.REQUEST_OPENED, details={name: value for name, value in details.items() if value})


def _record_refusal(scope: Scope, code: str) -> None:
    metrics.requests_refused.labels(code=code).inc()
    _record(scope, actions.REQUEST_REFUSED, outcome=Outcome.DENIED, reason=code)


def _record(
    scope: Scope,
    action: str,
    *,
    outcome: Outcome = Outcome.SUCCESS,
    reason: str = "",
    details: dict[str, Any] | None = None,
) -> None:
    actor: Actor = scope["actor"]
    target = Target("address", scope["path"])
    request_id = scope["request_id"]
    process.recorder().note(
        entry(
            action, actor=actor, outcome=outcome, target=target, reason=reason, request_id=request_id, details=details
        )
    )
