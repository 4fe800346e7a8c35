"""`python -m agentbackend.embedded_postgres status|stop|url`: look at the embedded database from outside."""

from __future__ import annotations

import argparse
import os
import sys

from agentbackend.embedded_postgres.binaries import NoPostgresError
from agentbackend.embedded_postgres.cluster import Cluster, EmbeddedDatabaseError
from agentbackend.embedded_postgres.location import DATABASE, OWNER, default_location


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description="The embedded database of this user.")
    parser.add_argument("what", choices=["status", "stop", "url"])
    chosen = parser.parse_args()
    try:
        look(chosen.what, Cluster(default_location(os.environ.get("AGENTBACKEND_DATA_DIR", ""))))
    except (NoPostgresError, EmbeddedDatabaseError) as error:
        sys.exit(str(error))


def look(what: str, cluster: Cluster) -> None:
    """Print the state or the address, or stop the server whoever uses it."""
    location = cluster.location
    if what == "url":
        print(f"postgresql://{OWNER}@/{DATABASE}?host={location.socket_directory}")  # noqa: T201
    elif what == "stop":
        cluster.stop()
    else:
        print(  # noqa: T201
            f"{'running' if cluster.is_running() else 'stopped'}: PostgreSQL {location.binaries.major}, {location.data}"
        )


if __name__ == "__main__":
    main()
