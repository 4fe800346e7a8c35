"""When a process ends, orderly or not: its runs finish, or are ended by another, and every reader learns it."""

from __future__ import annotations

import signal
import time

import httpx
import pytest

from tests.running_service import Caller, RunningService, ServiceFactory, run_input
from tests.runs.support import Reader, Stored, assert_well_formed, eventually, following, types

QUICK = {"RUN_LEASE_SECONDS": "3", "RUN_HEARTBEAT_SECONDS": "0.5"}


@pytest.fixture(scope="module")
def witness(service_factory: ServiceFactory) -> RunningService:
    """A process that outlives the others, and soon takes up what they leave."""
    return service_factory.start(**QUICK)


def test_a_run_finishes_within_the_grace_period_and_new_ones_are_refused(
    service_factory: ServiceFactory, stored: Stored
) -> None:
    process = service_factory.start(SHUTDOWN_GRACE_SECONDS="15")
    caller, wish = Caller(), run_input("demo: slow 200")
    with (
        process.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames),
        process.client(caller) as client,
    ):
        seen = [next(frames)]
        assert client.get("/health").status_code == 200  # a connection that is open before the end begins
        process.process.send_signal(signal.SIGTERM)

        def refused() -> bool:
            try:
                answer = client.post("/ag-ui/events", json=run_input("hello"))
            except httpx.TransportError:
                return True  # it does not even listen any more
            return answer.status_code == 503 and answer.json()["code"] == "shutting_down"

        eventually(refused, "no new run is taken", seconds=3)
        seen += list(frames)
    assert_well_formed(seen, wish["runId"])
    assert seen[-1].event["type"] == "RUN_FINISHED"
    assert process.stop() == 0
    assert stored.run(wish["runId"])["status"] == "finished"


def test_beyond_the_grace_period_the_stream_ends_and_the_run_is_taken_up_elsewhere(
    service_factory: ServiceFactory, witness: RunningService, stored: Stored
) -> None:
    process = service_factory.start(SHUTDOWN_GRACE_SECONDS="0.3", **QUICK)
    caller, wish = Caller(), run_input("demo: slow 3000")
    with process.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        seen = [next(frames) for _ in range(4)]
        process.process.send_signal(signal.SIGTERM)
        seen += list(frames)
    *committed, last = seen
    assert (last.id, last.event["type"], last.event["code"]) == ("", "RUN_ERROR", "stream_interrupted")
    assert [frame.number for frame in committed] == list(range(1, len(committed) + 1))
    assert process.stop() == 0
    with following(witness, caller, wish["runId"], after=committed[-1].number) as frames:
        rest = list(frames)
    assert_well_formed([*committed, *rest], wish["runId"])
    assert rest[-1].event["code"] == "run_abandoned"
    row = stored.run(wish["runId"])
    assert (row["status"], row["error_code"], row["fence"]) == ("failed", "run_abandoned", 2)


def test_readers_of_the_envelope_are_told_the_same(service_factory: ServiceFactory) -> None:
    process = service_factory.start(SHUTDOWN_GRACE_SECONDS="0.3")
    wish = run_input("demo: slow 3000")
    address = "/ag-ui/events?protocol=envelope"
    with process.open_stream(Caller(), "POST", address, json=wish) as (response, frames):
        assert response.status_code == 200
        process.process.send_signal(signal.SIGTERM)
        [last] = list(frames)
    assert (last.id, last.event["data"]) == ("", {"code": "stream_interrupted", "retryable": True})


def test_the_run_of_a_process_that_was_killed_is_ended_by_another_within_fifteen_seconds(
    service_factory: ServiceFactory, other_process: RunningService, stored: Stored
) -> None:
    owner = service_factory.start()  # with the leases that the service has where nothing is set
    caller, wish = Caller(), run_input("demo: slow 1000")
    with owner.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        next(frames)
        with following(other_process, caller, wish["runId"]) as followed:
            seen = [next(followed) for _ in range(4)]
            reader = Reader(followed)
            owner.stop(signal.SIGKILL)
            killed = time.monotonic()
            seen += reader.whole(20)
    assert time.monotonic() - killed < 16.5  # fifteen, and a second for the reader's poll
    assert_well_formed(seen, wish["runId"])
    assert types(seen)[-1] == "RUN_ERROR"
    assert seen[-1].event["code"] == "run_abandoned"
    row = stored.run(wish["runId"])
    assert (row["status"], row["last_seq"]) == ("failed", len(seen))
    assert stored.audit(wish["runId"])[-1] == "run.failed"
    again = other_process.post_run(caller, "hello", threadId=wish["threadId"])
    assert again[-1].event["type"] == "RUN_FINISHED", "the thread is free again"


def test_a_process_that_only_slept_writes_nothing_more(
    service_factory: ServiceFactory, witness: RunningService, stored: Stored
) -> None:
    sleeper = service_factory.start(**QUICK)
    caller, wish = Caller(), run_input("demo: slow 700")
    with sleeper.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        seen = [next(frames) for _ in range(4)]
        sleeper.process.send_signal(signal.SIGSTOP)
        try:
            eventually(lambda: stored.run(wish["runId"])["status"] == "failed", "another process has ended the run")
            whole = stored.log(wish["runId"])
        finally:
            sleeper.process.send_signal(signal.SIGCONT)
        seen += list(frames)
    assert_well_formed(seen, wish["runId"])
    assert seen[-1].event["code"] == "run_abandoned"
    assert stored.log(wish["runId"]) == whole
    assert stored.run(wish["runId"])["fence"] == 2
    assert sleeper.stop() == 0
