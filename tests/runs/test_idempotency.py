"""Idempotency keys, and runs in the background: asked for once, done once, followed like any other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx

from tests.running_service import Caller, RunningService, run_input
from tests.runs.support import Stored, assert_well_formed, eventually, following, text


def post(service: RunningService, caller: Caller, document: object, key: str, query: str = "") -> httpx.Response:
    with service.client(caller) as client:
        return client.post(f"/ag-ui/events{query}", json=document, headers={"Idempotency-Key": key})


def test_the_same_key_gives_the_same_run_from_its_beginning(service: RunningService, stored: Stored) -> None:
    caller, wish, key = Caller(), run_input("hello"), str(uuid4())
    first, second = (post(service, caller, wish, key) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.headers["x-run-id"] == second.headers["x-run-id"] == wish["runId"]
    assert [line for line in first.text.splitlines() if line.startswith("data")] == [
        line for line in second.text.splitlines() if line.startswith("data")
    ]
    assert stored.rows_of(caller) == (1, 1, 1)


def test_of_requests_in_the_same_moment_one_begins_the_run_and_all_are_answered_with_it(
    service: RunningService, stored: Stored
) -> None:
    caller, wish, key = Caller(), run_input("demo: slow 20"), str(uuid4())
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: post(service, caller, wish, key), range(6)))
    assert [answer.status_code for answer in answers] == [200] * 6
    assert {answer.text.count("RUN_FINISHED") for answer in answers} == {1}
    assert stored.rows_of(caller) == (1, 1, 1)


def test_a_key_is_not_taken_for_another_request(service: RunningService) -> None:
    caller, key = Caller(), str(uuid4())
    assert post(service, caller, run_input("hello"), key).status_code == 200
    refused = post(service, caller, run_input("something else"), key)
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")


def test_a_key_is_not_taken_for_another_agent(service: RunningService) -> None:
    caller, key, wish = Caller(), str(uuid4()), run_input("hello")
    assert post(service, caller, wish, key).status_code == 200
    with service.client(caller) as client:
        refused = client.post("/ag-ui/agent/assistant/run", json=wish, headers={"Idempotency-Key": key})
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")


def test_of_runs_that_begin_in_one_thread_at_once_the_others_are_told_which_one_goes_on(
    service: RunningService,
) -> None:
    caller = Caller()
    thread = str(uuid4())
    wishes = [run_input("demo: slow 50", threadId=thread) for _ in range(8)]

    def begin(wish: dict[str, Any]) -> httpx.Response:
        with service.client(caller) as client:
            return client.post("/ag-ui/events", json=wish)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(begin, wishes))
    [begun] = [answer for answer in answers if answer.status_code == 200]
    refused = [answer.json() for answer in answers if answer.status_code == 409]
    assert {problem["run_id"] for problem in refused} == {begun.headers["x-run-id"]}
    assert len(refused) == 7


def test_a_key_belongs_to_its_caller(service: RunningService) -> None:
    key = str(uuid4())
    for caller in (Caller(), Caller()):
        assert post(service, caller, run_input("hello"), key).status_code == 200


def test_a_key_that_no_header_can_hold_well_is_refused(service: RunningService) -> None:
    for key in ("", "x" * 129, "two words"):
        refused = post(service, Caller(), run_input("hello"), key)
        assert (refused.status_code, refused.json()["field"]) == (400, "Idempotency-Key")


def test_a_run_in_the_background_is_answered_at_once_and_followed_like_any_other(
    service: RunningService, stored: Stored
) -> None:
    caller, wish = Caller(), run_input("demo: slow 30", forwardedProps={"background": True})
    with service.client(caller) as client:
        answer = client.post("/ag-ui/events", json=wish)
    assert answer.status_code == 202
    assert answer.json()["runId"] == answer.headers["x-run-id"] == wish["runId"]
    assert answer.headers["location"] == f"/ag-ui/runs/{wish['runId']}/events"
    with following(service, caller, wish["runId"]) as frames:
        seen = list(frames)
    assert_well_formed(seen, wish["runId"])
    assert text(seen)
    assert stored.run(wish["runId"])["background"]
    assert stored.audit(wish["runId"])[:2] == ["request.opened", "run.started"]


def test_the_one_line_request_can_be_done_in_the_background_and_repeated_under_its_key(
    service: RunningService, stored: Stored
) -> None:
    caller, key = Caller(), str(uuid4())
    with service.client(caller) as client:
        address = "/ag-ui/events?user_message=hello&background=1"
        answers = [client.get(address, headers={"Idempotency-Key": key}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    [run_id] = {answer.json()["runId"] for answer in answers}
    eventually(lambda: stored.run(run_id)["status"] == "finished", "the worker has done it")
    assert stored.rows_of(caller) == (1, 1, 1)


def test_a_queued_run_that_is_cancelled_never_begins(service: RunningService, stored: Stored) -> None:
    caller, wish = Caller(), run_input("demo: slow 3000", forwardedProps={"background": True})
    with service.client(caller) as client:
        assert client.post("/ag-ui/events", json=wish).status_code == 202
        assert client.post(f"/ag-ui/runs/{wish['runId']}/cancel").status_code == 202
    with following(service, caller, wish["runId"]) as frames:
        seen = list(frames)
    assert_well_formed(seen, wish["runId"])
    assert seen[-1].event["outcome"] == {"type": "cancelled"}
    assert stored.run(wish["runId"])["status"] == "cancelled"


def test_only_yes_and_no_are_taken_for_background(service: RunningService) -> None:
    with service.client(Caller()) as client:
        refused = client.post("/ag-ui/events?background=perhaps", json=run_input("hello"))
    assert (refused.status_code, refused.json()["field"]) == (422, "background")
