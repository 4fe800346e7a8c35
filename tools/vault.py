"""Sealing secrets: AES-256-GCM under the keys of VAULT_KEYS.

Each sealed value is bound to its purpose and name (as associated data), so that one credential's ciphertext cannot be put in
the place of another's. The first key of the ring seals; all of them open, so a key is replaced by putting a new one before it,
sealing everything again (`manage.py rotate_credentials`), and taking the old one out.

Stored form: 12 bytes of nonce, then the ciphertext with its tag (NIST SP 800-38D); beside it the key's id.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

from agentbackend.foundation.keyring import Key, KeyRing

CREDENTIAL: Final = "credential"

_NONCE_BYTES = 12


class VaultError(Exception):
    """A secret cannot be sealed or opened; the text is for an operator and holds no secret."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A secret as it is stored: the id of its key, nonce and ciphertext."""

    kid: str
    data: bytes = field(repr=False)


def seal(value: str, *, purpose: str, name: str) -> Sealed:
    """Encrypt a secret under the active key; raises VaultError when there is none, or when the secret is no text."""
    ring = _ring()
    if not len(ring):
        raise VaultError("VAULT_KEYS is not set: nothing can be kept encrypted.")
    try:
        plain = value.encode()
    except UnicodeEncodeError:
        # Not chained: the cause holds the value.
        raise VaultError("Half a character cannot be kept.") from None
    nonce = os.urandom(_NONCE_BYTES)
    ciphertext = _cipher(ring.active).encrypt(nonce, plain, _bound_to(purpose, name))
    return Sealed(ring.active.kid, nonce + ciphertext)


def open_sealed(sealed: Sealed, *, purpose: str, name: str) -> str:
    """Decrypt a secret; raises VaultError when its key is gone or what is stored is not what was sealed."""
    key = _ring().get(sealed.kid)
    if key is None:
        raise VaultError(f"the key {sealed.kid!r} is not in VAULT_KEYS")
    nonce, ciphertext = sealed.data[:_NONCE_BYTES], sealed.data[_NONCE_BYTES:]
    try:
        return _cipher(key).decrypt(nonce, ciphertext, _bound_to(purpose, name)).decode()
    except (InvalidTag, ValueError):
        raise VaultError(f"what is stored for {name!r} cannot be opened with the key {sealed.kid!r}") from None


def active_kid() -> str:
    """Id of the key that seals; empty when there is none."""
    ring = _ring()
    return ring.active.kid if len(ring) else ""


def _ring() -> KeyRing:
    ring: KeyRing = settings.VAULT_KEYS
    return ring


def _cipher(key: Key) -> AESGCM:
    """A key of its own for this use: secrets of the ring may have any length from 32 bytes on."""
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"agentbackend vault v1").derive(key.secret)
    return AESGCM(derived)


def _bound_to(purpose: str, name: str) -> bytes:
    return f"{purpose}\0{name}".encode()
