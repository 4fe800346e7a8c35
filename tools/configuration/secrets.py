"""The last line of defence against secrets in files: the values of credentials are looked for in whatever goes out or comes in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import orjson

from tools.credentials import Credentials, MissingCredentialError, resolve
from tools.documents import Spec
from tools.models import RemoteServer, StoredCredential, Tool
from tools.vault import Sealed

_SHORTEST: Final = 12  # a shorter value, as in development, may be an ordinary word


class SecretInDocumentError(Exception):
    """A thing of the registry holds the value of a credential; the text names the thing."""


class KnownSecrets:
    """Values that must not stand in files."""

    def __init__(self, values: Iterable[str]) -> None:
        self._values = Credentials({str(index): value for index, value in enumerate(values) if len(value) >= _SHORTEST})

    def held_by(self, spec: Spec) -> bool:
        """Whether one of the values stands anywhere in a spec."""
        text = orjson.dumps(spec).decode()
        return self._values.hide(text) != text


def known_secrets() -> KnownSecrets:
    """The values of all credentials that are stored, or that tools and servers name."""
    stored = {row.name: Sealed(row.kid, bytes(row.sealed)) for row in StoredCredential.objects.all()}
    names = {*stored, *RemoteServer.objects.exclude(credential="").values_list("credential", flat=True)}
    for required in Tool.objects.values_list("current_version__required_credentials", flat=True):
        names.update(required or ())
    return KnownSecrets(value for name in sorted(names) for value in _values(name, stored))


def _values(name: str, stored: dict[str, Sealed]) -> Iterable[str]:
    """Where it is stored and in the environment, both are secrets."""
    for vault in ({}, stored):
        try:
            yield from resolve([name], vault).values()
        except MissingCredentialError:
            continue
