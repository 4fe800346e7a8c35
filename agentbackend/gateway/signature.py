"""The gateway's signature, version SBGW1: HMAC-SHA256 over one request and the identity it is made for.

What is signed, joined by newlines (no field can hold one): the version, key id, Unix seconds, nonce, method,
path and query exactly as sent, the body's SHA-256 (hexadecimal), and the five identity headers. So a
signature is good for one call of one person, for a minute. docs/gateway.md describes the format for gateways.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

from agentbackend.foundation.keyring import Key, KeyRing
from agentbackend.foundation.problems import Problem
from agentbackend.gateway.headers import (
    ASSURANCE,
    GATEWAY_SESSION,
    USER_EMAIL,
    USER_ID,
    USER_ROLE,
    RequestHeaders,
)

VERSION = "SBGW1"
ALLOWED_SKEW_SECONDS = 60
SIGNED_HEADERS = (USER_ID, USER_EMAIL, USER_ROLE, ASSURANCE, GATEWAY_SESSION)

_KEY_ID = "x-gateway-key-id"
_TIMESTAMP = "x-gateway-timestamp"
_NONCE = "x-gateway-nonce"
_DIGEST = "x-gateway-content-sha256"
_SIGNATURE = "x-gateway-signature"
_SIGNATURE_HEADERS = (_KEY_ID, _TIMESTAMP, _NONCE, _DIGEST, _SIGNATURE)

_SECONDS = re.compile(r"[0-9]{1,12}")
_USABLE_NONCE = re.compile(r"[\x21-\x7e]{16,128}")
_USABLE_SIGNATURE = re.compile(r"v1=[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class SignatureClaim:
    """The signature's own headers, well-formed, recent and made with a key that we hold; not verified yet."""

    key: Key
    timestamp: int
    nonce: str
    digest: str
    signature: str

    def verify(self, headers: RequestHeaders, *, method: str, target: str, body: bytes) -> None:
        """Compare with what the request really is.

        Raises Problem `invalid_signature`, which does not say what differs.
        """
        digest = hashlib.sha256(body).hexdigest()
        identity = {name: headers.get(name) for name in SIGNED_HEADERS}
        expected = _signature(self.key, str(self.timestamp), self.nonce, method, target, digest, identity)
        if not hmac.compare_digest(expected, self.signature) or self.digest not in ("", digest):
            raise _refused()


def is_signed(headers: RequestHeaders) -> bool:
    """Whether the request carries a signature or a part of one.

    Then it is verified, whatever else would be allowed.
    """
    return any(name in headers for name in _SIGNATURE_HEADERS)


def read_claim(headers: RequestHeaders, keys: KeyRing, *, now: float) -> SignatureClaim:
    """Check what needs no body.

    `now` is in Unix seconds. Raises Problem `invalid_signature` or `stale_signature`.
    """
    key = keys.get(headers.get(_KEY_ID))
    seconds, nonce, signature = headers.get(_TIMESTAMP), headers.get(_NONCE), headers.get(_SIGNATURE)
    well_formed = (
        _SECONDS.fullmatch(seconds) and _USABLE_NONCE.fullmatch(nonce) and _USABLE_SIGNATURE.fullmatch(signature)
    )
    if key is None or not well_formed or seconds != str(int(seconds)):
        raise _refused()
    if abs(now - int(seconds)) > ALLOWED_SKEW_SECONDS:
        raise Problem("stale_signature")
    return SignatureClaim(key, int(seconds), nonce, headers.get(_DIGEST), signature)


def sign(
    key: Key,
    *,
    method: str,
    target: str,
    identity: Mapping[str, str],
    body: bytes = b"",
    now: float | None = None,
    nonce: str = "",
) -> dict[str, str]:
    """The headers that a gateway sends: the identity (lower-case names) and its signature.

    The service never signs for others: this is for tests, benchmarks and local tools, and documents the
    format.
    """
    seconds = str(int(time.time() if now is None else now))
    nonce = nonce or secrets.token_urlsafe(24)
    digest = hashlib.sha256(body).hexdigest()
    return {
        **identity,
        _KEY_ID: key.kid,
        _TIMESTAMP: seconds,
        _NONCE: nonce,
        _DIGEST: digest,
        _SIGNATURE: _signature(key, seconds, nonce, method, target, digest, identity),
    }


def _signature(
    key: Key, seconds: str, nonce: str, method: str, target: str, digest: str, identity: Mapping[str, str]
) -> str:
    fields = (
        VERSION,
        key.kid,
        seconds,
        nonce,
        method,
        target,
        digest,
        *(identity.get(name, "") for name in SIGNED_HEADERS),
    )
    return "v1=" + hmac.new(key.secret, "\n".join(fields).encode(), hashlib.sha256).hexdigest()


def _refused() -> Problem:
    return Problem("invalid_signature", "The request carries no valid signature of the gateway.")
