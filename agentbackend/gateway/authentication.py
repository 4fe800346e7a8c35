"""Gateway authentication around ASGI applications, for Channels consumers and Django's views alike.

It stands on the raw scope: a consumer has none of the protection that Django's request object gives. An
application behind it finds in its scope `actor` (audit.actor.Actor), `request_id` and `session_id` (texts;
the latter empty when the caller names none), and reads the body from `receive` as if nobody had. A refusal is
answered here, before anything is stored.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable
from django.http.request import split_domain_port, validate_host

from agentbackend.foundation.keyring import KeyRing
from agentbackend.foundation.outbound import OutboundPolicy
from agentbackend.foundation.problems import Problem
from agentbackend.gateway.answers import answer_problem, echoing
from agentbackend.gateway.body import ClientGoneError, read_body, replaying
from agentbackend.gateway.headers import (
    Identity,
    RequestHeaders,
    read_headers,
    read_identity,
    read_request_id,
    read_session_id,
)
from agentbackend.gateway.nonces import use_nonce
from agentbackend.gateway.signature import is_signed, read_claim
from agentbackend.gateway.token_keys import TokenKeys
from agentbackend.gateway.tokens import TokenVerifier
from audit.actor import Actor, AuthenticationMethod

logger = logging.getLogger(__name__)

Scope = dict[str, Any]
Application = Callable[[Any, Any, Any], Any]
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_RUN_STARTING_PATH = "/ag-ui/events"  # the one address where a GET starts a run


class Observer(Protocol):
    """Is told of each decision. Its methods must not block; what they queue, others write."""

    def accepted(self, actor: Actor, scope: Scope) -> None:
        """The request goes on to the application."""
        ...

    def refused(self, scope: Scope, code: str, source_ip: str) -> None:
        """The request was answered with this problem code."""
        ...


class GatewaySettings(Protocol):
    """The settings that make an authenticator."""

    DEBUG: bool
    ALLOWED_HOSTS: list[str]
    GATEWAY_SIGNING_KEYS: KeyRing
    GATEWAY_UNSIGNED_FROM: list[str]
    SUPABASE_URL: str
    SUPABASE_JWT_SECRET: str


class GatewaySettingsError(ValueError):
    """A setting cannot be read; the text begins with its name."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that may pass: who sends it, under which session name, and its body."""

    actor: Actor
    session_id: str
    body: bytes


