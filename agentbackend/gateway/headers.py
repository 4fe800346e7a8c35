"""Reading what the gateway says from raw ASGI headers, where nothing has been merged or dropped yet."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from agentbackend.foundation.identifiers import is_public_id, is_user_id, uuid7
from agentbackend.foundation.problems import Problem

RawHeaders = Iterable[tuple[bytes, bytes]]

USER_ID = "x-supabase-user-id"
USER_EMAIL = "x-supabase-user-email"
USER_ROLE = "x-supabase-user-role"
ASSURANCE = "x-gateway-aal"
GATEWAY_SESSION = "x-gateway-session-id"
SESSION_ID = "x-session-id"

DEFAULT_ROLE = "user"

_GATEWAY_PREFIXES = ("x-supabase-", "x-gateway-")
# Beside the gateway's own: where two values would let two readers of one request see different ones.
_SINGLE = frozenset(
    {
        "authorization",
        "content-length",
        "host",
        "idempotency-key",
        "last-event-id",
        "origin",
        "sec-fetch-site",
        SESSION_ID,
    }
)
_FORWARDING_PREFIXES = ("forwarded", "x-forwarded", "x-original-", "x-envoy-", "cf-")
_FORWARDING = frozenset(
    {"via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "fastly-client-ip"}
)
_PRINTABLE_ASCII = re.compile(r"[\x20-\x7e]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ROLE = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_LONGEST_EMAIL = 320
_LONGEST_SESSION = 128


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """The headers that authentication reads, by lower-case name.

    `forwarded`: an intermediary has added its own.
    """

    values: dict[str, str]
    forwarded: bool

    def get(self, name: str) -> str:
        """The header's value, empty when it is not there."""
        return self.values.get(name, "")

    def __contains__(self, name: str) -> bool:
        return name in self.values


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the headers say is calling: not believed until the signature is."""

    user_id: str
    email: str
    role: str
    gateway_session: str


def read_headers(raw: RawHeaders) -> RequestHeaders:
    """Collect the headers that matter here.

    Raises Problem `malformed_headers` when one stands there twice, is spelt with underscores (which some
    servers map to the same variable) or, being the gateway's, holds anything but printable ASCII.
    """
    values: dict[str, str] = {}
    forwarded = False
    for raw_name, raw_value in raw:
        name = raw_name.decode("latin-1").lower()
        plain = name.replace("_", "-")
        forwarded = forwarded or plain in _FORWARDING or plain.startswith(_FORWARDING_PREFIXES)
        from_gateway = plain.startswith(_GATEWAY_PREFIXES)
        if not from_gateway and plain not in _SINGLE:
            continue
        value = raw_value.decode("latin-1")
        if name != plain or name in values:
            raise Problem("malformed_headers", f"The header {plain} is given twice or with underscores.", field=plain)
        if from_gateway and _PRINTABLE_ASCII.fullmatch(value) is None:
            raise Problem("malformed_headers", f"The header {plain} must be printable ASCII.", field=plain)
        values[name] = value
    return RequestHeaders(values, forwarded)


def read_identity(headers: RequestHeaders) -> Identity:
    """Who calls.

    Raises Problem: `invalid_user_id`, `malformed_headers` for an e-mail or session that cannot be decoded.
    """
    user_id = headers.get(USER_ID)
    if not is_user_id(user_id):
        raise Problem("invalid_user_id", field="X-Supabase-User-ID")
    return Identity(
        user_id=user_id,
        email=_decoded(headers, USER_EMAIL, _LONGEST_EMAIL),
        role=usable_role(headers.get(USER_ROLE)) or DEFAULT_ROLE,
        gateway_session=_decoded(headers, GATEWAY_SESSION, _LONGEST_SESSION),
    )


def usable_role(value: object) -> str:
    """The application role as given, or empty when it is none."""
    return value if isinstance(value, str) and _ROLE.fullmatch(value) else ""


def read_session_id(headers: RequestHeaders) -> str:
    """The caller's own session name (empty: none). Raises Problem `invalid_header`."""
    if SESSION_ID not in headers:
        return ""
    value = headers.get(SESSION_ID)
    if not is_public_id(value):
        raise Problem("invalid_header", "X-Session-ID must be 1-128 visible ASCII characters.", field="X-Session-ID")
    return value


def read_request_id(raw: RawHeaders) -> str:
    """The caller's request id where it is usable, otherwise a new one: it never is a reason to refuse."""
    given = [value.decode("latin-1") for name, value in raw if name.lower() == b"x-request-id"]
    return given[0] if len(given) == 1 and is_public_id(given[0]) else str(uuid7())


def _decoded(headers: RequestHeaders, name: str, longest: int) -> str:
    """A value that the gateway percent-encoded because it need not be ASCII."""
    try:
        text = unquote(headers.get(name), errors="strict")
    except UnicodeDecodeError:
        text = "\0"
    if len(text) > longest or _CONTROL.search(text):
        raise Problem("malformed_headers", f"The header {name} has no usable value.", field=name)
    return text
