"""A registered server made ready to be spoken to: its credential found, and fit to stand in a header."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from tools import credentials
from tools.credentials import MissingCredentialError
from tools.mcp_client.contract import RemoteError, Target
from tools.registry import RegisteredServer
from tools.vault import Sealed

logger = logging.getLogger(__name__)

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_FOR_CREDENTIALS = frozenset(
    {"host", "connection", "content-length", "content-type", "transfer-encoding", "accept", "accept-encoding"}
)


def target_of(server: RegisteredServer, vault: Mapping[str, Sealed]) -> Target:
    """The server with its credential, which is read now; raises RemoteError when it is missing or cannot be sent."""
    names = [server.credential] if server.credential else []
    if names and server.credential_placement == "header" and not _may_carry(server.credential_header):
        raise RemoteError(f"The header for the credential of the server {server.name!r} is none.", is_operators=True)
    try:
        found = credentials.resolve(names, vault)
    except MissingCredentialError as error:
        logger.error("the server %s has no credential: %s", server.name, error)
        raise _not_set_up(server) from None
    for name, value in found.items():
        if not (value.isascii() and value.isprintable()):
            logger.error("the credential %s cannot stand in a header", name, extra={"server": server.name})
            raise _not_set_up(server)
    if names:
        logger.info("the credential %s is used", names[0], extra={"server": server.name})
    return Target(server, found)


def _may_carry(header: str) -> bool:
    name = header.lower()
    return bool(_HEADER_NAME.fullmatch(name)) and name not in _NOT_FOR_CREDENTIALS and not name.startswith("mcp-")


def _not_set_up(server: RegisteredServer) -> RemoteError:
    return RemoteError(f"The credential for the server {server.name!r} is not set up.", is_operators=True)
