"""Plans that are cut off, cancelled or asked about: what is done stays done, and the rest goes on or is said to be left."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentbackend.embedded_postgres.cluster import Cluster
from tests.running_service import Caller, Frame, RunningService, run_input
from tests.runs.effect_services import effect_services
from tests.runs.effect_tools import ROLE
from tests.runs.support import Reader, Stored, assert_well_formed, events, eventually, following, patched, text
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
    return Stored(services.connection)


@pytest.fixture
def tester() -> Caller:
    return Caller(role=ROLE)


@pytest.fixture
def folder(services: SeparateDatabase, tester: Caller) -> Path:
    """Where the caller's tools write what they do, and look whether they may end."""
    made = Path(services.settings["EFFECTS_FOLDER"]) / tester.id
    made.mkdir()
    return made


def effects(folder: Path) -> list[str]:
    file = folder / "effects"
    return file.read_text().splitlines() if file.exists() else []


def a_plan(*steps: dict[str, Any]) -> dict[str, Any]:
    """A run whose model hands in this plan."""
    return run_input("call make_plan " + json.dumps({"goal": "to survive", "steps": steps}))


def in_three_steps(kind: str) -> dict[str, Any]:
    """A calculation, then an effect that waits to be let go, then a calculation with the result of the first."""
    values = {"x": {"$from": "before"}}
    return a_plan(
        {"id": "before", "tool": "calculator_tool", "arguments": {"expression": "6*7"}},
        {"id": "work", "tool": f"{kind}_effect_tool", "after": ["before"]},
        {
            "id": "after",
            "tool": "calculator_tool",
            "arguments": {"expression": "x+1", "values": values},
            "after": ["work"],
        },
    )


def state_of(frames: list[Frame]) -> Any:
    state: Any = None
    for frame in frames:
        if frame.event["type"] == "STATE_SNAPSHOT":
            state = frame.event["snapshot"]
        elif frame.event["type"] == "STATE_DELTA":
            state = patched(state, frame.event["delta"])
    return state


def statuses(plan: dict[str, Any]) -> dict[str, str]:
    return {step["id"]: step["status"] for step in plan["steps"]}


def report(frames: list[Frame], plan_call: str) -> dict[str, Any]:
    [result] = [event for event in events(frames, "TOOL_CALL_RESULT") if event["toolCallId"] == plan_call]
    found: dict[str, Any] = json.loads(result["content"])
    return found


def plan_call(frames: list[Frame]) -> str:
    call: str = events(frames, "TOOL_CALL_START")[0]["toolCallId"]
    return call


def allowed_calls(stored: Stored, *runs: str) -> int:
    return sum(stored.audit(run).count("tool.allowed") for run in runs)


def killed_in_a_step(
    owner: RunningService, successor: RunningService, caller: Caller, folder: Path, wish: dict[str, Any]
) -> list[Frame]:
    """Kill the owner while a step is at work; the whole run as a reader who reconnects sees it."""
    with owner.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        reader = Reader(frames)
        eventually(lambda: effects(folder), "a step is at work")
        owner.stop(signal.SIGKILL)
        with pytest.raises(Exception):  # noqa: B017 - however the client's library says that the connection is cut
            reader.whole()
    (folder / "go-on").touch()
    with following(successor, caller, wish["runId"], after=reader.frames[-1].number) as rest:
        return [*reader.frames, *rest]


def test_independent_steps_are_under_way_at_the_same_time(
    successor: RunningService, tester: Caller, folder: Path
) -> None:
    wish = a_plan(*({"id": f"s{number}", "tool": "idempotent_effect_tool"} for number in range(7)))
    with successor.open_stream(tester, "POST", "/ag-ui/events", json=wish) as (_, frames):
        reader = Reader(frames)
        eventually(lambda: len(effects(folder)) == 5, "five steps are at work, none of which has ended")
        assert sorted(statuses(state_of(reader.frames)["plan"]).values()) == ["pending"] * 2 + ["running"] * 5
        (folder / "go-on").touch()
        seen = reader.whole()
    assert_well_formed(seen, wish["runId"])
    assert len(effects(folder)) == 7
    assert set(statuses(report(seen, plan_call(seen))).values()) == {"done"}


def test_a_plan_whose_process_is_killed_goes_on_and_nothing_is_done_twice(
    services: SeparateDatabase,
    successor: RunningService,
    upstream: Upstream,
    stored: Stored,
    tester: Caller,
    folder: Path,
) -> None:
    upstream.requests.clear()
    wish = in_three_steps("idempotent")
    seen = killed_in_a_step(services.start(), successor, tester, folder, wish)
    assert_well_formed(seen, wish["runId"])
    assert seen[-1].event["outcome"] == {"type": "success"}
    first, second = effects(folder)
    assert first == second, "the step that was cut off is made again, under its key"
    assert allowed_calls(stored, wish["runId"]) == 4, "the first step is not made again"
    told = report(seen, plan_call(seen))
    assert [step["result"] for step in told["steps"]] == [42, {"done": "idempotent_effect_tool"}, 43]
    assert len(upstream.requests) == 2, "the turn that made the plan is not done again"
    state = state_of(seen)
    assert statuses(state["plan"]) == {"before": "done", "work": "done", "after": "done"}
    assert stored.values("SELECT state FROM orchestration_thread WHERE public_id = %s", wish["threadId"]) == [state]
    [snapshot] = events(seen, "MESSAGES_SNAPSHOT")
    shown = [message["role"] for message in snapshot["messages"]]
    assert shown == ["user", "assistant", "assistant", "tool", "assistant"], "what was done is restated with its result"
    starts = [event["toolCallId"] for event in events(seen, "TOOL_CALL_START")]
    assert len(starts) == len(set(starts)) == 4


