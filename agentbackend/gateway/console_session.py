"""The playground's way in outside debug: the console's session instead of the gateway's headers.

What changes something is a POST and comes from a page of this host: a session cookie alone proves no intent. What is only read
(a run's events, threads) is refused to other sites' pages where the browser says so; none could read the answer anyway.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable
from channels.auth import AuthMiddlewareStack
from django.contrib.auth.models import AbstractUser, AnonymousUser
from django.http.request import split_domain_port, validate_host

from agentbackend.foundation.problems import Problem
from agentbackend.gateway.answers import answer_problem, echoing
from agentbackend.gateway.authentication import Application, Observer, Scope, client_address
from agentbackend.gateway.body import ClientGoneError, read_body, replaying
from agentbackend.gateway.headers import RequestHeaders, read_headers, read_request_id
from audit.actor import Actor
from audit.console_actor import caller_id

PLAYGROUND_PERMISSION = "orchestration.use_playground"


class ConsoleSessionAuthentication:
    """Lets signed-in console users through, as actors of their own kind."""

    def __init__(self, application: Application, *, allowed_hosts: Iterable[str], observer: Observer) -> None:
        self._application = application
        self._allowed_hosts = list(allowed_hosts)
        self._observer = observer
        self._with_user = AuthMiddlewareStack(self._with_session)

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """ASGI's entry point."""
        request_id = scope.get("request_id") or read_request_id(scope["headers"])
        scope = {**scope, "request_id": request_id, "session_id": ""}
        await self._with_user(scope, receive, send)

    async def _with_session(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        try:
            headers = read_headers(scope["headers"])
            self._check_origin(scope, headers)
            actor = await console_actor(scope["user"])
            body = await read_body(receive, headers)
        except Problem as problem:
            self._observer.refused(scope, problem.code, client_address(scope))
            await answer_problem(problem, scope, send)
            return
        except ClientGoneError:
            return
        scope["actor"] = actor
        self._observer.accepted(actor, scope)
        await self._application(scope, replaying(body, receive), echoing(scope, send))

    def _check_origin(self, scope: Scope, headers: RequestHeaders) -> None:
        if scope["method"] not in ("GET", "POST"):
            raise Problem("method_not_allowed", headers=((b"allow", b"GET, POST"),))
        host = headers.get("host")
        domain, _ = split_domain_port(host)
        if not domain or not validate_host(domain, self._allowed_hosts):
            raise Problem("invalid_host", field="Host")
        if not _is_own_page(scope["method"], headers, host):
            raise Problem("forbidden", "Only the playground's own page may use the console's session.", field="Origin")


def _is_own_page(method: str, headers: RequestHeaders, host: str) -> bool:
    """Browsers send `Origin` with a POST always, with a GET only from elsewhere; `Sec-Fetch-Site` where the context is secure."""
    origin = headers.get("origin")
    if method == "POST" or origin:
        return urlsplit(origin).netloc.lower() == host.lower()
    return headers.get("sec-fetch-site") in ("", "same-origin")


async def console_actor(user: AbstractUser | AnonymousUser) -> Actor:
    """The actor that a console user is in the playground: an id of its own, role `admin` for superusers only."""
    if not user.is_authenticated or not user.is_active or not await user.ahas_perm(PLAYGROUND_PERMISSION):
        raise Problem("unauthenticated", "Sign in to the console with an account that may use the playground.")
    return Actor(
        id=caller_id(user),
        kind="console",
        role="admin" if user.is_superuser else "user",
        email=user.email,
        authenticated_by="console_session",
    )