class Authenticator:
    """Decides about requests; one per process, shared by all applications behind the gateway."""

    def __init__(
        self,
        *,
        keys: KeyRing,
        allowed_hosts: Iterable[str],
        observer: Observer,
        debug: bool = False,
        unsigned_from: Iterable[str] = (),
        tokens: TokenVerifier | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.observer = observer
        self._keys = keys
        self._allowed_hosts = list(allowed_hosts)
        self._unsigned_from = _networks(unsigned_from) if debug else ()
        self._tokens = tokens
        self._clock = clock
        self._warned = False

    @classmethod
    def from_settings(cls, settings: GatewaySettings, *, observer: Observer, policy: OutboundPolicy) -> Authenticator:
        """The authenticator of the settings.

        `policy` must allow the host of SUPABASE_URL (see `key_set_host`).
        """
        return cls(
            keys=settings.GATEWAY_SIGNING_KEYS,
            allowed_hosts=settings.ALLOWED_HOSTS,
            observer=observer,
            debug=settings.DEBUG,
            unsigned_from=settings.GATEWAY_UNSIGNED_FROM,
            tokens=_token_verifier(settings, policy),
        )

    async def admit(self, scope: Scope, receive: ASGIReceiveCallable) -> Admitted:
        """Check a request from its outside inwards; raises Problem or ClientGoneError.

        A signature is spent last, so that a request refused for another reason can be sent again.
        """
        headers = read_headers(scope["headers"])
        self._check_host(headers)
        session_id = read_session_id(headers)
        signed = is_signed(headers)
        claim = read_claim(headers, self._keys, now=self._clock()) if signed else None
        if claim is None:
            self._check_unsigned(scope, headers)
        body = await read_body(receive, headers) if scope["type"] == "http" else b""
        if claim is not None:
            claim.verify(headers, method=_method(scope), target=request_target(scope), body=body)
        identity = read_identity(headers)
        if self._tokens is not None:
            await self._tokens.verify(headers, identity)
        if claim is not None and starts_something(scope, headers):
            await use_nonce(claim)
        return Admitted(self._actor(identity, signed=signed), session_id, body)

    async def aclose(self) -> None:
        """Close the connections to the key set."""
        if self._tokens is not None:
            await self._tokens.aclose()

    def _check_host(self, headers: RequestHeaders) -> None:
        domain, _ = split_domain_port(headers.get("host"))
        if not domain or not validate_host(domain, self._allowed_hosts):
            raise Problem("invalid_host", field="Host")

    def _check_unsigned(self, scope: Scope, headers: RequestHeaders) -> None:
        """Unsigned headers are for development.

        Believed in debug only, from listed addresses, and not through a proxy.
        """
        if headers.forwarded or not self._is_listed(client_address(scope)):
            raise Problem("invalid_signature", "The request carries no valid signature of the gateway.")
        # The developer's browser shares the developer's address: without this check any page that is open in
        # it could act as any user, as far as the browser lets it send the headers.
        if "origin" in headers and urlsplit(headers.get("origin")).netloc.lower() != headers.get("host").lower():
            raise Problem("forbidden", "A page of another origin may not send unsigned headers.", field="Origin")
        if not self._warned:
            self._warned = True
            logger.warning("debug: gateway headers are accepted without a signature")

    def _is_listed(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        plain = getattr(parsed, "ipv4_mapped", None) or parsed
        return any(plain in network for network in self._unsigned_from)

    def _actor(self, identity: Identity, *, signed: bool) -> Actor:
        method: AuthenticationMethod = "gateway_signature" if signed else "gateway_headers_debug"
        return Actor(
            id=identity.user_id,
            role=identity.role,
            email=identity.email,
            authenticated_by=method,
            token_verified=self._tokens is not None,
            session_id=identity.gateway_session,
        )


class GatewayAuthentication:
    """An ASGI application that lets authenticated requests through to another one (http and websocket)."""

    def __init__(self, application: Application, authenticator: Authenticator) -> None:
        self._application = application
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """ASGI's entry point."""
        scope = {**scope, "request_id": scope.get("request_id") or read_request_id(scope["headers"])}
        observer = self._authenticator.observer
        try:
            admitted = await self._authenticator.admit(scope, receive)
        except Problem as problem:
            observer.refused(scope, problem.code, client_address(scope))
            await answer_problem(problem, scope, send)
            return
        except ClientGoneError:
            return
        scope |= {"actor": admitted.actor, "session_id": admitted.session_id}
        observer.accepted(admitted.actor, scope)
        if scope["type"] == "http":
            receive = replaying(admitted.body, receive)
        await self._application(scope, receive, echoing(scope, send))


def starts_something(scope: Scope, headers: RequestHeaders) -> bool:
    """Whether a second use of the request would do something again, so that its nonce must be kept."""
    if scope["type"] == "websocket" or _method(scope) not in _READING_METHODS:
        return True
    at_run_start = scope["path"].rstrip("/") == _RUN_STARTING_PATH
    return at_run_start and _method(scope) == "GET" and "last-event-id" not in headers


def request_target(scope: Scope) -> str:
    """Path and query exactly as they were sent.

    Decoding is not one-to-one, so the signature covers the raw form.
    """
    raw = scope.get("raw_path") or b""
    path = raw.partition(b"?")[0].decode("latin-1")  # some servers leave the query on the raw path
    query = scope.get("query_string", b"").decode("latin-1")
    return f"{path}?{query}" if query else path


def client_address(scope: Scope) -> str:
    """The address at the other end of the connection, empty where the server knows none."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def key_set_host(supabase_url: str) -> list[str]:
    """What OutboundPolicy must allow beside the settings' own list: `host:port` of SUPABASE_URL.

    Raises GatewaySettingsError when it is no http(s) URL.
    """
    if not supabase_url:
        return []
    try:
        parts = urlsplit(supabase_url)
        port = parts.port or {"https": 443, "http": 80}[parts.scheme]
    except (ValueError, KeyError):
        raise GatewaySettingsError("SUPABASE_URL: must begin with https:// or http://.") from None
    if not parts.hostname or parts.username or parts.query or parts.fragment:
        raise GatewaySettingsError("SUPABASE_URL: must be the project's address and nothing more.")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return [f"{host}:{port}"]


def _method(scope: Scope) -> str:
    return str(scope.get("method", "GET")).upper()


def _networks(entries: Iterable[str]) -> tuple[IPNetwork, ...]:
    found: list[IPNetwork] = []
    for entry in entries:
        try:
            found.append(ipaddress.ip_network(entry, strict=False))
        except ValueError:
            raise GatewaySettingsError(f"GATEWAY_UNSIGNED_FROM: {entry!r} is no address or network.") from None
    return tuple(found)


def _token_verifier(settings: GatewaySettings, policy: OutboundPolicy) -> TokenVerifier | None:
    if not settings.SUPABASE_URL and not settings.SUPABASE_JWT_SECRET:
        return None
    issuer = f"{settings.SUPABASE_URL}/auth/v1" if settings.SUPABASE_URL else ""
    keys = TokenKeys(f"{issuer}/.well-known/jwks.json", policy) if issuer else None
    return TokenVerifier(issuer=issuer, keys=keys, secret=settings.SUPABASE_JWT_SECRET)
