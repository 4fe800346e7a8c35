"""A database of its own, on the session's server, for tests whose processes take up each other's runs and jobs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import psycopg
from psycopg import sql

from agentbackend.embedded_postgres.cluster import Cluster
from agentbackend.embedded_postgres.location import OWNER, RUNTIME, SUPERUSER
from tests.running_service import ROOT, RunningService, ServiceFactory


class SeparateDatabase(ServiceFactory):
    """Starts services on the database `name`, with these settings unless others are given; `connection` may do anything in it."""

    def __init__(self, folder: Path, connection: psycopg.Connection, settings: dict[str, str]) -> None:
        super().__init__(folder)
        self.connection = connection
        self.settings = settings

    def start(self, *, wait: bool = True, **environment: str) -> RunningService:
        """Start a service on this database."""
        return super().start(wait=wait, **{**self.settings, **environment})

    def environment(self) -> dict[str, str]:
        """What a management command needs to work on this database."""
        return {**os.environ, **self.settings}

    def stop_all(self) -> None:
        """Stop what still runs, at once: nobody waits for it."""
        for started in self._started:
            if started.process.poll() is None:
                started.process.kill()
                started.process.wait()


@contextmanager
def separate_database(cluster: Cluster, folder: Path, **settings: str) -> Iterator[SeparateDatabase]:
    """Make and migrate a database; its services are killed and it is dropped at the end."""
    name, host = f"test_{uuid4().hex[:12]}", str(cluster.location.socket_directory)
    with psycopg.connect(host=host, user=SUPERUSER, dbname="postgres", autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(OWNER)))
        try:
            with psycopg.connect(host=host, user=SUPERUSER, dbname=name, autocommit=True) as connection:
                connection.execute("SET search_path TO agentbackend")
                urls = {
                    "SUPABASE_DATABASE_URL": f"postgresql://{RUNTIME}@/{name}?host={quote(host, safe='')}",
                    "DATABASE_OWNER_URL": f"postgresql://{OWNER}@/{name}?host={quote(host, safe='')}",
                }
                made = SeparateDatabase(folder, connection, {**urls, **settings})
                migrate(made.environment())
                try:
                    yield made
                finally:
                    made.stop_all()
        finally:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def migrate(environment: dict[str, str]) -> None:
    """Bring a database up to date."""
    command = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
