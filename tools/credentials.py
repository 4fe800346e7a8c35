"""Credentials of tools: named by a tool's version, read at the moment of the call from the vault, else from the environment.

Values go to the handler beside the arguments. They never appear in a repr, and `Credentials.hide` takes them
out of whatever a tool hands back.
"""

from __future__ import annotations

import html
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Final
from urllib.parse import quote, quote_plus

from django.conf import settings

from tools.vault import CREDENTIAL, Sealed, VaultError, open_sealed

logger = logging.getLogger(__name__)

REDACTED: Final = "[redacted]"

_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,127}")
_PERCENT = re.compile(r"%[0-9A-F]{2}")
SHORTEST_HIDDEN: Final = 6
"""Characters of the shortest value that is taken out of results: a shorter one would take ordinary words with it."""

# What the service or a package in it reads from the environment; proxies' addresses hold passwords.
_OWN_PREFIXES = ("PG", "DJANGO_", "DATABASE_", "AGENTBACKEND_", "OTEL_")
_OWN_SUFFIXES = ("_PROXY",)


class MissingCredentialError(Exception):
    """A credential that the tool requires is not there: an operator sets it. Names it to operators, not to models."""

    def __init__(self, name: str, problem: str = "is not set") -> None:
        self.name = name
        self.problem = problem
        super().__init__(f"the credential {name} {problem}")


class Credentials(Mapping[str, str]):
    """Values by name, hidden from everybody who prints them."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Credentials({', '.join(self._values)})"

    def hide(self, text: str) -> str:
        """The text with every value replaced, also where it stands as JSON, an address or HTML writes it.

        The longest first: a value may begin with another, and what follows it would stay.
        """
        hidden = {
            form for value in self._values.values() if len(value) >= SHORTEST_HIDDEN for form in written_forms(value)
        }
        for form in sorted(hidden, key=len, reverse=True):
            text = text.replace(form, REDACTED)
        return text


NO_CREDENTIALS: Final = Credentials({})


class CredentialSource(StrEnum):
    """Where a credential's value comes from."""

    VAULT = "vault"
    ENVIRONMENT = "environment"
    NOWHERE = "missing"


def resolve(names: Iterable[str], vault: Mapping[str, Sealed]) -> Credentials:
    """The values of these credentials; raises MissingCredentialError for the first that is absent or empty.

    `vault`: the stored ones by name. One that is stored comes before the environment's variable of that name; when it cannot be
    opened it is missing, and the log says why: another value is never taken in its place.
    """
    return Credentials({name: _value(name, vault) for name in names})


def is_in_environment(name: str) -> bool:
    """Whether the environment has a value, for pages that show a credential's state and never its value."""
    return bool(_environment().get(name, "").strip())


def name_problem(name: str) -> str:
    """Why a tool may not require a credential of this name; empty when it may.

    The service's own secrets lie in the same environment: a tool that could name them could send them away.
    """
    if not _NAME.fullmatch(name):
        return f"{name!r} is not a credential's name: capitals, digits and underscores, like API_KEY."
    own = name in settings.SCHEME and "_TOOL_" not in name
    if own or name.startswith(_OWN_PREFIXES) or name.endswith(_OWN_SUFFIXES):
        return f"{name} is a setting of the service itself and cannot be a tool's credential."
    return ""


def _value(name: str, vault: Mapping[str, Sealed]) -> str:
    if name_problem(name):
        raise MissingCredentialError(name)
    sealed = vault.get(name)
    if sealed is not None:
        return _opened(name, sealed)
    value = _environment().get(name, "").strip()
    if not value:
        raise MissingCredentialError(name)
    return value


def _opened(name: str, sealed: Sealed) -> str:
    try:
        return open_sealed(sealed, purpose=CREDENTIAL, name=name)
    except VaultError as error:
        # in the text: logs redact what stands under a name like "credential"
        logger.error("the stored credential %s cannot be opened: %s", name, error)
        raise MissingCredentialError(name, f"is stored and cannot be opened: {error}") from None


def written_forms(value: str) -> set[str]:
    """A value as it is, and as others write it back: JSON with and without escapes, parts of an address, HTML."""
    in_addresses = {
        quote(value, safe="", errors="replace"),
        quote(value, errors="replace"),
        quote_plus(value, errors="replace"),
    }
    escaped = html.escape(value)
    return {
        value,
        json.dumps(value, ensure_ascii=False)[1:-1],
        json.dumps(value)[1:-1],
        *in_addresses,
        *(_PERCENT.sub(lambda found: found[0].lower(), form) for form in in_addresses),
        html.escape(value, quote=False),
        *(escaped.replace("&#x27;", quote_sign) for quote_sign in ("&#x27;", "&#39;", "&apos;", "'")),
    }


def _environment() -> Mapping[str, str]:
    environment: Mapping[str, str] = settings.TOOL_CREDENTIALS_FROM_ENVIRONMENT
    return environment
