"""The payload of an event, and the envelope's commitment to it.

The commitment is an HMAC under a random key that lies beside the payload and is deleted with it: afterwards
not even a short text can be guessed from the digest, and the envelope stays as it was.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from audit.canonical import payload_bytes
from audit.redaction import clean

KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Payload:
    """Details as they are stored: canonical JSON and the key of their commitment."""

    key: bytes
    body: bytes

    @property
    def commitment(self) -> str:
        """HMAC-SHA256 of the body under the key, in hexadecimal."""
        return hmac.new(self.key, self.body, hashlib.sha256).hexdigest()

    def matches(self, commitment: str) -> bool:
        """Whether this is what the envelope committed to."""
        return hmac.compare_digest(self.commitment, commitment)


def pack(details: Mapping[str, Any]) -> Payload:
    """Details cleaned, bounded, written as JSON and given a key of their own."""
    return Payload(secrets.token_bytes(KEY_BYTES), payload_bytes(clean(details)))
