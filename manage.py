#!/usr/bin/env python
"""Django's command line for this project. Commands that use the embedded database start it, or join those who use it."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import AbstractContextManager, nullcontext
from types import FrameType
from typing import NoReturn

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line

from agentbackend.embedded_postgres.binaries import NoPostgresError
from agentbackend.embedded_postgres.cluster import Cluster, EmbeddedDatabaseError
from agentbackend.embedded_postgres.location import default_location

WITHOUT_DATABASE = {
    "help", "version", "check", "collectstatic", "demo_model", "makemessages", "compilemessages", "startapp",
}  # fmt: skip
ONLY_PRINTING = {"--help", "-h", "--version"}


def database_for(arguments: list[str]) -> AbstractContextManager[None]:
    """What keeps the embedded database running while the command does."""
    command = arguments[1] if len(arguments) > 1 else "help"
    if ONLY_PRINTING & set(arguments[1:3]) or (command in WITHOUT_DATABASE and "--database" not in arguments):
        return nullcontext()
    if not settings.DATABASE_PLAN.embedded:
        return nullcontext()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    return Cluster(default_location(settings.AGENTBACKEND_DATA_DIR)).attached()


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """End as if by exit(), so that the database is let go; `serve` puts its own handlers in place."""
    sys.exit(128 + number)


def main() -> None:
    """Run one command."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "agentbackend.settings")
    try:
        with database_for(sys.argv):
            execute_from_command_line(sys.argv)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except (ImproperlyConfigured, NoPostgresError, EmbeddedDatabaseError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
