"""Addresses that people write into settings of the registry: what they may look like, before anything is asked there."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, urlsplit

from agentbackend.foundation.outbound import OutboundRefusedError
from audit.redaction import is_secret_name
from tools.process import outbound_policy

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def address_problem(url: str) -> str:
    """Why this cannot be the address of a server; empty when it can. Where a name leads is found out when it is asked."""
    if not _is_plain(url):
        return "An address with http:// or https:// and a host, without a login in it."
    parts = urlsplit(url)
    if parts.fragment:
        return "An address of a server has no fragment (#)."
    if any(is_secret_name(name) for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
        return "A secret does not belong into the address, which is shown: make it a credential."
    try:
        outbound_policy().check_written_host(parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme])
    except OutboundRefusedError as error:
        return f"{str(error)[0].upper()}{str(error)[1:]}; OUTBOUND_ALLOWED_HOSTS can allow it."
    return ""


def _is_plain(url: str) -> bool:
    """Whether this is an http(s) address that names a host and carries no login."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None and parts.port != 0
    except ValueError:
        return False
