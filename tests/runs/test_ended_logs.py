"""Runs whose events are not there any more: nobody is left waiting for them."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.running_service import Caller, RunningService, run_input
from tests.runs.support import Reader, Stored, assert_well_formed, eventually, following

Remove = Callable[[str], None]


@pytest.fixture
def remove_run(superuser_connection: psycopg.Connection) -> Remove:
    """Removes a run and all that belongs to it, as the deletion of its thread does."""

    def remove(public_id: str) -> None:
        [(run_id, thread_id)] = superuser_connection.execute(
            "SELECT id, thread_id FROM orchestration_run WHERE public_id = %s", (public_id,)
        ).fetchall()
        with superuser_connection.transaction():
            for table in (
                "conversation_turns",
                "orchestration_step",
                "orchestration_interrupt",
                "orchestration_runevents",
            ):
                superuser_connection.execute(f"DELETE FROM {table} WHERE run_id = %s", (run_id,))
            superuser_connection.execute("DELETE FROM orchestration_run WHERE id = %s", (run_id,))
            superuser_connection.execute("DELETE FROM orchestration_thread WHERE id = %s", (thread_id,))

    return remove


@pytest.fixture
def expire_log(superuser_connection: psycopg.Connection) -> Remove:
    """Removes a run's events and says so in its row, as retention does."""

    def expire(public_id: str) -> None:
        with superuser_connection.transaction():
            [(run_id,)] = superuser_connection.execute(
                "UPDATE orchestration_run SET events_expired_at = now() WHERE public_id = %s RETURNING id", (public_id,)
            ).fetchall()
            superuser_connection.execute("DELETE FROM orchestration_runevents WHERE run_id = %s", (run_id,))

    return expire


def test_a_run_whose_log_has_expired_is_refused_as_gone(service: RunningService, expire_log: Remove) -> None:
    caller, wish = Caller(), run_input("hello")
    last = service.stream(caller, "POST", "/ag-ui/events", json=wish)[-1]
    expire_log(wish["runId"])
    path = f"/ag-ui/runs/{wish['runId']}/events"
    with service.client(caller) as client:
        for address, headers in ((path, {}), (path, {"Last-Event-ID": f"{wish['runId']}.1"}),
                                 ("/ag-ui/events", {"Last-Event-ID": f"{wish['runId']}.1"})):  # fmt: skip
            answer = client.get(address, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (410, "events_expired")
        assert client.get(path, headers={"Last-Event-ID": last.id}).status_code == 204, "nothing is missing for it"
    with service.client(Caller()) as stranger:
        assert stranger.get(path).status_code == 404


@pytest.mark.parametrize("protocol", ["ag-ui", "envelope"])
def test_readers_of_a_run_that_is_removed_meanwhile_are_told(
    service: RunningService, other_process: RunningService, remove_run: Remove, protocol: str
) -> None:
    caller, wish = Caller(), run_input("demo: slow 3000")
    with service.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, own):
        next(own)
        path = f"/ag-ui/runs/{wish['runId']}/events?protocol={protocol}"
        with other_process.open_stream(caller, "GET", path) as (response, frames):
            assert response.status_code == 200
            reader = Reader(frames)
            remove_run(wish["runId"])
            last = reader.whole(20)[-1]
    assert (last.id, (last.event.get("data") or last.event)["code"]) == ("", "stream_interrupted")
    with service.client(caller) as client:
        assert client.get(f"/ag-ui/runs/{wish['runId']}/events").status_code == 404


def test_a_reader_whose_run_ends_elsewhere_and_loses_its_log_is_told(
    service: RunningService, other_process: RunningService, superuser_connection: psycopg.Connection
) -> None:
    caller, wish = Caller(), run_input("demo: slow 3000")
    with (
        service.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, own),
        following(other_process, caller, wish["runId"]) as frames,
    ):
        next(own)
        seen = [next(frames)]
        reader = Reader(frames)
        with superuser_connection.transaction():  # what its holder writes from here on is refused
            superuser_connection.execute(
                "UPDATE orchestration_run SET status = 'finished', fence = fence + 1, last_seq = 1000, events_expired_at = now() "
                "WHERE public_id = %s",
                (wish["runId"],),
            )
        last = reader.whole(20)[-1]
    assert (last.id, last.event["code"]) == ("", "stream_interrupted")
    assert seen[0].number == 1


def test_a_cursor_beyond_the_end_of_a_run_elsewhere_waits_for_the_end_and_no_longer(
    service: RunningService, other_process: RunningService, stored: Stored
) -> None:
    caller, wish = Caller(), run_input("demo: slow 40")
    with service.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, own):
        seen = [next(own)]
        with following(other_process, caller, wish["runId"], after=100_000) as far:
            reader = Reader(far)
            seen += own
            assert_well_formed(seen, wish["runId"])
            assert reader.whole(20) == []
    eventually(lambda: stored.run(wish["runId"])["status"] == "finished", "the run has ended by itself")
