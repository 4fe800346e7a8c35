"""Asks a service on this machine whether it lives: the container's health check. Exit status 0 for yes.

The standard library only, and no settings: it runs every few seconds beside the service.
"""

from __future__ import annotations

import os
import sys
from http.client import HTTPConnection, HTTPException

TIMEOUT_SECONDS = 4.0


def main() -> int:
    """0 when `/health` answers 200, else 1."""
    port = int(os.environ.get("PORT", "").strip() or 8000)
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/health", headers={"Host": _host()})
        return 0 if connection.getresponse().status == 200 else 1
    except (OSError, HTTPException):
        return 1
    finally:
        connection.close()


def _host() -> str:
    """A name that the service answers to: the first that is allowed; of a pattern, one that fits it."""
    first = os.environ.get("DJANGO_ALLOWED_HOSTS", "").split(",")[0].strip().removeprefix(".")
    return first if first not in ("", "*") else "localhost"


if __name__ == "__main__":
    sys.exit(main())
