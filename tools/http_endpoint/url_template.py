"""URL templates: `https://api.example.com/cities/{city}?format=json`. Only segments of the path can be given by arguments.

Arguments are percent-encoded, and a path in which they would make other segments (`..`, or nothing) is refused, so an argument
never changes which endpoint is called.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, quote, unquote

import httpx

MAX_URL_LENGTH: Final = 8000

_FORM = re.compile(r"(?i)(https?)://([^/?#\\\s{}@]+)((?:/[^?#]*)?)(?:\?([^#]*))?(#.*)?")
_NAME = re.compile(r"\{([A-Za-z0-9_.~-]{1,64})\}")
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_LITERAL = "/:@!$&'()*+,;=%~-._"
_QUERY = _LITERAL + "?"
_DEFAULT_PORTS = {"http": 80, "https": 443}


class InvalidTemplateError(ValueError):
    """The template cannot be used; the text is for the person who wrote it."""


class UnfitPathError(ValueError):
    """An argument cannot stand in the path; the text is for the model."""


@dataclass(frozen=True, slots=True)
class UrlTemplate:
    """A template that was read: `origin` is fixed, `path` holds the placeholders, `query` is sent as it is."""

    origin: httpx.URL
    path: str
    query: str
    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> UrlTemplate:
        """Read a template; raises InvalidTemplateError."""
        found = _FORM.fullmatch(text)
        if found is None or not text.isprintable():
            raise InvalidTemplateError(
                "expected http:// or https://, a host (without a login, and not given by an argument), and a path"
            )
        scheme, authority, path, query, fragment = found.groups()
        if fragment is not None:
            raise InvalidTemplateError("a fragment (#...) is never sent: leave it out")
        names = tuple(_NAME.findall(path))
        rest = _NAME.sub("x", path)
        if "{" in rest + (query or "") or "}" in rest + (query or ""):
            raise InvalidTemplateError("{name} can only stand in the path, with a name of letters, digits, . _ ~ and -")
        if len(set(names)) != len(names):
            raise InvalidTemplateError("each {name} can stand in the path only once")
        if "\\" in path or _PERCENT.search(path + (query or "")):
            raise InvalidTemplateError("the path holds a backslash or a % that is not followed by two digits")
        if _has_dots(rest):
            raise InvalidTemplateError("the path must have no . or .. in it")
        return cls(_origin(scheme.lower(), authority), path or "/", quote(query or "", safe=_QUERY), names)

    @property
    def port(self) -> int:
        """The port that is connected to."""
        return self.origin.port or _DEFAULT_PORTS[self.origin.scheme]

    @property
    def query_names(self) -> frozenset[str]:
        """Names of the parameters that the template itself sends in the query."""
        return frozenset(name for name, _ in parse_qsl(self.query, keep_blank_values=True))

    def filled(self, values: Mapping[str, str], query: str) -> httpx.URL:
        """The URL with these path parameters, and `query` after the template's own; raises UnfitPathError."""
        for name, value in values.items():
            if not value:
                raise UnfitPathError(f"{name!r} must not be empty: it is part of the address.")
            if _has_dots(value):
                raise UnfitPathError(f"{name!r} must not have '.' or '..' as a part of the address.")
        path = "".join(
            quote(values[part], safe="") if is_name else quote(part, safe=_LITERAL) for part, is_name in self._parts()
        )
        if _has_dots(path):
            raise UnfitPathError("The arguments make an address with '.' or '..' in it.")
        whole = "&".join(part for part in (self.query, query) if part)
        target = f"{path}?{whole}" if whole else path
        if len(target) > MAX_URL_LENGTH:
            raise UnfitPathError(f"The arguments make an address of more than {MAX_URL_LENGTH} characters.")
        return self.origin.copy_with(raw_path=target.encode("ascii"))

    def _parts(self) -> list[tuple[str, bool]]:
        """The path cut at its placeholders: text, and whether it is a placeholder's name."""
        return [(part, position % 2 == 1) for position, part in enumerate(_NAME.split(self.path))]


def _origin(scheme: str, authority: str) -> httpx.URL:
    try:
        url = httpx.URL(f"{scheme}://{authority}/")
        usable = bool(url.raw_host.strip(b".")) and (url.port is None or 0 < url.port < 65536)
    except (httpx.InvalidURL, ValueError) as error:
        raise InvalidTemplateError(f"{authority!r} is no host with an optional port") from error
    if not usable:
        raise InvalidTemplateError(f"{authority!r} is no host with an optional port")
    return url


def _has_dots(path: str) -> bool:
    """Whether a segment is one that leads elsewhere, also for a server that decodes more than once."""
    for _ in range(3):
        path = unquote(path)
    return any(segment in (".", "..") for segment in path.replace("\\", "/").split("/"))
