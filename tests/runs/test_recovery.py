"""Runs go on when their process does not: real processes, killed for real, on one PostgreSQL."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentbackend.embedded_postgres.cluster import Cluster
from orchestration.store import JOURNAL_VERSION
from tests.running_service import Caller, Frame, RunningService, run_input
from tests.runs.effect_services import effect_services
from tests.runs.effect_tools import ROLE
from tests.runs.support import Reader, Stored, assert_well_formed, events, eventually, following, text, types
from tests.runs.upstream import Upstream
from tests.separate_database import SeparateDatabase


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.close()


@pytest.fixture(scope="module")
def services(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, upstream: Upstream
) -> Iterator[SeparateDatabase]:
    """Services that have the tools with effects and do as the tests' own model says."""
    with effect_services(cluster, tmp_path_factory, upstream) as made:
        yield made


@pytest.fixture(scope="module")
def successor(services: SeparateDatabase) -> RunningService:
    """The process that outlives the others."""
    return services.start()


@pytest.fixture
def stored(services: SeparateDatabase) -> Stored:
    """What these services' database holds."""
    return Stored(services.connection)


@dataclass(frozen=True)
class Effects:
    """What a caller's tools have done, and the gate that lets them end."""

    folder: Path

    def seen(self) -> list[str]:
        file = self.folder / "effects"
        return file.read_text().splitlines() if file.exists() else []

    def go_on(self) -> None:
        (self.folder / "go-on").touch()


@pytest.fixture
def tester() -> Caller:
    return Caller(role=ROLE)


@pytest.fixture
def effects(services: SeparateDatabase, tester: Caller) -> Effects:
    folder = Path(services.settings["EFFECTS_FOLDER"]) / tester.id
    folder.mkdir()
    return Effects(folder)


def killed_in_a_call(
    owner: RunningService, successor: RunningService, caller: Caller, effects: Effects, kind: str
) -> tuple[dict[str, Any], list[Frame]]:
    """Kill the owner while the tool is at work; returns the wish and the whole run as a reader who reconnects sees it."""
    wish = run_input(f"call {kind}_effect_tool")
    with owner.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        reader = Reader(frames)
        eventually(effects.seen, "the tool is at work")
        owner.stop(signal.SIGKILL)
        with pytest.raises(Exception):  # noqa: B017 - however the client's library says that the connection is cut
            reader.whole()
    effects.go_on()
    seen = reader.frames
    with following(successor, caller, wish["runId"], after=seen[-1].number) as rest:
        return wish, [*seen, *rest]


@pytest.mark.parametrize("kind", ["idempotent", "unsafe"])
def test_between_steps_nothing_is_done_twice(
    services: SeparateDatabase,
    successor: RunningService,
    upstream: Upstream,
    tester: Caller,
    effects: Effects,
    kind: str,
) -> None:
    owner = services.start()
    effects.go_on()
    upstream.requests.clear()
    upstream.may_answer_after_tools.clear()
    wish = run_input(f"call {kind}_effect_tool")
    try:
        with owner.open_stream(tester, "POST", "/ag-ui/events", json=wish) as (_, frames):
            seen = []
            while not events(seen, "TOOL_CALL_RESULT"):
                seen.append(next(frames))
            owner.stop(signal.SIGKILL)
    finally:
        upstream.may_answer_after_tools.set()
    with following(successor, tester, wish["runId"], after=seen[-1].number) as rest:
        seen += list(rest)
    assert_well_formed(seen, wish["runId"])
    assert seen[-1].event["outcome"] == {"type": "success"}
    assert len(effects.seen()) == 1
    first_turns = [request for request in upstream.requests if request["messages"][-1]["role"] == "user"]
    assert len(first_turns) == 1, "the turn that called the tool is not done again"


