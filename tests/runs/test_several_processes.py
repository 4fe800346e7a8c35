"""Two processes, one database, with Redis and without: what is begun in one is followed and stopped through the other.

`first` answers with the demo model, `second` with a model server of the tests' own. Leases are long and renewed seldom, so that
nothing is found out by a renewal.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
import pytest

from tests.redis_server import RedisServer
from tests.running_service import Caller, RunningService, ServiceFactory, run_input
from tests.runs.support import Reader, Stored, assert_well_formed, eventually, following
from tests.runs.upstream import Upstream

PATIENT = {"RUN_LEASE_SECONDS": "300", "RUN_HEARTBEAT_SECONDS": "100"}
BACK_AGAIN = "other processes can be told of events again"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two processes, what the second one's model is asked, and their Redis if they have one."""

    first: RunningService
    second: RunningService
    upstream: Upstream
    redis: RedisServer | None


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    if not RedisServer.is_installed():
        pytest.skip("redis-server is not installed")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


def _pair(service_factory: ServiceFactory, redis: RedisServer | None) -> Iterator[Pair]:
    upstream = Upstream()
    settings = {**PATIENT, "REDIS_URL": redis.url} if redis else PATIENT
    first = service_factory.start(**settings)
    second = service_factory.start(OPENAI_BASE_URL=upstream.url, OPENAI_MODEL="m", **settings)
    if redis is not None:
        eventually(lambda: redis.listeners() == 2, "both processes listen")
    yield Pair(first, second, upstream, redis)
    for process in (first, second):
        process.stop()
    upstream.close()


@pytest.fixture(scope="module")
def pair_on_redis(service_factory: ServiceFactory, redis_server: RedisServer) -> Iterator[Pair]:
    yield from _pair(service_factory, redis_server)


@pytest.fixture(scope="module")
def pair_without_redis(service_factory: ServiceFactory) -> Iterator[Pair]:
    yield from _pair(service_factory, None)


@pytest.fixture(params=["pair_on_redis", "pair_without_redis"])
def pair(request: pytest.FixtureRequest) -> Pair:
    found: Pair = request.getfixturevalue(request.param)
    return found


def test_a_client_of_one_process_follows_a_run_of_the_other(pair: Pair, stored: Stored) -> None:
    caller, wish = Caller(), run_input("demo: slow 30")
    with pair.first.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, own):
        seen = [next(own)]
        with following(pair.second, caller, wish["runId"]) as frames:
            followed = list(frames)
        seen += own
    assert_well_formed(followed, wish["runId"])
    assert followed == seen
    assert stored.run(wish["runId"])["fence"] == 1


def test_viewers_of_both_processes_each_see_every_event_once_and_in_order(pair: Pair) -> None:
    caller, wish = Caller(), run_input("demo: slow 40")
    with ExitStack() as opened:
        _, own = opened.enter_context(pair.first.open_stream(caller, "POST", "/ag-ui/events", json=wish))
        seen, readers = [next(own)], []
        for process in (pair.first, pair.second) * 3:
            frames = opened.enter_context(following(process, caller, wish["runId"], after=len(readers) % 3))
            readers.append(Reader(frames))
            seen.append(next(own))
        seen += own
        assert_well_formed(seen, wish["runId"])
        for number, reader in enumerate(readers):
            assert reader.whole() == seen[number % 3 :]


def test_a_cancellation_through_one_process_ends_the_run_of_the_other_and_hangs_up_on_the_model(
    pair: Pair, stored: Stored
) -> None:
    pair.upstream.hung_up.clear()
    caller, wish = Caller(), run_input("endless")
    with ExitStack() as opened:
        _, own = opened.enter_context(pair.second.open_stream(caller, "POST", "/ag-ui/events", json=wish))
        seen = [next(own) for _ in range(5)]
        viewer = Reader(opened.enter_context(following(pair.first, caller, wish["runId"])))
        with pair.first.client(caller) as client:
            answer = client.post(f"/ag-ui/runs/{wish['runId']}/cancel")
        assert (answer.status_code, answer.json()["cancelling"]) == (202, True)
        assert pair.upstream.hung_up.wait(10), "the request to the model was not closed"
        seen += own
        assert viewer.whole() == seen
    assert_well_formed(seen, wish["runId"])
    row = stored.run(wish["runId"])
    assert (row["status"], row["cancel_requested_by"], row["fence"]) == ("cancelled", caller.id, 1)


def test_a_stranger_cannot_stop_a_run_through_another_process(pair: Pair, stored: Stored) -> None:
    caller, wish = Caller(), run_input("demo: slow 30")
    with pair.first.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, own):
        next(own)
        with pair.second.client(Caller()) as stranger:
            assert stranger.post(f"/ag-ui/runs/{wish['runId']}/cancel").status_code == 404
        list(own)
    assert stored.run(wish["runId"])["status"] == "finished"


def test_no_event_is_lost_over_a_restart_of_redis_and_the_doorbells_come_back(
    pair_on_redis: Pair, redis_server: RedisServer
) -> None:
    pair, caller, wish = pair_on_redis, Caller(), run_input("demo: slow 500")
    with (
        pair.first.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, own),
        following(pair.second, caller, wish["runId"]) as followed,
    ):
        reader, seen = Reader(own), [next(followed) for _ in range(6)]
        redis_server.stop()
        try:
            seen += [next(followed) for _ in range(5)]
        finally:
            redis_server.start()
        eventually(lambda: redis_server.listeners() == 2, "both listen again")
        eventually(lambda: BACK_AGAIN in pair.first.log.read_text(), "the owner rings again")
        rung = redis_server.published()
        seen += followed
        assert seen == reader.whole()
    assert_well_formed(seen, wish["runId"])
    assert redis_server.published() >= rung + 3


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def test_a_process_starts_and_serves_while_redis_is_away(
    service_factory: ServiceFactory, redis_server: RedisServer
) -> None:
    redis_server.stop()
    try:
        lonely = service_factory.start(wait=False, REDIS_URL=redis_server.url)
        with lonely.client() as client:
            eventually(lambda: _answers(client), "the service answers", seconds=60)
        wish = run_input("hello")
        frames = lonely.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    finally:
        redis_server.start()
    assert_well_formed(frames, wish["runId"])
    eventually(lambda: redis_server.listeners() >= 1, "it joins the others when Redis is there")
    assert lonely.tail().count("cannot be told of events") == 1
    assert lonely.stop() == 0
