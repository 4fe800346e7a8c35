"""When PostgreSQL crashes or is away for a while: runs wait, go on under their owners, and no event is lost or doubled."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from agentbackend.embedded_postgres.cluster import Cluster
from agentbackend.embedded_postgres.location import DATABASE, OWNER, RUNTIME, SUPERUSER, default_location
from tests.running_service import Caller, Frame, RunningService, run_input
from tests.runs.support import Reader, Stored, assert_well_formed, eventually, following
from tests.separate_database import SeparateDatabase, migrate

LEASE_SECONDS = 3.0


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[Cluster]:
    """A server that only these tests use."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    cluster = Cluster(default_location(str(folder)), throw_away=True)
    cluster.attach()
    try:
        yield cluster
    finally:
        cluster.detach()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def connected(cluster: Cluster) -> Iterator[psycopg.Connection]:
    host = str(cluster.location.socket_directory)
    with psycopg.connect(host=host, user=SUPERUSER, dbname=DATABASE, autocommit=True) as connection:
        connection.execute("SET search_path TO agentbackend")
        yield connection


@pytest.fixture(scope="module")
def processes(own_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningService]]:
    """Two processes on that server, which would soon take up each other's runs."""
    host = quote(str(own_cluster.location.socket_directory), safe="")
    settings = {
        "SUPABASE_DATABASE_URL": f"postgresql://{RUNTIME}@/{DATABASE}?host={host}",
        "DATABASE_OWNER_URL": f"postgresql://{OWNER}@/{DATABASE}?host={host}",
        "RUN_LEASE_SECONDS": str(LEASE_SECONDS),
        "RUN_HEARTBEAT_SECONDS": "0.5",
    }
    with connected(own_cluster) as connection:
        services = SeparateDatabase(tmp_path_factory.mktemp("services"), connection, settings)
        migrate(services.environment())
        try:
            yield [services.start(), services.start()]
        finally:
            services.stop_all()


def whole(service: RunningService, caller: Caller, run_id: str, reader: Reader) -> list[Frame]:
    """The run as a client has it that resumes when its stream is interrupted."""
    committed = [frame for frame in reader.whole(60) if frame.id]

    def rest() -> list[Frame]:
        with following(service, caller, run_id, after=committed[-1].number) as frames:
            found = list(frames)
        committed.extend(frame for frame in found if frame.id)
        return committed if committed[-1].event["type"] in ("RUN_FINISHED", "RUN_ERROR") else []

    if committed[-1].event["type"] in ("RUN_FINISHED", "RUN_ERROR"):
        return committed
    found: list[Frame] = eventually(rest, "the rest of the run is there")
    return found


@pytest.mark.parametrize("event", ["crash", "outage"])
def test_runs_go_on_under_their_owners(own_cluster: Cluster, processes: list[RunningService], event: str) -> None:
    wishes = [(Caller(), run_input(f"demo: slow {80 + 10 * number}")) for number in range(6)]
    with ExitStack() as streams:
        readers = []
        for number, (caller, wish) in enumerate(wishes):
            stream = processes[number % 2].open_stream(caller, "POST", "/ag-ui/events", json=wish)
            readers.append(Reader(streams.enter_context(stream)[1]))
        eventually(lambda: all(len(reader.frames) > 3 for reader in readers), "every run is under way")
        if event == "crash":
            crash(own_cluster)
        else:
            own_cluster.detach()  # its last user stops it
            time.sleep(LEASE_SECONDS * 1.5)  # longer than the leases: that is what is tested
            own_cluster.attach()
        runs = [
            whole(processes[(number + 1) % 2], caller, wish["runId"], reader)
            for number, ((caller, wish), reader) in enumerate(zip(wishes, readers, strict=True))
        ]
    with connected(own_cluster) as connection:
        stored = Stored(connection)
        for (_, wish), frames in zip(wishes, runs, strict=True):
            assert_well_formed(frames, wish["runId"])
            assert frames[-1].event["type"] == "RUN_FINISHED"
            row = stored.run(wish["runId"])
            assert (row["status"], row["fence"]) == ("finished", 1)
            assert len(stored.log(wish["runId"])) == len(frames)


def crash(cluster: Cluster) -> None:
    """Kill a backend: the server ends all connections, discards its memory and recovers from its log."""
    with connected(cluster) as connection:
        [[victim]] = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE usename = %s AND backend_type = 'client backend' LIMIT 1",
            (RUNTIME,),
        ).fetchall()
        os.kill(victim, signal.SIGKILL)
