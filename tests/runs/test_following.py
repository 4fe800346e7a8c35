"""Leaving, coming back, watching from elsewhere, stopping: a run does not live in the request that began it."""

from __future__ import annotations

import concurrent.futures
import json
import socket
from contextlib import ExitStack
from uuid import uuid4

import httpx
import psycopg
import pytest

from tests.running_service import Caller, RunningService, read_frames, run_input
from tests.runs.support import Reader, Stored, assert_well_formed, events, eventually, following, text, types, user


def test_a_run_goes_on_when_its_client_leaves(service: RunningService, stored: Stored) -> None:
    caller, wish = Caller(), run_input("demo: slow 50")
    with service.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        seen = [next(frames) for _ in range(5)]
    with following(service, caller, wish["runId"], after=seen[-1].number) as frames:
        rest = list(frames)
    assert_well_formed([*seen, *rest], wish["runId"])
    assert stored.run(wish["runId"])["status"] == "finished"
    eventually(lambda: "request.client_gone" in stored.audit(wish["runId"]), "the trail says that the client left")


def test_a_client_can_leave_and_come_back_again_and_again(service: RunningService, stored: Stored) -> None:
    caller, wish = Caller(), run_input("demo: slow 60")
    with service.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        seen = [next(frames)]
    while seen[-1].event["type"] != "RUN_FINISHED":
        path = f"/ag-ui/runs/{wish['runId']}/events"
        with service.open_stream(caller, "GET", path, headers={"Last-Event-ID": seen[-1].id}) as (_, frames):
            for frame, _ in zip(frames, range(6), strict=False):
                seen.append(frame)
    assert_well_formed(seen, wish["runId"])
    assert [json.loads(line) for line in stored.log(wish["runId"])] == [frame.event for frame in seen]


def test_several_viewers_each_see_the_whole_run(service: RunningService, other_process: RunningService) -> None:
    caller, wish = Caller(), run_input("demo: slow 60")
    with ExitStack() as opened:
        _, frames = opened.enter_context(service.open_stream(caller, "POST", "/ag-ui/events", json=wish))
        first = next(frames)
        readers = [
            Reader(opened.enter_context(following(process, caller, wish["runId"])))
            for process in (service, service, other_process, other_process)
        ]
        own = [first, *frames]
        assert_well_formed(own, wish["runId"])
        for reader in readers:
            assert reader.whole() == own


def test_viewers_elsewhere_who_join_late_keep_nothing_from_those_before(
    service: RunningService, other_process: RunningService
) -> None:
    caller, wish = Caller(), run_input("demo: slow 150")
    with ExitStack() as opened:
        _, frames = opened.enter_context(service.open_stream(caller, "POST", "/ag-ui/events", json=wish))
        own, readers = [], []
        for frame in frames:
            own.append(frame)
            if (
                frame.event["type"] == "TEXT_MESSAGE_CONTENT"
            ):  # one more reader with each token, until the run has ended
                readers.append(Reader(opened.enter_context(following(other_process, caller, wish["runId"]))))
        assert len(readers) == 20
        for reader in readers:
            assert reader.whole() == own


def test_a_cursor_beyond_the_end_waits_for_the_end_and_no_longer(service: RunningService) -> None:
    caller, wish = Caller(), run_input("demo: slow 40")
    with service.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        next(frames)
        with following(service, caller, wish["runId"], after=100_000) as far:
            reader = Reader(far)
            list(frames)
            assert reader.whole(10) == []


def test_the_envelope_can_be_followed_from_the_middle(service: RunningService) -> None:
    caller, wish = Caller(), run_input("What is the weather like in Paris, Rome and Oslo?")
    own = service.stream(caller, "POST", "/ag-ui/events?protocol=envelope", json=wish)
    for already_seen in range(len(own) - 1):
        path = f"/ag-ui/runs/{wish['runId']}/events?protocol=envelope&after={own[already_seen].number}"
        assert service.stream(caller, "GET", path) == own[already_seen + 1 :]


def test_a_finished_run_can_be_replayed_whole_and_nothing_comes_after_its_end(
    service: RunningService, other_process: RunningService
) -> None:
    caller, wish = Caller(), run_input("hello")
    own = service.stream(caller, "POST", "/ag-ui/events", json=wish)
    for process in (service, other_process):
        with following(process, caller, wish["runId"]) as frames:
            assert list(frames) == own
        with process.client(caller) as client:
            assert client.get(f"/ag-ui/runs/{wish['runId']}/events?after={len(own)}").status_code == 204


