"""The addresses of A2A on the raw ASGI scope.

`PublicCards` answers to everybody: the cards of exposed agents and the key set that verifies them. `A2AApplication` stands behind
gateway authentication, which has checked signature and first use, has read the whole body (1 MiB at most), and has put `actor` and
`request_id` into the scope; the bindings themselves are the SDK's (`a2a.sdk_server`).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import MutableMapping
from dataclasses import dataclass
from email.utils import format_datetime
from typing import Any, Final

import orjson
import psycopg
from django.http.request import split_domain_port, validate_host
from psycopg_pool import PoolTimeout
from starlette.requests import Request

from a2a.cards import CARD_PATH, KEY_SET_PATH, PREFIX, card_of
from a2a.run_port import ExposedAgent, RunPort
from a2a.sdk_cards import signed_card
from a2a.sdk_server import Protocol
from a2a.serving.task_service import TaskService
from a2a.signing_keys import SigningKeys
from a2a.tck_agent import SLUG as TCK_SLUG
from agentbackend.foundation import metrics
from agentbackend.foundation.problems import Problem
from audit import actions
from audit.entry import Outcome, Target, entry
from tools import process

logger = logging.getLogger(__name__)

Scope = dict[str, Any]
Headers = list[tuple[bytes, bytes]]

CARD_SECONDS: Final = 300
"""How long a card may be kept by who fetched it."""
_MOST_CARDS: Final = 1000
_MEDIA_TYPES: Final = (b"application/json", b"application/a2a+json")
_SDK_MEDIA_TYPE: Final = b"application/a2a+json"
_OURS: Final = (
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
)


@dataclass(frozen=True, slots=True)
class Publisher:
    """How this service is reached and what it signs with. `public_url` empty: by the name that the caller used."""

    keys: SigningKeys
    public_url: str = ""
    allowed_hosts: tuple[str, ...] = ()

    def base(self, scope: Scope) -> str:
        """The service's address for this caller; raises Problem for a name that is not its own."""
        if self.public_url:
            return self.public_url
        host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
        domain, _ = split_domain_port(host)
        if not domain or not validate_host(domain, self.allowed_hosts):
            raise Problem("invalid_host", field="Host")
        return f"{scope.get('scheme', 'http')}://{host}"


@dataclass(frozen=True, slots=True)
class _Card:
    body: bytes
    tag: bytes
    modified: bytes


class PublicCards:
    """The cards of exposed agents and the key set, for everybody. A card is signed once and kept: its signature is never twice the same."""

    def __init__(self, runs: RunPort, publisher: Publisher, tck: ExposedAgent | None = None) -> None:
        self._runs = runs
        self._publisher = publisher
        self._tck = tck
        self._cards: dict[tuple[ExposedAgentKey, str], _Card] = {}

    @staticmethod
    def takes(path: str) -> bool:
        """Whether this is a card's address below an agent's."""
        return path.startswith(PREFIX) and path.endswith(CARD_PATH)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """ASGI's entry point."""
        try:
            if scope["method"] not in ("GET", "HEAD"):
                raise Problem("method_not_allowed", headers=((b"allow", b"GET, HEAD"),))
            base = self._publisher.base(scope)
            if scope["path"] == KEY_SET_PATH:
                await _answer(
                    scope, send, 200, orjson.dumps(self._publisher.keys.key_set()), _cached(b"application/json")
                )
                return
            card = self._card(await self._agent(scope["path"]), base)
            headers = [*_cached(b"application/json"), (b"etag", card.tag), (b"last-modified", card.modified)]
            given = next((value for name, value in scope["headers"] if name == b"if-none-match"), b"")
            fresh = card.tag in [tag.strip() for tag in given.split(b",")]
            await _answer(scope, send, 304 if fresh else 200, b"" if fresh else card.body, headers)
        except Problem as problem:
            metrics.requests_refused.labels(code=problem.code).inc()
            await _refuse(scope, send, problem)
        except (psycopg.Error, PoolTimeout, OSError):
            logger.exception("an agent's card could not be read")
            await _refuse(scope, send, Problem("unavailable", headers=((b"retry-after", b"2"),)))

    async def _agent(self, path: str) -> ExposedAgent:
        slug = path[len(PREFIX) : -len(CARD_PATH)] if path != CARD_PATH else ""
        agent = await exposed_agent(self._runs, slug, self._tck)
        if agent is None or "/" in slug:
            raise Problem("not_found", "There is no agent here.")
        return agent

    def _card(self, agent: ExposedAgent, base: str) -> _Card:
        key = (key_of(agent), base)
        card = self._cards.get(key)
        if card is None:
            if len(self._cards) >= _MOST_CARDS:
                self._cards.clear()
            document = signed_card(card_of(agent, base), self._publisher.keys.active, base + KEY_SET_PATH)
            body = orjson.dumps(document)
            modified = format_datetime(agent.changed_at, usegmt=True).encode()
            # Other processes sign differently: the tag is that of what is said.
            said = orjson.dumps({**document, "signatures": []}, option=orjson.OPT_SORT_KEYS)
            card = self._cards[key] = _Card(body, b'"%b"' % hashlib.sha256(said).hexdigest()[:32].encode(), modified)
        return card


