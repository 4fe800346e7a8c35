"""Who does something: the one description of a caller that all rooms share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ActorKind = Literal["user", "console", "service", "system", "stranger"]
AuthenticationMethod = Literal["gateway_signature", "gateway_headers_debug", "console_session", "none"]

DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody who acts, as authenticated.

    `id` is pseudonymous: a lower-case UUID for users, `console:<pk>` for console users, a keyed digest for strangers. `role` is
    the application role (`user` when the gateway names none). `email` may reach prompts' callers and payloads, never the audit
    envelope. `on_behalf_of` is the id of the person for whom a service acts.
    """

    id: str
    kind: ActorKind = "user"
    role: str = "user"
    tenant: str = DEFAULT_TENANT
    email: str = ""
    authenticated_by: AuthenticationMethod = "none"
    token_verified: bool = False
    session_id: str = ""
    on_behalf_of: str = ""


SYSTEM = Actor(id="system", kind="system", role="system")
