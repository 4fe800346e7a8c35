"""Stable stand-ins for what may not be written into the envelope: addresses, and identifiers that do not
fit its rules.

The digest is keyed with the service's secret, so that an address or an e-mail cannot be found by trying
them all. A new `DJANGO_SECRET_KEY` gives new stand-ins: rows before and after it are then not linked by
them.
"""

from __future__ import annotations

import hashlib

from django.conf import settings

from audit.actor import Actor

PREFIX = "h:"


def pseudonym(value: str) -> str:
    """`h:` and 32 hexadecimal digits, the same for the same value under the same secret key."""
    key = hashlib.sha256(b"audit.pseudonym:" + settings.SECRET_KEY.encode()).digest()
    digest = hashlib.blake2b(value.encode("utf-8", "surrogatepass"), key=key, digest_size=16)
    return PREFIX + digest.hexdigest()


def stranger(source: str) -> Actor:
    """The actor of a request that was not authenticated; `source` is its network address, or what else is
    known.
    """
    return Actor(id=pseudonym(source) if source else "unknown", kind="stranger", role="stranger")
