"""`python -m agentbackend.embedded_postgres status|stop|url`: look at the embedded database from outside."""

from __future__ import annotations

import argparse
import os

from agentbackend.embedded_postgres.cluster import Cluster
from agentbackend.embedded_postgres.location import DATABASE, OWNER, default_location


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description="The embedded database of this user.")
    parser.add_argument("what", choices=["status", "stop", "url"])
    chosen = parser.parse_args()
    location = default_location(os.environ.get("AGENTBACKEND_DATA_DIR", ""))
    cluster = Cluster(location)
    if chosen.what == "url":
        print(f"postgresql://{OWNER}@/{DATABASE}?host={location.socket_directory}")  # noqa: T201
    elif chosen.what == "stop":
        cluster.stop()
    else:
        print(  # noqa: T201
            f"{'running' if cluster.is_running() else 'stopped'}: PostgreSQL {location.binaries.major}, {location.data}"
        )


if __name__ == "__main__":
    main()
