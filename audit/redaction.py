"""What may stand in a payload: plain JSON values within bounds, secrets and credentials taken out.

Rooms hand over details without secrets; this is the last line of defence, by the names of keys and a few
plain patterns.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeAlias
from urllib.parse import urlsplit, urlunsplit

import orjson

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

REDACTED = "[redacted]"
CUT = "[cut]"
MAX_STRING_BYTES = 8 * 1024
MAX_PAYLOAD_BYTES = 64 * 1024
MAX_DEPTH = 16
MAX_KEY_LENGTH = 256
_LARGEST_EXACT_INTEGER = 2**53 - 1  # what every reader of JSON keeps exactly

QUERY_VALUES_SHOWN = frozenset({"after", "format", "limit", "page", "protocol"})

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SECRET_WORDS = frozenset(
    {
        "apikey",
        "authorization",
        "bearer",
        "cookie",
        "cookies",
        "credential",
        "credentials",
        "jwt",
        "passphrase",
        "passwd",
        "password",
        "passwords",
        "pwd",
        "secret",
        "secrets",
    }
)
# Fields of the registry that hold the names of secrets, or where they go, and never a secret.
_NAMES_OF_SECRETS = frozenset({"required_credentials", "credential_placement", "credential_header"})
_TOKEN_WORDS = frozenset({"token", "tokens"})
_KEY_KINDS = frozenset({"api", "access", "encryption", "private", "secret", "signing", "subscription", "vault"})
_AUTHORIZATION_VALUE = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_PARAMETER_NAME = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Whether a key of this name holds a secret: `password`, `X-Api-Key`, `accessToken`, `client_secret`,
    ...
    """
    if name in _NAMES_OF_SECRETS:
        return False
    words = [word.lower() for word in _WORDS.findall(name)]
    if not _SECRET_WORDS.isdisjoint(words) or not _TOKEN_WORDS.isdisjoint(words):
        return True
    return any(second in ("key", "keys") and first in _KEY_KINDS for first, second in pairwise(words))


def clean(details: Mapping[str, Any]) -> dict[str, JsonValue]:
    """Details as plain JSON values: secrets redacted, long strings and the whole cut, each cut marked."""
    cleaned = _Cleaner(MAX_PAYLOAD_BYTES).mapping(details, 0)
    if len(orjson.dumps(cleaned)) > MAX_PAYLOAD_BYTES:
        return {"details": CUT}
    return cleaned


def redact_query(url: str, shown: frozenset[str] = QUERY_VALUES_SHOWN) -> str:
    """The URL without credentials, fragment and values of its query, except those of the parameters in
    `shown`.

    Works on absolute URLs and on paths; what cannot be read as a URL is redacted whole.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return REDACTED
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, redact_query_string(parts.query, shown), ""))


def redact_query_string(query: str | bytes, shown: frozenset[str] = QUERY_VALUES_SHOWN) -> str:
    """What follows the `?` of a URL with its values replaced, except those of the parameters in `shown`."""
    text = query.decode("latin-1") if isinstance(query, bytes) else query
    return "&".join(_parameter(part, shown) for part in text.split("&") if part)


def _parameter(part: str, shown: frozenset[str]) -> str:
    name, equals, value = part.partition("=")
    if not equals or not _PARAMETER_NAME.fullmatch(name):
        return REDACTED
    return f"{name}={value if name in shown else REDACTED}"


class _Cleaner:
    """One walk over details; `_left` is how many bytes of JSON may still be written."""

    def __init__(self, budget: int) -> None:
        self._left = budget - 256  # room for the marks of what was cut

    def mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, JsonValue]:
        cleaned: dict[str, JsonValue] = {}
        for key, item in value.items():
            if self._left <= 0:
                cleaned[CUT] = len(value) - len(cleaned)
                break
            name = _text(str(key))[:MAX_KEY_LENGTH]
            self._left -= len(orjson.dumps(name)) + 2
            cleaned[name] = REDACTED if _hides(name, item) else self.value(item, depth + 1)
        return cleaned

    def sequence(self, value: Iterable[Any], depth: int) -> list[JsonValue]:
        cleaned: list[JsonValue] = []
        for item in value:
            if self._left <= 0:
                cleaned.append(CUT)
                break
            self._left -= 1
            cleaned.append(self.value(item, depth + 1))
        return cleaned

    def value(self, value: Any, depth: int) -> JsonValue:
        if isinstance(value, str):
            return self._string(value)
        if value is None or isinstance(value, bool):
            self._left -= 5
            return value
        if isinstance(value, int | float):
            self._left -= 20
            return _number(value)
        if depth >= MAX_DEPTH:
            return CUT
        if isinstance(value, Mapping):
            return self.mapping(value, depth)
        if isinstance(value, list | tuple | set | frozenset):
            return self.sequence(value, depth)
        if isinstance(value, bytes | bytearray | memoryview):
            return f"[{len(value)} bytes]"
        return self._string(str(value))

    def _string(self, value: str) -> str:
        text = _AUTHORIZATION_VALUE.sub(rf"\1 {REDACTED}", _without_secrets_in_json(_text(value)))
        text = _cut(text, max(0, min(MAX_STRING_BYTES, self._left)))
        self._left -= len(orjson.dumps(text))
        return text


def _hides(name: str, value: Any) -> bool:
    """Whether the value is replaced: `tokens` may be a count, and then it is shown."""
    if value is None or not is_secret_name(name):
        return False
    words = {word.lower() for word in _WORDS.findall(name)}
    counts = not words.isdisjoint(_TOKEN_WORDS) and words.isdisjoint(_SECRET_WORDS)
    if not counts:
        return True
    if isinstance(value, Mapping):  # e.g. token counts by kind
        return not all(item is None or isinstance(item, int | float) for item in value.values())
    return not isinstance(value, int | float)


def _without_secrets_in_json(text: str) -> str:
    """Arguments often travel as JSON text: secrets are taken out of that, too; any other text comes back as
    it is.
    """
    if text[:1] not in ("{", "[") or len(text) > 4 * MAX_PAYLOAD_BYTES:
        return text
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return orjson.dumps(_redacted(document)).decode() if _holds_secret(document) else text


def _holds_secret(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_hides(name, item) or _holds_secret(item) for name, item in value.items())
    return isinstance(value, list) and any(_holds_secret(item) for item in value)


def _redacted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: REDACTED if _hides(name, item) else _redacted(item) for name, item in value.items()}
    return [_redacted(item) for item in value] if isinstance(value, list) else value


def _text(value: str) -> str:
    """The text without NULs and lone surrogates, which neither UTF-8 nor PostgreSQL takes."""
    if "\0" in value:
        value = value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def _cut(text: str, limit: int) -> str:
    encoded = text.encode()
    if len(encoded) <= limit:
        return text
    return encoded[:limit].decode(errors="ignore") + CUT


def _number(value: int | float) -> int | float | str:
    if isinstance(value, int):
        return value if abs(value) <= _LARGEST_EXACT_INTEGER else str(value)[:MAX_KEY_LENGTH]
    return value if math.isfinite(value) else str(value)
