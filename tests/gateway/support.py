"""An authenticator with an application behind it, called in process as a server would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from agentbackend.foundation.identifiers import uuid7
from agentbackend.foundation.keyring import Key, KeyRing
from agentbackend.gateway.authentication import Authenticator, GatewayAuthentication
from agentbackend.gateway.signature import sign
from agentbackend.gateway.tokens import TokenVerifier
from audit.actor import Actor

USER = "6f1c9a52-0c1e-4b5e-9a54-0d9c4b7f2a11"
OLD_KEY = Key("2026-10", b"\x0a" * 32)
ACTIVE_KEY = Key("2026-11", b"\x0b" * 32)
NOW = 1_790_000_000.5
LOOPBACK = ("127.0.0.1", 40000)
STRANGER = ("198.51.100.7", 40000)

Headers = list[tuple[bytes, bytes]]


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    kinds: list[str]

    @property
    def code(self) -> str:
        """The problem's code."""
        assert self.headers["content-type"] == "application/problem+json"
        assert int(self.headers["content-length"]) == len(self.body)
        document = json.loads(self.body)
        assert document["status"] == self.status
        assert document["request_id"] == self.headers["x-request-id"]
        return document["code"]


@dataclass
class Remembering:
    """An observer that remembers what it was told."""

    accepted_actors: list[Actor] = field(default_factory=list)
    refusals: list[tuple[str, str]] = field(default_factory=list)

    def accepted(self, actor: Actor, scope: dict[str, Any]) -> None:
        self.accepted_actors.append(actor)

    def refused(self, scope: dict[str, Any], code: str, source_ip: str) -> None:
        self.refusals.append((code, source_ip))


class Site:
    """What stands behind the gateway: it answers 200 and remembers scope and messages of each request."""

    def __init__(
        self,
        *,
        debug: bool = False,
        unsigned_from: Iterable[str] = ("127.0.0.1", "::1"),
        keys: KeyRing | None = None,
        tokens: TokenVerifier | None = None,
        now: float = NOW,
    ) -> None:
        self.now = now
        self.observer = Remembering()
        self.authenticator = Authenticator(
            keys=KeyRing((ACTIVE_KEY, OLD_KEY)) if keys is None else keys,
            allowed_hosts=["agents.example", ".internal.example", "localhost"],
            observer=self.observer,
            debug=debug,
            unsigned_from=unsigned_from,
            tokens=tokens,
            clock=lambda: self.now,
        )
        self.scopes: list[dict[str, Any]] = []
        self.received: list[dict[str, Any]] = []

    @property
    def actor(self) -> Actor:
        """The actor of the last request that came through."""
        return self.scopes[-1]["actor"]

    async def application(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        if scope["type"] == "websocket":
            self.received.append(await receive())
            await send({"type": "websocket.accept"})
            return
        self.received += [await receive(), await receive()]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"through", "more_body": False})

    async def call(self, scope: dict[str, Any], parts: Sequence[bytes] = (b"",)) -> Answer:
        """Send a request, its body in these parts; afterwards the client disconnects."""
        messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": part, "more_body": position < len(parts)}
            for position, part in enumerate(parts, start=1)
        ]
        if scope["type"] == "websocket":
            messages = [{"type": "websocket.connect"}]
        messages.append({"type": "http.disconnect"})
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return messages.pop(0)

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        async with asyncio.timeout(20):
            await GatewayAuthentication(self.application, self.authenticator)(scope, receive, send)
        start = next((message for message in sent if "status" in message), {"status": 0, "headers": []})
        return Answer(
            status=start["status"],
            headers={name.decode(): value.decode() for name, value in start["headers"]},
            body=b"".join(message.get("body", b"") for message in sent),
            kinds=[message["type"] for message in sent],
        )

    async def get(self, target: str = "/ag-ui/threads", **options: Any) -> Answer:
        return await self.call(request_scope("GET", target, **options))


def identity(**changes: str) -> dict[str, str]:
    """The gateway's identity headers; keyword names with underscores for hyphens."""
    return {
        "x-supabase-user-id": USER,
        "x-supabase-user-email": "someone@example.org",
        "x-supabase-user-role": "operator",
        "x-gateway-aal": "aal2",
        "x-gateway-session-id": "5f0c2f64-0001-4000-8000-000000000001",
    } | {name.replace("_", "-"): value for name, value in changes.items()}


def signed(
    method: str = "GET",
    target: str = "/ag-ui/threads",
    body: bytes = b"",
    *,
    key: Key = ACTIVE_KEY,
    now: float = NOW,
    who: dict[str, str] | None = None,
) -> dict[str, str]:
    """The headers of a signed request, with a nonce that no other request has."""
    claimed = identity() if who is None else who
    return sign(key, method=method, target=target, body=body, identity=claimed, now=now, nonce=f"test-{uuid7()}")


def request_scope(
    method: str,
    target: str,
    headers: dict[str, str] | None = None,
    *,
    more: Headers | None = None,
    client: tuple[str, int] | None = STRANGER,
    kind: str = "http",
    host: str = "agents.example",
) -> dict[str, Any]:
    """An ASGI scope as Daphne makes it; `more` are raw headers beside the others."""
    path, _, query = target.partition("?")
    given = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    scope: dict[str, Any] = {
        "type": kind,
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(b"host", host.encode()), *given, *(more or [])],
        "client": client,
        "extensions": {},
    }
    return scope | ({"method": method} if kind == "http" else {})
