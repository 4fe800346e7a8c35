"""Who acts in the console, as the audit trail sees them."""

from __future__ import annotations

from typing import Any
from uuid import NAMESPACE_URL, uuid5

from audit.actor import Actor
from audit.pseudonyms import stranger


def console_actor(user: Any) -> Actor:
    """The actor of a signed-in console user; `user` is Django's."""
    role = "superuser" if user.is_superuser else "staff" if user.is_staff else "user"
    return Actor(
        id=f"console:{user.pk}",
        kind="console",
        role=role,
        email=user.email,
        authenticated_by="console_session",
    )


def caller_id(user: Any) -> str:
    """The id under which a console user calls agents in the playground: one of its own for each account."""
    return str(uuid5(NAMESPACE_URL, f"console:{user.pk}"))


def request_actor(request: Any) -> Actor:
    """The actor of a console request: its user, or a stranger by address when nobody is signed in."""
    user = getattr(request, "user", None)
    if user is not None and user.is_authenticated:
        return console_actor(user)
    return stranger(remote_address(request))


def remote_address(request: Any) -> str:
    """The address of the request's direct peer; forwarding headers are not trusted here."""
    return request.META.get("REMOTE_ADDR") or "" if request is not None else ""


def request_id(request: Any) -> str:
    """The id under which the request is logged, where a middleware gave it one."""
    scope = getattr(request, "scope", None) or {}
    return str(scope.get("request_id", "")) if isinstance(scope, dict) else ""
