"""When a process ends in good order: its runs finish or go on elsewhere, and every reader learns it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from agentbackend.embedded_postgres.cluster import Cluster
from tests.running_service import Caller, RunningService, ServiceFactory, run_input
from tests.runs.support import Reader, Stored, assert_well_formed, eventually, following
from tests.separate_database import SeparateDatabase, separate_database


@pytest.fixture(scope="module")
def services(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeparateDatabase]:
    """Services that soon take up what others leave."""
    settings = {"RUN_LEASE_SECONDS": "3", "RUN_HEARTBEAT_SECONDS": "0.5"}
    with separate_database(cluster, tmp_path_factory.mktemp("services"), **settings) as made:
        yield made


@pytest.fixture(scope="module")
def witness(services: SeparateDatabase) -> RunningService:
    """A process that outlives the others."""
    return services.start()


@pytest.fixture
def stored(services: SeparateDatabase) -> Stored:
    """What these services' database holds."""
    return Stored(services.connection)


def test_a_run_finishes_within_the_grace_period_and_new_ones_are_refused(
    services: SeparateDatabase, stored: Stored
) -> None:
    process = services.start(SHUTDOWN_GRACE_SECONDS="15")
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


def test_beyond_the_grace_period_the_stream_ends_and_the_run_goes_on_elsewhere(
    services: SeparateDatabase, witness: RunningService, stored: Stored
) -> None:
    process = services.start(SHUTDOWN_GRACE_SECONDS="0.3")
    caller, wish = Caller(), run_input("demo: slow 200")
    with process.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        seen = [next(frames) for _ in range(4)]
        process.process.send_signal(signal.SIGTERM)
        seen += list(frames)
    *committed, last = seen
    assert (last.id, last.event["type"], last.event["code"]) == ("", "RUN_ERROR", "stream_interrupted")
    assert [frame.number for frame in committed] == list(range(1, len(committed) + 1))
    assert process.ended() == 0
    with following(witness, caller, wish["runId"], after=committed[-1].number) as frames:
        rest = list(frames)
    assert_well_formed([*committed, *rest], wish["runId"])
    assert rest[-1].event["type"] == "RUN_FINISHED"
    row = stored.run(wish["runId"])
    assert (row["status"], row["fence"], row["crashes"]) == ("finished", 2, 0), "it was handed over, not lost"


def test_readers_of_the_envelope_are_told_the_same(service_factory: ServiceFactory) -> None:
    process = service_factory.start(SHUTDOWN_GRACE_SECONDS="0.3")
    wish = run_input("demo: slow 3000")
    address = "/ag-ui/events?protocol=envelope"
    with process.open_stream(Caller(), "POST", address, json=wish) as (response, frames):
        assert response.status_code == 200
        process.process.send_signal(signal.SIGTERM)
        [last] = list(frames)
    assert (last.id, last.event["data"]) == ("", {"code": "stream_interrupted", "retryable": True})


def test_a_rolling_restart_loses_no_run_and_no_event(services: SeparateDatabase, witness: RunningService) -> None:
    first, second = (services.start(SHUTDOWN_GRACE_SECONDS="0.3") for _ in range(2))
    wishes = [(Caller(), run_input(f"demo: slow {100 + number}")) for number in range(12)]
    with ExitStack() as streams:
        readers = []
        for number, (caller, wish) in enumerate(wishes):
            owner = (first, second)[number % 2]
            stream = owner.open_stream(caller, "POST", "/ag-ui/events", json=wish)
            readers.append(Reader(streams.enter_context(stream)[1]))
        for old in (first, second):
            eventually(lambda: all(len(reader.frames) > 3 for reader in readers), "every run is under way")
            assert old.stop() == 0
    for (caller, wish), reader in zip(wishes, readers, strict=True):
        whole = [frame for frame in reader.whole() if frame.id]
        if whole[-1].event["type"] != "RUN_FINISHED":  # else it was done before its process was
            with following(witness, caller, wish["runId"], after=whole[-1].number) as rest:
                whole += rest
        assert_well_formed(whole, wish["runId"])
        assert whole[-1].event["type"] == "RUN_FINISHED"
