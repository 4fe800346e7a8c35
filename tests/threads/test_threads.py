"""A caller's threads: listed a page at a time, read, renamed, archived, deleted; a stranger's are not there."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote
from uuid import uuid4

import psycopg
import pytest

from tests.running_service import Caller, RunningService, run_input
from tests.runs.support import Stored, eventually


@pytest.fixture
def stored(superuser_connection: psycopg.Connection) -> Stored:
    return Stored(superuser_connection)


def listed(service: RunningService, caller: Caller, **query: Any) -> dict[str, Any]:
    with service.client(caller) as client:
        answer = client.get("/ag-ui/threads", params=query)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def thread_of(service: RunningService, caller: Caller, text: str = "hello", **changes: Any) -> str:
    """A thread with one finished run."""
    wish = run_input(text, **changes)
    service.post_run(caller, text, **wish)
    return str(wish["threadId"])


def test_threads_are_listed_by_their_last_use_a_page_at_a_time(service: RunningService) -> None:
    caller = Caller()
    made = [thread_of(service, caller, f"hello {n}") for n in range(5)]
    thread_of(service, caller, "again", threadId=made[0])
    first = listed(service, caller, limit=3)
    assert [thread["id"] for thread in first["threads"]] == [made[0], made[4], made[3]]
    second = listed(service, caller, limit=3, cursor=first["nextCursor"])
    assert [thread["id"] for thread in second["threads"]] == [made[2], made[1]]
    assert second["nextCursor"] is None
    assert first["threads"][1]["name"] == "hello 4"
    assert first["threads"][1]["agentId"] == "assistant"


def test_threads_are_listed_for_one_agent(service: RunningService) -> None:
    caller = Caller()
    thread_of(service, caller)
    assert len(listed(service, caller, agentId="assistant")["threads"]) == 1
    assert listed(service, caller, agentId="somebody-else") == {"threads": [], "nextCursor": None}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"cursor": "abc"}, "cursor"),
        ({"includeArchived": "?"}, "includeArchived"),
    ],
)
def test_a_list_that_cannot_be_made_is_refused(service: RunningService, query: dict[str, Any], field: str) -> None:
    with service.client(Caller()) as client:
        answer = client.get("/ag-ui/threads", params=query)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


def test_a_threads_parts_are_what_its_runs_left(service: RunningService) -> None:
    caller = Caller()
    thread = thread_of(service, caller, "What is the weather like in London?", state={"unit": "celsius"})
    with service.client(caller) as client:
        messages = client.get(f"/ag-ui/threads/{thread}/messages").json()["messages"]
        events = client.get(f"/ag-ui/threads/{thread}/events").json()["events"]
        state = client.get(f"/ag-ui/threads/{thread}/state").json()["state"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant"]
    assert (events[0]["type"], events[-1]["type"]) == ("RUN_STARTED", "RUN_FINISHED")
    assert state == {"unit": "celsius"}


def test_a_thread_is_renamed_and_archived(service: RunningService, stored: Stored) -> None:
    caller = Caller()
    thread = thread_of(service, caller)
    with service.client(caller) as client:
        assert client.patch(f"/ag-ui/threads/{thread}", json={"name": "  Weather  "}).json()["name"] == "Weather"
        assert client.post(f"/ag-ui/threads/{thread}/archive", json={}).json()["archived"]
        assert listed(service, caller)["threads"] == []
        assert [found["name"] for found in listed(service, caller, includeArchived="true")["threads"]] == ["Weather"]
        assert not client.patch(f"/ag-ui/threads/{thread}", json={"archived": False}).json()["archived"]
        assert client.get(f"/ag-ui/threads/{thread}").json()["name"] == "Weather"
    recorded = stored.values(
        "SELECT action FROM audit_events WHERE actor_id = %s AND action LIKE 'thread.%%'", caller.id
    )
    assert recorded == ["thread.changed"] * 3


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b"no json", b'{"name": 5}', b'{"name": ""}', b'{"name": "a\\u0000"}', b'{"archived": "yes"}']
)
def test_a_change_that_says_nothing_usable_changes_nothing(service: RunningService, body: bytes) -> None:
    caller = Caller()
    thread = thread_of(service, caller)
    with service.client(caller) as client:
        before = client.get(f"/ag-ui/threads/{thread}").json()
        answer = client.patch(f"/ag-ui/threads/{thread}", content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422)
        assert answer.headers["content-type"] == "application/problem+json"
        assert client.get(f"/ag-ui/threads/{thread}").json() == before


def test_a_deleted_thread_is_gone_and_its_audit_trail_stays(service: RunningService, stored: Stored) -> None:
    caller, wish = Caller(), run_input("What is the weather like in London?")
    service.post_run(caller, "", **wish)
    run = stored.run(wish["runId"])
    with service.client(caller) as client:
        assert client.delete(f"/ag-ui/threads/{wish['threadId']}").status_code == 204
        assert client.get(f"/ag-ui/threads/{wish['threadId']}").status_code == 404
        assert client.get(f"/ag-ui/runs/{wish['runId']}/events").status_code == 404
    assert stored.rows_of(caller) == (0, 0, 0)
    assert stored.values("SELECT 1 FROM orchestration_runevents WHERE run_id = %s", run["id"]) == []
    assert stored.values("SELECT 1 FROM orchestration_step WHERE run_id = %s", run["id"]) == []
    actions = stored.values("SELECT action FROM audit_events WHERE thread_id = %s", run["thread_id"])
    assert {"run.started", "tool.called", "thread.deleted"} <= set(actions)


def test_a_thread_is_not_deleted_while_a_run_is_going_on(service: RunningService, stored: Stored) -> None:
    caller, wish = Caller(), run_input("demo: slow 1000")
    with (
        service.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames),
        service.client(caller) as client,
    ):
        next(frames)
        answer = client.delete(f"/ag-ui/threads/{wish['threadId']}")
        assert (answer.status_code, answer.json()["run_id"]) == (409, wish["runId"])
        assert listed(service, caller)["threads"][0]["activeRunId"] == wish["runId"]
        client.post(f"/ag-ui/agent/assistant/stop/{wish['threadId']}")
        list(frames)
        eventually(lambda: client.delete(f"/ag-ui/threads/{wish['threadId']}").status_code == 204, "it is deleted")


def test_a_strangers_thread_is_not_there(service: RunningService) -> None:
    thread = thread_of(service, Caller())
    with service.client(Caller()) as stranger:
        answers = [
            stranger.get(f"/ag-ui/threads/{thread}"),
            *(stranger.get(f"/ag-ui/threads/{thread}/{part}") for part in ("messages", "events", "state")),
            stranger.patch(f"/ag-ui/threads/{thread}", json={"name": "mine"}),
            stranger.post(f"/ag-ui/threads/{thread}/archive", json={}),
            stranger.post(f"/ag-ui/agent/assistant/stop/{thread}"),
            stranger.delete(f"/ag-ui/threads/{thread}"),
        ]
    assert {answer.status_code for answer in answers} == {404}


def test_ids_with_slashes_can_be_addressed(service: RunningService) -> None:
    caller = Caller()
    wish = run_input("hello", threadId=f"team/7/{uuid4()}", runId=f"run/{uuid4()}")
    service.post_run(caller, "", **wish)
    with service.client(caller) as client:
        assert client.get(f"/ag-ui/threads/{quote(wish['threadId'], safe='')}").json()["id"] == wish["threadId"]
        assert client.get(f"/ag-ui/runs/{quote(wish['runId'], safe='')}/events").status_code == 200
        assert client.post(f"/ag-ui/runs/{wish['runId']}/cancel").json()["cancelling"] is False