def test_an_unsafe_step_that_was_cut_off_is_asked_about_and_then_the_plan_goes_on(
    services: SeparateDatabase, successor: RunningService, stored: Stored, tester: Caller, folder: Path
) -> None:
    wish = in_three_steps("unsafe")
    seen = killed_in_a_step(services.start(), successor, tester, folder, wish)
    assert_well_formed(seen, wish["runId"])
    assert len(effects(folder)) == 1, "it is not repeated unasked"
    [interrupt] = seen[-1].event["outcome"]["interrupts"]
    assert interrupt["metadata"]["toolName"] == "unsafe_effect_tool"
    assert statuses(state_of(seen)["plan"]) == {"before": "done", "work": "waiting", "after": "pending"}

    answer = {"interruptId": interrupt["id"], "status": "resolved", "payload": {"approved": True}}
    again = run_input("", threadId=wish["threadId"], messages=[], resume=[answer])
    rest = successor.stream(tester, "POST", "/ag-ui/events", json=again)
    assert_well_formed(rest, again["runId"])
    assert len(effects(folder)) == 2
    assert [event["toolCallName"] for event in events(rest, "TOOL_CALL_START")] == ["calculator_tool"]
    told = report(rest, plan_call(seen))
    assert [step["status"] for step in told["steps"]] == ["done"] * 3
    assert (told["steps"][1]["took_effect"], told["steps"][2]["result"]) == (True, 43)
    assert statuses(state_of(rest)["plan"]) == {"before": "done", "work": "done", "after": "done"}
    assert text(rest).startswith("I was told: {")
    assert allowed_calls(stored, wish["runId"], again["runId"]) == 4


@pytest.mark.parametrize("answered", ["declined", "passed over"])
def test_a_step_that_is_not_to_be_made_again_leaves_what_needs_it(
    services: SeparateDatabase, successor: RunningService, tester: Caller, folder: Path, answered: str
) -> None:
    wish = in_three_steps("unsafe")
    seen = killed_in_a_step(services.start(), successor, tester, folder, wish)
    [interrupt] = seen[-1].event["outcome"]["interrupts"]
    declined = {"interruptId": interrupt["id"], "status": "resolved", "payload": {"approved": False}}
    resume = [declined] if answered == "declined" else []
    rest = successor.post_run(tester, "And now?", threadId=wish["threadId"], resume=resume)
    told = report(rest, plan_call(seen))
    assert statuses(told) == {"before": "done", "work": "failed", "after": "skipped"}
    assert len(effects(folder)) == 1
    assert text(rest) == "I was told: And now?"


def test_a_cancelled_plan_says_what_was_done_and_what_was_not(
    successor: RunningService, upstream: Upstream, stored: Stored, tester: Caller, folder: Path
) -> None:
    wish = in_three_steps("unsafe")
    with successor.open_stream(tester, "POST", "/ag-ui/events", json=wish) as (_, frames):
        reader = Reader(frames)
        eventually(lambda: effects(folder), "a step is at work")
        with successor.client(tester) as client:
            client.post(f"/ag-ui/runs/{wish['runId']}/cancel")
        seen = reader.whole()
    assert_well_formed(seen, wish["runId"])
    assert seen[-1].event["outcome"] == {"type": "cancelled"}
    told = report(seen, plan_call(seen))
    assert statuses(told) == {"before": "done", "work": "failed", "after": "skipped"}
    assert "not known whether it took effect" in told["steps"][1]["error"]["message"]
    state = state_of(seen)
    assert statuses(state["plan"]) == statuses(told)
    assert stored.values("SELECT state FROM orchestration_thread WHERE public_id = %s", wish["threadId"]) == [state]
    upstream.requests.clear()
    successor.post_run(tester, "And now?", threadId=wish["threadId"])
    messages = [message for message in upstream.requests[-1]["messages"] if message["role"] != "system"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "user"]
    assert json.loads(messages[2]["content"]) == told


def test_a_cancelled_plan_whose_process_died_is_closed_as_well(
    services: SeparateDatabase, successor: RunningService, tester: Caller, folder: Path
) -> None:
    owner = services.start()
    wish = in_three_steps("idempotent")
    with owner.open_stream(tester, "POST", "/ag-ui/events", json=wish) as (_, frames):
        next(frames)
        eventually(lambda: effects(folder), "a step is at work")
        owner.stop(signal.SIGKILL)
    assert successor.client(tester).post(f"/ag-ui/runs/{wish['runId']}/cancel").status_code == 202
    with following(successor, tester, wish["runId"]) as followed:
        seen = list(followed)
    assert_well_formed(seen, wish["runId"])
    assert seen[-1].event["outcome"] == {"type": "cancelled"}
    assert statuses(report(seen, plan_call(seen))) == {"before": "done", "work": "failed", "after": "skipped"}
    assert len(effects(folder)) == 1