@pytest.mark.parametrize("kind", ["idempotent", "keyed"])
def test_a_call_that_may_be_repeated_is_repeated_under_its_key(
    services: SeparateDatabase,
    successor: RunningService,
    upstream: Upstream,
    stored: Stored,
    tester: Caller,
    effects: Effects,
    kind: str,
) -> None:
    upstream.requests.clear()
    wish, seen = killed_in_a_call(services.start(), successor, tester, effects, kind)
    assert_well_formed(seen, wish["runId"])
    assert seen[-1].event["outcome"] == {"type": "success"}
    first, second = effects.seen()
    assert first == second, "the same call has the same idempotency key"
    assert len(upstream.requests) == 2, "the model turn that was completed is not repeated"
    assert len(events(seen, "TOOL_CALL_START")) == len(events(seen, "TOOL_CALL_RESULT")) == 1
    [recovered] = events(seen, "CUSTOM")
    assert recovered["name"] == "run_recovered"
    assert recovered["value"] == {"attempt": 2, "discarded": []}
    assert stored.values(
        "SELECT s.status FROM orchestration_step s JOIN orchestration_run r ON r.id = s.run_id WHERE r.public_id = %s "
        "ORDER BY number",
        wish["runId"],
    ) == ["finished", "interrupted", "finished", "finished"]
    assert "run.recovered" in stored.audit(wish["runId"])


def test_an_unsafe_call_becomes_a_question_and_is_made_again_when_the_user_says_so(
    services: SeparateDatabase,
    successor: RunningService,
    stored: Stored,
    tester: Caller,
    effects: Effects,
) -> None:
    wish, seen = killed_in_a_call(services.start(), successor, tester, effects, "unsafe")
    assert_well_formed(seen, wish["runId"])
    assert len(effects.seen()) == 1, "it is not repeated unasked"
    [interrupt] = seen[-1].event["outcome"]["interrupts"]
    [call] = events(seen, "TOOL_CALL_START")
    assert (interrupt["reason"], interrupt["toolCallId"]) == ("tool_call", call["toolCallId"])
    assert stored.run(wish["runId"])["status"] == "interrupted"
    answer = {"interruptId": interrupt["id"], "status": "resolved", "payload": {"approved": True}}
    again = run_input("", threadId=wish["threadId"], messages=[], resume=[answer])
    rest = successor.stream(tester, "POST", "/ag-ui/events", json=again)
    assert_well_formed(rest, again["runId"])
    assert len(effects.seen()) == 2
    [result] = events(rest, "TOOL_CALL_RESULT")
    assert (result["toolCallId"], result["content"]) == (call["toolCallId"], '{"done":"unsafe_effect_tool"}')
    assert events(rest, "TOOL_CALL_START") == []
    assert rest[-1].event["outcome"] == {"type": "success"}
    repeated = successor.stream(tester, "POST", "/ag-ui/events", json={**again, "runId": f"again-{wish['runId']}"})
    assert (events(repeated, "TOOL_CALL_RESULT"), len(effects.seen())) == ([], 2), "a question is answered once"
    other = [{**answer, "payload": {"approved": False}}]
    refused = successor.client(tester).post("/ag-ui/events", json={**again, "runId": "another", "resume": other})
    assert (refused.status_code, refused.json()["code"]) == (409, "already_decided")


@contextmanager
def approval_needed(services: SeparateDatabase, tool: str) -> Iterator[None]:
    """A further version of the tool is served, whose calls need a person's word; afterwards the one before is again."""
    serve = "UPDATE tools_tool SET current_version_id = %s WHERE name = %s"
    [before] = services.connection.execute(
        "SELECT current_version_id FROM tools_tool WHERE name = %s", (tool,)
    ).fetchone() or [None]
    [guarded] = services.connection.execute(
        "INSERT INTO tools_toolversion SELECT (jsonb_populate_record(v, jsonb_build_object('id', gen_random_uuid(), "
        "'number', 1 + (SELECT max(number) FROM tools_toolversion WHERE tool_id = v.tool_id), 'approval_required', true))).* "
        "FROM tools_toolversion AS v WHERE v.id = %s RETURNING id",
        (before,),
    ).fetchone() or [None]
    services.connection.execute(serve, (guarded, tool))
    try:
        yield
    finally:
        services.connection.execute(serve, (before, tool))


