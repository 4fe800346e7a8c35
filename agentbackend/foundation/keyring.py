"""Key rings: secrets with names, so that a key can be replaced while the old one is still accepted.

Written as `kid:base64,kid2:base64`. The first key is active (it signs and encrypts), the others only verify
and decrypt.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_KID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_URL_SAFE_TO_STANDARD = str.maketrans("-_", "+/")


class KeyRingError(ValueError):
    """A key ring cannot be read.

    The text names the entry by its key id or its position, never by its value.
    """


@dataclass(frozen=True, slots=True)
class Key:
    """A secret and its public name; the secret stays out of `repr`."""

    kid: str
    secret: bytes = field(repr=False)


class KeyRing:
    """Keys in their order; an empty ring is falsy."""

    __slots__ = ("_keys",)

    def __init__(self, keys: tuple[Key, ...] = ()) -> None:
        self._keys = {key.kid: key for key in keys}
        if len(self._keys) != len(keys):
            raise KeyRingError("a key id stands in the ring twice")

    @classmethod
    def parse(cls, text: str, *, minimum_bytes: int = 32) -> KeyRing:
        """Read `kid:base64,...` (standard or URL-safe alphabet, padding optional).

        Raises KeyRingError for an entry without a usable key id, without base64, shorter than
        `minimum_bytes`, or named twice.
        """
        if not text.strip():
            return cls()
        keys: list[Key] = []
        for position, entry in enumerate(text.split(","), start=1):
            key = _read_entry(entry.strip(), position, minimum_bytes)
            if any(key.kid == other.kid for other in keys):
                raise KeyRingError(f"entry {position}: the key id {key.kid!r} stands in the ring twice")
            keys.append(key)
        return cls(tuple(keys))

    @property
    def active(self) -> Key:
        """The key that signs and encrypts; raises KeyRingError when the ring is empty."""
        for key in self:
            return key
        raise KeyRingError("the key ring is empty")

    def get(self, kid: str) -> Key | None:
        """The key of this name, active or not."""
        return self._keys.get(kid)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys.values())

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self._keys)})"


def _read_entry(entry: str, position: int, minimum_bytes: int) -> Key:
    kid, separator, encoded = entry.partition(":")
    if not separator:
        # Without a colon the whole entry may be a secret: it is named by its position alone.
        raise KeyRingError(f"entry {position}: expected kid:base64")
    if _KID.fullmatch(kid) is None:
        raise KeyRingError(f"entry {position}: the key id must be 1-64 letters, digits, '.', '_' or '-'")
    secret = _decode(encoded.strip(), f"entry {position} ({kid!r})")
    if len(secret) < minimum_bytes:
        raise KeyRingError(f"entry {position} ({kid!r}): {len(secret)} bytes are too few, the least is {minimum_bytes}")
    return Key(kid, secret)


def _decode(encoded: str, name: str) -> bytes:
    standard = encoded.rstrip("=").translate(_URL_SAFE_TO_STANDARD)
    try:
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError):
        # Not chained: the cause would show the value in a traceback.
        raise KeyRingError(f"{name}: the key is not base64") from None
