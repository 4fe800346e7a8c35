"""Asks a service on this machine whether it lives: the container's health check. Exit status 0 for yes.

The standard library only, and no settings: it runs every few seconds beside the service.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
from http.client import HTTPConnection, HTTPException, HTTPSConnection

TIMEOUT_SECONDS = 4.0


def main() -> int:
    """0 when `/health` answers 200, else 1. A service that wants certificates of its callers only has to take the connection."""
    port = int(os.environ.get("PORT", "").strip() or 8000)
    if _is_set("TLS_CLIENT_CA_FILE"):
        return _takes_connections(port)
    connection = _connection(port)
    try:
        connection.request("GET", "/health", headers={"Host": _host()})
        return 0 if connection.getresponse().status == 200 else 1
    except (OSError, HTTPException):
        return 1
    finally:
        connection.close()


def _connection(port: int) -> HTTPConnection:
    """With TLS where the service has it; its certificate names others, and this is the machine itself."""
    if not _is_set("TLS_CERT_FILE"):
        return HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS, context=context)


def _takes_connections(port: int) -> int:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS):
            return 0
    except OSError:
        return 1


def _is_set(name: str) -> bool:
    return bool(os.environ.get(name, "").strip())


def _host() -> str:
    """A name that the service answers to: the first that is allowed; of a pattern, one that fits it."""
    first = os.environ.get("DJANGO_ALLOWED_HOSTS", "").split(",")[0].strip().removeprefix(".")
    return first if first not in ("", "*") else "localhost"


if __name__ == "__main__":
    sys.exit(main())
