"""Workers: processes without a port do what is queued, and what one leaves another does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agentbackend.embedded_postgres.cluster import Cluster
from tests.running_service import ROOT, Caller, RunningService, run_input
from tests.runs.support import Stored, assert_well_formed, eventually, following
from tests.separate_database import SeparateDatabase, separate_database


@pytest.fixture(scope="module")
def services(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeparateDatabase]:
    """Processes that serve requests and leave background runs to workers."""
    settings = {
        "RUN_LEASE_SECONDS": "3",
        "RUN_HEARTBEAT_SECONDS": "0.5",
        "WORKER_IN_PROCESS": "false",
        "MIGRATE_ON_START": "0",
    }
    with separate_database(cluster, tmp_path_factory.mktemp("services"), **settings) as made:
        yield made


@pytest.fixture(scope="module")
def web(services: SeparateDatabase) -> RunningService:
    return services.start()


@pytest.fixture
def stored(services: SeparateDatabase) -> Stored:
    return Stored(services.connection)


@contextmanager
def worker(services: SeparateDatabase, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`manage.py worker`, killed at the end when it still runs."""
    process = subprocess.Popen(
        [sys.executable, "manage.py", "worker", *arguments], cwd=ROOT, env={**os.environ, **services.environment()},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def queued(web: RunningService, caller: Caller, text: str) -> str:
    """Ask for a run in the background; returns its id."""
    wish = run_input(text)
    with web.client(caller) as client:
        assert client.post("/ag-ui/events?background=1", json=wish).status_code == 202
    return str(wish["runId"])


def jobs(services: SeparateDatabase, status: str) -> int:
    [[count]] = services.connection.execute(
        "SELECT count(*) FROM procrastinate_jobs WHERE status::text = %s AND queue_name = 'runs'", (status,)
    ).fetchall()
    return int(count)


def test_a_background_run_waits_for_a_worker_and_is_followed_through_any_process(
    services: SeparateDatabase, web: RunningService, stored: Stored
) -> None:
    caller = Caller()
    run_id = queued(web, caller, "demo: slow 30")
    assert stored.run(run_id)["status"] == "queued"
    with worker(services), following(web, caller, run_id) as frames:
        seen = list(frames)
    assert_well_formed(seen, run_id)
    assert seen[-1].event["type"] == "RUN_FINISHED"


def test_a_worker_that_is_told_to_stop_hands_its_run_over_and_leaves_no_job_behind(
    services: SeparateDatabase, web: RunningService, stored: Stored
) -> None:
    caller = Caller()
    run_id = queued(web, caller, "demo: slow 300")
    services.settings["SHUTDOWN_GRACE_SECONDS"] = "0.3"
    with worker(services) as first:
        eventually(lambda: stored.run(run_id)["status"] == "running", "the worker has taken the run")
        first.send_signal(signal.SIGTERM)
        assert first.wait(30) == 0
        assert jobs(services, "doing") == 0
    with following(web, caller, run_id) as frames:  # any process takes up what has lost its owner
        seen = list(frames)
    assert_well_formed(seen, run_id)
    assert seen[-1].event["type"] == "RUN_FINISHED"
    assert stored.run(run_id)["crashes"] == 0


def test_the_run_of_a_worker_that_was_killed_goes_on_elsewhere(
    services: SeparateDatabase, web: RunningService, stored: Stored
) -> None:
    caller = Caller()
    run_id = queued(web, caller, "demo: slow 200")
    with worker(services) as first:
        eventually(lambda: stored.run(run_id)["status"] == "running", "the worker has taken the run")
        first.kill()
        with following(web, caller, run_id) as frames:
            seen = list(frames)
    assert_well_formed(seen, run_id)
    assert seen[-1].event["type"] == "RUN_FINISHED"
    assert stored.run(run_id)["crashes"] == 1


def test_a_queued_run_whose_job_was_lost_is_queued_again(
    services: SeparateDatabase, web: RunningService, stored: Stored
) -> None:
    caller = Caller()
    run_id = queued(web, caller, "hello")
    services.connection.execute(
        "DELETE FROM procrastinate_jobs WHERE args->>'run_id' = %s", (str(stored.run(run_id)["id"]),)
    )
    services.connection.execute("UPDATE orchestration_run SET lease_expires_at = now() WHERE public_id = %s", (run_id,))
    with worker(services), following(web, caller, run_id) as frames:
        assert list(frames)[-1].event["type"] == "RUN_FINISHED"


def test_a_worker_with_nothing_to_do_at_once_is_refused(services: SeparateDatabase) -> None:
    with worker(services, "--concurrency", "0") as process:
        assert process.wait(60) != 0


def test_a_process_that_is_full_leaves_its_jobs_to_others(services: SeparateDatabase, stored: Stored) -> None:
    full = services.start(MAX_CONCURRENT_RUNS="1", WORKER_IN_PROCESS="true")
    caller, wish = Caller(), run_input("demo: slow 3000")
    with full.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        next(frames)
        other = services.start(WORKER_IN_PROCESS="true")
        runs = [queued(other, caller, "hello") for _ in range(4)]
        for run_id in runs:
            eventually(lambda run_id=run_id: stored.run(run_id)["status"] == "finished", "it is done by the other")
        full.stop(signal.SIGKILL)


def test_a_process_that_is_full_takes_wishes_for_background_runs_and_ends_those_that_are_cancelled(
    services: SeparateDatabase, stored: Stored
) -> None:
    full = services.start(MAX_CONCURRENT_RUNS="1")
    caller = Caller()
    with full.open_stream(caller, "POST", "/ag-ui/events", json=run_input("demo: slow 3000")) as (_, frames):
        next(frames)
        run_id = queued(full, caller, "hello")
        with full.client(caller) as client:
            assert client.post(f"/ag-ui/runs/{run_id}/cancel").status_code == 202
        eventually(lambda: stored.run(run_id)["status"] == "cancelled", "it needs no room to end")
        full.stop(signal.SIGKILL)


def test_a_queued_run_whose_cancellation_was_asked_for_elsewhere_ends_without_a_worker(
    services: SeparateDatabase, web: RunningService, stored: Stored
) -> None:
    caller = Caller()
    run_id = queued(web, caller, "hello")
    services.connection.execute(
        "UPDATE orchestration_run SET cancel_requested_at = now() WHERE public_id = %s", (run_id,)
    )
    with following(web, caller, run_id) as frames:
        seen = list(frames)
    assert_well_formed(seen, run_id)
    assert seen[-1].event["outcome"] == {"type": "cancelled"}