def test_an_approved_call_that_is_cut_off_is_asked_about_again_and_not_repeated(
    services: SeparateDatabase, successor: RunningService, stored: Stored, tester: Caller, effects: Effects
) -> None:
    wish = run_input("call unsafe_effect_tool")
    with approval_needed(services, "unsafe_effect_tool"):
        owner = services.start()
        asked = owner.stream(tester, "POST", "/ag-ui/events", json=wish)
        [interrupt] = asked[-1].event["outcome"]["interrupts"]
        assert (interrupt["metadata"]["question"], effects.seen()) == ("approval", [])
        resume = [{"interruptId": interrupt["id"], "status": "resolved", "payload": {"approved": True}}]
        again = run_input("", threadId=wish["threadId"], messages=[], resume=resume)
        with owner.open_stream(tester, "POST", "/ag-ui/events", json=again) as (_, frames):
            reader = Reader(frames)
            eventually(effects.seen, "the approved call is under way")
            owner.stop(signal.SIGKILL)
            with pytest.raises(Exception):  # noqa: B017 - however the client's library says that the connection is cut
                reader.whole()
        effects.go_on()
        with following(successor, tester, again["runId"], after=reader.frames[-1].number) as rest:
            seen = list(rest)
        [repeat] = seen[-1].event["outcome"]["interrupts"]
        assert (repeat["metadata"]["question"], repeat["toolCallId"]) == ("repeat", interrupt["toolCallId"])
        assert len(effects.seen()) == 1, "what a person approved once is made once"
        with successor.client(tester) as client:
            said = client.post(f"/ag-ui/approvals/{repeat['id']}", json={"decision": "approve"})
        assert said.status_code == 200, said.text
        eventually(lambda: len(effects.seen()) == 2, "it is made again once somebody has said so")


@pytest.mark.parametrize("answered", ["declined", "passed over"])
def test_an_unsafe_call_that_is_not_to_be_repeated_is_told_to_the_model(
    services: SeparateDatabase,
    successor: RunningService,
    tester: Caller,
    effects: Effects,
    answered: str,
) -> None:
    wish, seen = killed_in_a_call(services.start(), successor, tester, effects, "unsafe")
    [interrupt] = seen[-1].event["outcome"]["interrupts"]
    resume = {
        "declined": [{"interruptId": interrupt["id"], "status": "resolved", "payload": {"approved": False}}],
        "passed over": [],
    }[answered]
    rest = successor.post_run(tester, "And now?", threadId=wish["threadId"], resume=resume)
    assert len(effects.seen()) == 1
    [result] = events(rest, "TOOL_CALL_RESULT")
    assert "not known whether it took effect" in result["content"]
    assert text(rest) == "I was told: And now?"


def test_the_model_is_told_that_a_call_of_a_cancelled_run_may_have_taken_effect(
    successor: RunningService, upstream: Upstream, tester: Caller, effects: Effects
) -> None:
    wish = run_input("call unsafe_effect_tool")
    with successor.open_stream(tester, "POST", "/ag-ui/events", json=wish) as (_, frames):
        reader = Reader(frames)
        eventually(effects.seen, "the tool is at work")
        with successor.client(tester) as client:
            client.post(f"/ag-ui/runs/{wish['runId']}/cancel")
        seen = reader.whole()
    assert_well_formed(seen, wish["runId"])
    assert seen[-1].event["outcome"] == {"type": "cancelled"}
    [result] = events(seen, "TOOL_CALL_RESULT")
    upstream.requests.clear()
    successor.post_run(tester, "And now?", threadId=wish["threadId"])
    [told] = [message for message in upstream.requests[-1]["messages"] if message["role"] == "tool"]
    assert told["content"] == result["content"]
    assert "not known whether it took effect" in told["content"]