ExposedAgentKey = tuple[str, str]


def key_of(agent: ExposedAgent) -> ExposedAgentKey:
    """What is another one when an agent's card is."""
    return agent.slug, agent.changed_at.isoformat()


async def exposed_agent(runs: RunPort, slug: str, tck: ExposedAgent | None) -> ExposedAgent | None:
    """The agent of this slug, the test kit's among them where it is on; an empty slug is the default agent's."""
    return tck if tck is not None and slug == TCK_SLUG else await runs.exposed(slug)


class A2AApplication:
    """`/a2a/{slug}` and what is below it: one agent, both bindings."""

    def __init__(self, service: TaskService, publisher: Publisher) -> None:
        self._service = service
        self._publisher = publisher
        self._protocol = Protocol(service, publisher.keys)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """ASGI's entry point."""
        answer = _Answer(send)
        try:
            await self._serve(scope, receive, answer)
        except Problem as problem:
            await self._refused(scope, send, problem, answer)
        except (psycopg.Error, PoolTimeout, OSError):
            logger.exception("the database was not available for an A2A request")
            await self._refused(scope, send, Problem("unavailable", headers=((b"retry-after", b"2"),)), answer)

    async def _serve(self, scope: Scope, receive: Any, answer: _Answer) -> None:
        slug, _, rest = scope["path"].removeprefix(PREFIX).partition("/")
        agent = await exposed_agent(self._service.runs, slug, self._service.tck.agent if self._service.tck else None)
        operation = self._protocol.operation(scope["method"], rest.rstrip("/")) if slug and agent is not None else None
        if operation is None:
            raise Problem("not_found", "There is no agent here, or it has no such operation.")
        _check_content_type(scope)
        _record(scope, actions.REQUEST_OPENED, {"agent": slug, "operation": rest or "json-rpc"})
        scope = {**scope, "a2a_agent": agent, "a2a_base": self._publisher.base(scope)}
        request = Request(scope, receive)
        response = await operation(request)
        await response(scope, receive, answer.send)

    async def _refused(self, scope: Scope, send: Any, problem: Problem, answer: _Answer) -> None:
        metrics.requests_refused.labels(code=problem.code).inc()
        _record(scope, actions.REQUEST_REFUSED, {"status": problem.kind.status}, Outcome.DENIED, problem.code)
        if answer.opened:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await _refuse(scope, send, problem)


class _Answer:
    """Sends the SDK's answers with our headers."""

    def __init__(self, send: Any) -> None:
        self._send = send
        self.opened = False

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """ASGI's `send`. Answers of HTTP+JSON are plain JSON, which every client takes."""
        if message["type"] == "http.response.start":
            self.opened = True
            kept = [
                (name, b"application/json" if name == b"content-type" and value.startswith(_SDK_MEDIA_TYPE) else value)
                for name, value in message["headers"]
                if name != b"connection" and name not in dict(_OURS)
            ]
            message = {**message, "headers": [*kept, *_OURS]}
        await self._send(message)


def _check_content_type(scope: Scope) -> None:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    if scope["method"] != "POST" or (headers.get(b"content-length", b"0") == b"0" and b"content-type" not in headers):
        return
    if headers.get(b"content-type", b"").split(b";")[0].strip().lower() not in _MEDIA_TYPES:
        raise Problem("unsupported_media_type", field="Content-Type")


def _cached(media_type: bytes) -> Headers:
    return [
        (b"content-type", media_type),
        (b"cache-control", b"public, max-age=%d" % CARD_SECONDS),
        (b"x-content-type-options", b"nosniff"),
        (b"access-control-allow-origin", b"*"),
    ]


async def _answer(scope: Scope, send: Any, status: int, body: bytes, headers: Headers) -> None:
    if status != 304:
        headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


async def _refuse(scope: Scope, send: Any, problem: Problem) -> None:
    headers = [(b"content-type", b"application/problem+json"), *problem.headers, *_OURS]
    await _answer(scope, send, problem.kind.status, problem.body(scope.get("request_id", "")), headers)


def _record(
    scope: Scope,
    action: str,
    details: dict[str, Any],
    outcome: Outcome = Outcome.SUCCESS,
    reason: str = "",
) -> None:
    process.recorder().note(
        entry(
            action,
            actor=scope["actor"],
            outcome=outcome,
            target=Target("address", scope["path"]),
            reason=reason,
            request_id=scope["request_id"],
            details=details,
        )
    )