@pytest.mark.parametrize("after", ["", "-1", "x", "1.5", "9" * 19])
def test_a_cursor_that_is_none_is_refused(service: RunningService, after: str) -> None:
    caller, wish = Caller(), run_input("hello")
    service.stream(caller, "POST", "/ag-ui/events", json=wish)
    with service.client(caller) as client:
        answer = client.get(f"/ag-ui/runs/{wish['runId']}/events", params={"after": after})
        other = client.get(f"/ag-ui/runs/{wish['runId']}/events", headers={"Last-Event-ID": "another-run.3"})
    assert (answer.status_code, answer.json()["field"]) == (422, "after")
    assert (other.status_code, other.json()["field"]) == (400, "Last-Event-ID")


def test_a_second_run_in_a_busy_thread_is_refused_with_the_id_of_the_first(
    service: RunningService, other_process: RunningService, stored: Stored
) -> None:
    caller, wish = Caller(), run_input("demo: slow 300")
    with service.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        next(frames)
        for process in (service, other_process):
            with process.client(caller) as client:
                refused = client.post("/ag-ui/events", json=run_input("hello", threadId=wish["threadId"]))
            assert refused.status_code == 409
            assert (refused.json()["code"], refused.json()["run_id"]) == ("thread_busy", wish["runId"])
        with service.client(caller) as client:
            client.post(f"/ag-ui/runs/{wish['runId']}/cancel").raise_for_status()
        list(frames)
    assert stored.rows_of(caller) == (1, 1, 1)
    assert service.post_run(caller, "hello", threadId=wish["threadId"])[-1].event["type"] == "RUN_FINISHED"


def test_of_runs_begun_in_one_thread_in_the_same_moment_one_goes_on(service: RunningService, stored: Stored) -> None:
    caller, thread_id = Caller(), str(uuid4())
    wishes = [run_input("hello", threadId=thread_id) for _ in range(8)]

    def post(wish: dict[str, object]) -> int:
        with service.client(caller) as client:
            return client.post("/ag-ui/events", json=wish).status_code

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(post, wishes))
    assert set(statuses) <= {200, 409}
    assert statuses.count(200) >= 1
    assert stored.rows_of(caller) == (1, statuses.count(200), statuses.count(200))


@pytest.mark.parametrize("version", ["1.0", ...])
@pytest.mark.parametrize("stopped_from", ["the same process", "another process"])
def test_a_run_is_stopped_from_any_process_and_says_so_in_the_clients_own_words(
    service: RunningService, other_process: RunningService, stored: Stored, stopped_from: str, version: object
) -> None:
    caller, wish = Caller(), run_input("demo: slow 2000", protocolVersion=version)
    stopper = service if stopped_from == "the same process" else other_process
    with service.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        seen = [next(frames) for _ in range(5)]
        with stopper.client(caller) as client:
            answer = client.post(f"/ag-ui/runs/{wish['runId']}/cancel")
        assert (answer.status_code, answer.json()) == (202, {"runId": wish["runId"], "cancelling": True})
        seen += list(frames)
    assert_well_formed(seen, wish["runId"])
    end = seen[-1].event
    assert end.get("outcome", {}).get("type", end.get("code")) == "cancelled"
    assert end["type"] == ("RUN_FINISHED" if version == "1.0" else "RUN_ERROR")
    row = stored.run(wish["runId"])
    assert (row["status"], row["outcome"]) == ("cancelled", {"type": "cancelled"})
    assert stored.audit(wish["runId"])[-1] == "run.cancelled"
    with service.client(caller) as client:
        late = client.post(f"/ag-ui/runs/{wish['runId']}/cancel")
    assert (late.status_code, late.json()["cancelling"]) == (200, False)


def test_what_a_stopped_run_has_said_stays_in_its_thread(service: RunningService) -> None:
    caller, wish = Caller(), run_input("demo: slow 300")
    with service.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        seen = [next(frames) for _ in range(5)]
        with service.client(caller) as client:
            client.post(f"/ag-ui/runs/{wish['runId']}/cancel")
        seen += list(frames)
    again = service.post_run(caller, "", threadId=wish["threadId"], messages=[user("hello")])
    [snapshot] = events(again, "MESSAGES_SNAPSHOT")
    assert snapshot["messages"][1]["content"] == text(seen)