def test_any_number_of_runs_that_lost_their_owner_are_taken_up(
    services: SeparateDatabase, successor: RunningService, stored: Stored
) -> None:
    owner = services.start(WORKER_IN_PROCESS="false", MAX_CONCURRENT_RUNS="200")
    callers = [Caller() for _ in range(120)]
    wishes = [run_input("say it slowly") for _ in callers]

    async def begin(client: httpx.AsyncClient, caller: Caller, wish: dict[str, Any]) -> None:
        async with client.stream("POST", "/ag-ui/events", json=wish, headers=caller.headers) as response:
            assert response.status_code == 200
            await anext(response.aiter_lines())

    async def begin_all() -> None:
        async with httpx.AsyncClient(base_url=owner.url, timeout=60, trust_env=False) as client:
            await asyncio.gather(*(begin(client, caller, wish) for caller, wish in zip(callers, wishes, strict=True)))

    asyncio.run(begin_all())
    owner.stop(signal.SIGKILL)
    ids = [wish["runId"] for wish in wishes]

    def all_taken_up() -> bool:
        return stored.values("SELECT count(*) FROM orchestration_run WHERE public_id = ANY(%s) AND fence = 2", ids) == [
            120
        ]

    eventually(all_taken_up, "each has another owner")
    with following(successor, callers[-1], ids[-1]) as frames:
        assert_well_formed(list(frames), ids[-1])


def test_reasoning_that_was_cut_off_is_taken_from_the_readers(
    services: SeparateDatabase, successor: RunningService, upstream: Upstream
) -> None:
    owner = services.start()
    caller, wish = Caller(), run_input("reason")
    with owner.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        seen = []
        while not events(seen, "REASONING_MESSAGE_CONTENT"):
            seen.append(next(frames))
        with following(successor, caller, wish["runId"]) as followed:
            owner.stop(signal.SIGKILL)
            upstream.reasoning_ends.set()
            whole = list(followed)
    assert_well_formed(whole, wish["runId"])
    [void, *_] = {event["messageId"] for event in events(seen, "REASONING_MESSAGE_START")}
    [snapshot] = events(whole, "MESSAGES_SNAPSHOT")
    reasoning = [message for message in snapshot["messages"] if message["role"] == "reasoning"]
    # What the client drops: it keeps the reasoning that it holds unless a snapshot has some.
    assert reasoning == [{"id": void, "role": "reasoning", "content": ""}]


def test_a_model_turn_that_was_cut_off_is_done_again_and_what_it_had_said_is_void(
    services: SeparateDatabase, successor: RunningService, stored: Stored
) -> None:
    owner = services.start()
    caller, wish = Caller(), run_input("say it slowly")
    with owner.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        seen = [next(frames) for _ in range(6)]
        with following(successor, caller, wish["runId"]) as followed:
            watched = [next(followed)]
            reader = Reader(followed)
            owner.stop(signal.SIGKILL)
            watched += reader.whole(30)
    assert_well_formed(watched, wish["runId"])
    assert [frame.id for frame in watched[:6]] == [frame.id for frame in seen]
    first, second = events(watched, "TEXT_MESSAGE_START")
    [recovered] = events(watched, "CUSTOM")
    assert recovered["value"] == {"attempt": 2, "discarded": [first["messageId"]]}
    [snapshot] = events(watched, "MESSAGES_SNAPSHOT")
    assert [message["role"] for message in snapshot["messages"]] == ["user"]
    kept = [event for event in events(watched, "TEXT_MESSAGE_CONTENT") if event["messageId"] == second["messageId"]]
    answer = "".join(event["delta"] for event in kept)
    [stored_answer] = stored.values(
        "SELECT agent_response FROM conversation_turns c JOIN orchestration_run r ON r.id = c.run_id WHERE r.public_id = %s",
        wish["runId"],
    )
    assert answer == stored_answer
    assert watched[-1].event["type"] == "RUN_FINISHED"
    envelope = successor.stream(caller, "GET", f"/ag-ui/runs/{wish['runId']}/events?protocol=envelope")
    assert [(f.event["event_type"], f.event["message"]) for f in envelope] == [("AGENT_RESPONSE", answer)]
    again = successor.post_run(caller, "hello", threadId=wish["threadId"])
    assert types(again)[-1] == "RUN_FINISHED"


def test_a_process_that_only_slept_writes_nothing_more(
    services: SeparateDatabase, successor: RunningService, stored: Stored
) -> None:
    sleeper = services.start()
    caller, wish = Caller(), run_input("say it slowly")
    with sleeper.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        seen = [next(frames) for _ in range(4)]
        sleeper.process.send_signal(signal.SIGSTOP)
        try:
            eventually(lambda: stored.run(wish["runId"])["status"] == "finished", "another process has ended the run")
            whole = stored.log(wish["runId"])
        finally:
            sleeper.process.send_signal(signal.SIGCONT)
        seen += list(frames)
    assert_well_formed(seen, wish["runId"])
    assert stored.log(wish["runId"]) == whole
    assert stored.run(wish["runId"])["fence"] == 2
    assert sleeper.stop() == 0
    assert successor.process.poll() is None


