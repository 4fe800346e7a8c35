"""The keys that sign cards and push notifications: private keys on P-256 (ES256), and the key set that publishes their other halves.

A2A_SIGNING_KEYS is written `kid:base64` like the other rings; the bytes are a private key in PKCS #8, DER or PEM. The first one signs,
all of them are published, so that a card signed before a change can be verified after it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.utils import base64url_encode

from agentbackend.foundation.keyring import KeyRing, KeyRingError

_COORDINATE_BYTES = 32


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key and its public name."""

    kid: str
    private: ec.EllipticCurvePrivateKey = field(repr=False)

    def public_jwk(self) -> dict[str, str]:
        """What verifies its signatures (RFC 7517)."""
        numbers = self.private.public_key().public_numbers()
        x, y = (base64url_encode(value.to_bytes(_COORDINATE_BYTES, "big")).decode() for value in (numbers.x, numbers.y))
        return {"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": self.kid, "use": "sig", "alg": "ES256"}


class SigningKeys:
    """Keys in their order; there may be none."""

    def __init__(self, keys: Iterable[SigningKey] = ()) -> None:
        self._keys = tuple(keys)

    @classmethod
    def of(cls, ring: KeyRing) -> SigningKeys:
        """Read the ring's private keys; raises KeyRingError that names the key which is none."""
        return cls(SigningKey(key.kid, _private_key(key.kid, key.secret)) for key in ring)

    @property
    def active(self) -> SigningKey | None:
        """The key that signs, if there is one."""
        return self._keys[0] if self._keys else None

    def key_set(self) -> dict[str, Any]:
        """All public keys (a JWK Set)."""
        return {"keys": [key.public_jwk() for key in self._keys]}


def _private_key(kid: str, data: bytes) -> ec.EllipticCurvePrivateKey:
    load = serialization.load_pem_private_key if data.startswith(b"-----") else serialization.load_der_private_key
    try:
        key = load(data, password=None)
    except (ValueError, TypeError):
        # Not chained: the cause may quote the key.
        raise KeyRingError(f"{kid!r} is no private key in PKCS #8 (DER or PEM, without a password)") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeyRingError(f"{kid!r} is no key on the curve P-256")
    return key