def test_a_run_that_is_stopped_while_its_end_is_being_written_has_one_ending(
    service: RunningService, stored: Stored, superuser_connection: psycopg.Connection
) -> None:
    caller, wish = Caller(), run_input("demo: slow 30")
    with (
        service.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames),
        service.client(caller) as client,
    ):
        seen = [next(frames) for _ in range(4)]
        turns = model_turns(client)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            # While the row is held, neither the request to stop nor the run's last events can be committed.
            with superuser_connection.transaction():
                superuser_connection.execute(
                    "SELECT 1 FROM orchestration_run WHERE public_id = %s FOR UPDATE", (wish["runId"],)
                )
                answer = pool.submit(client.post, f"/ag-ui/runs/{wish['runId']}/cancel")
                eventually(lambda: model_turns(client) > turns, "the model has finished its answer")
            assert answer.result().status_code == 202
        seen += list(frames)
    assert_well_formed(seen, wish["runId"])
    assert [json.loads(line) for line in stored.log(wish["runId"])] == [frame.event for frame in seen]
    assert stored.run(wish["runId"])["status"] == "finished"
    assert [action for action in stored.audit(wish["runId"]) if action.startswith("run.")] == [
        "run.started",
        "run.finished",
    ]


def model_turns(client: httpx.Client) -> float:
    """How many model turns the process has brought to their end."""
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("agentbackend_model_turns_total"))


def test_heartbeats_keep_a_quiet_stream_open(other_process: RunningService) -> None:
    with other_process.client(Caller()) as client:
        with client.stream("POST", "/ag-ui/events", json=run_input("demo: slow 900")) as response:
            lines = response.iter_lines()
            comments = [line for line, _ in zip(lines, range(60), strict=False) if line.startswith(":")]
    assert comments
    assert set(comments) == {": heartbeat"}


@pytest.mark.parametrize("address", ["/ag-ui/events?protocol=envelope", "/ag-ui/events"])
def test_a_stream_opens_before_there_is_anything_to_tell(service: RunningService, address: str) -> None:
    caller, wish = Caller(), run_input("demo: slow 60000")  # its first word comes after the first regular heartbeat
    with service.open_stream(caller, "POST", address, json=wish, timeout=5) as (response, _):
        assert response.headers["x-run-id"] == wish["runId"]
    with following(service, caller, wish["runId"], after=3) as frames, service.client(caller) as client:
        client.post(f"/ag-ui/runs/{wish['runId']}/cancel").raise_for_status()
        assert list(frames)[-1].event["outcome"] == {"type": "cancelled"}


def test_a_reader_who_takes_nothing_for_a_while_gets_everything_then(service: RunningService, stored: Stored) -> None:
    caller, thread_id, question = Caller(), str(uuid4()), user("x" * 900_000)
    service.post_run(caller, "", threadId=thread_id, messages=[question])
    wish = run_input("What is the weather like in Oslo?", threadId=thread_id)  # its snapshot restates the long question
    body = json.dumps(wish).encode()
    head = [
        "POST /ag-ui/events HTTP/1.1", f"Host: 127.0.0.1:{service.port}", "Content-Type: application/json",
        f"Content-Length: {len(body)}", "Connection: close", *(f"{name}: {value}" for name, value in caller.headers.items()),
    ]  # fmt: skip
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", service.port))
        connection.sendall("\r\n".join([*head, "", ""]).encode() + body)
        eventually(lambda: stored.values("SELECT 1 FROM orchestration_run WHERE public_id = %s AND status = 'finished'",
                                         wish["runId"]), "the run has finished while nobody read")  # fmt: skip
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    frames = list(read_frames(iter(_unchunked(received).decode().split("\n"))))
    assert_well_formed(frames, wish["runId"])
    assert len(str(events(frames, "MESSAGES_SNAPSHOT"))) > 900_000


def _unchunked(response: bytes) -> bytes:
    head, _, rest = response.partition(b"\r\n\r\n")
    assert b"chunked" in head.lower()
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body


def test_two_hundred_streams_at_once_all_complete(service: RunningService) -> None:
    def one(_: int) -> list[str]:
        wish = run_input("hello")
        frames = service.stream(Caller(), "POST", "/ag-ui/events", json=wish)
        assert_well_formed(frames, wish["runId"])
        return types(frames)[-1:]

    with concurrent.futures.ThreadPoolExecutor(200) as pool:
        assert all(ends == ["RUN_FINISHED"] for ends in pool.map(one, range(200)))
