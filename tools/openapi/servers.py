"""Where the operations are: the document's servers, their variables filled with defaults, relative ones resolved."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

_VARIABLE = re.compile(r"\{([^{}]*)\}")


class NoServerError(Exception):
    """There is no address for an operation; the text says what would help."""


def base_url(levels: list[Any], *, document_url: str, chosen: str) -> str:
    """The address before an operation's path, without a slash at its end; raises NoServerError.

    `levels`: the `servers` of the operation, its path and the document, of which the first that says something counts. `chosen`:
    an address that takes the place of them all. `document_url`: where the document came from; empty for a file.
    """
    if chosen:
        return chosen.rstrip("/")
    servers = next((level for level in levels if isinstance(level, list) and level), [{"url": "/"}])
    server = servers[0] if isinstance(servers[0], dict) else {}
    url = _filled(str(server.get("url", "")), server.get("variables"))
    absolute = urljoin(document_url, url) if document_url else url
    if urlsplit(absolute).scheme not in ("http", "https"):
        raise NoServerError("The document names no complete address of its server: give a base address.")
    return absolute.rstrip("/")


def _filled(url: str, variables: Any) -> str:
    described: Mapping[str, Any] = variables if isinstance(variables, dict) else {}

    def default(found: re.Match[str]) -> str:
        variable = described.get(found[1])
        if not isinstance(variable, dict) or not isinstance(variable.get("default"), str):
            raise NoServerError(f"The server's variable {found[1][:64]!r} has no default: give a base address.")
        return str(variable["default"])

    return _VARIABLE.sub(default, url)