def test_a_run_that_loses_process_after_process_is_given_up(
    services: SeparateDatabase, successor: RunningService, stored: Stored
) -> None:
    owner = services.start()
    caller, wish = Caller(), run_input("say it slowly")
    with owner.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        seen = [next(frames) for _ in range(4)]
        services.connection.execute("UPDATE orchestration_run SET crashes = 5 WHERE public_id = %s", (wish["runId"],))
        owner.stop(signal.SIGKILL)
    with following(successor, caller, wish["runId"], after=4) as rest:
        seen += list(rest)
    assert_well_formed(seen, wish["runId"])
    assert seen[-1].event["code"] == "run_abandoned"
    assert stored.run(wish["runId"])["status"] == "failed"


def test_a_run_of_the_version_before_goes_on_and_is_no_longer_one_for_processes_of_that_version(
    services: SeparateDatabase, successor: RunningService, stored: Stored
) -> None:
    owner = services.start()
    caller, wish = Caller(), run_input("say it slowly")
    with owner.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        seen = [next(frames) for _ in range(4)]
        former = "UPDATE orchestration_run SET journal_version = 2 WHERE public_id = %s"
        services.connection.execute(former, (wish["runId"],))
        owner.stop(signal.SIGKILL)
    with following(successor, caller, wish["runId"], after=4) as rest:
        seen += list(rest)
    assert_well_formed(seen, wish["runId"])
    assert seen[-1].event["outcome"] == {"type": "success"}
    assert stored.run(wish["runId"])["journal_version"] == JOURNAL_VERSION


def test_a_cancelled_run_is_cancelled_wherever_it_wakes_up(
    services: SeparateDatabase, successor: RunningService, tester: Caller, effects: Effects, stored: Stored
) -> None:
    owner = services.start()
    wish = run_input("call idempotent_effect_tool")
    with owner.open_stream(tester, "POST", "/ag-ui/events", json=wish) as (_, frames):
        next(frames)
        eventually(effects.seen, "the tool is at work")
        owner.stop(signal.SIGKILL)
    answer = successor.client(tester).post(f"/ag-ui/runs/{wish['runId']}/cancel")
    assert answer.status_code == 202
    with following(successor, tester, wish["runId"]) as followed:
        seen = list(followed)
    assert_well_formed(seen, wish["runId"])
    assert seen[-1].event["outcome"] == {"type": "cancelled"}
    assert len(effects.seen()) == 1
    assert stored.run(wish["runId"])["status"] == "cancelled"


def test_an_operator_decides_in_the_place_of_the_user(
    services: SeparateDatabase, successor: RunningService, stored: Stored, tester: Caller, effects: Effects
) -> None:
    wish, seen = killed_in_a_call(services.start(), successor, tester, effects, "unsafe")
    [interrupt] = seen[-1].event["outcome"]["interrupts"]
    services.connection.execute(  # what the console writes: a request
        "UPDATE orchestration_interrupt SET decision = '{\"approved\": true}', decided_by = 'console:1', decided_at = now() "
        "WHERE id = %s",
        (interrupt["id"],),
    )

    def next_run() -> list[str]:
        return stored.values(
            "SELECT r.public_id FROM orchestration_run r JOIN orchestration_thread t ON t.id = r.thread_id "
            "WHERE t.public_id = %s AND r.public_id <> %s AND r.status = 'finished'",
            wish["threadId"],
            wish["runId"],
        )

    [run_id] = eventually(next_run, "the thread has gone on")
    assert len(effects.seen()) == 2
    assert stored.values(
        "SELECT status || ' ' || decided_by FROM orchestration_interrupt WHERE id = %s", interrupt["id"]
    ) == ["resolved console:1"]
    with following(successor, tester, run_id) as frames:
        assert_well_formed(list(frames), run_id)
