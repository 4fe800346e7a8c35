"""Budgets of runs: refused before they begin, stopped honestly between two turns, settled with what was used, on any process."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from agentbackend.embedded_postgres.cluster import Cluster
from agentbackend.foundation.outbound import OutboundPolicy
from audit.actor import SYSTEM
from tests.running_service import Caller, Frame, RunningService, ServiceFactory, run_input
from tests.runs.provider_server import ProviderServer, provider_server
from tests.runs.support import Reader, Stored, assert_well_formed, events, eventually, following, text
from tests.separate_database import separate_database
from tools.changes import submit
from tools.documents import Document

P = f"b{uuid4().hex[:8]}"
TURN_TOKENS = 10_000  # what the tests' provider says of each turn


@dataclass
class Governed:
    """Callers with budgets of their own, made before any service looks."""

    callers: dict[str, Caller] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def add(self, what: str, limit: float, period: str = "month", **spec: Any) -> Caller:
        """A caller who has this budget, and no other unless `caller` is given."""
        caller = spec.pop("caller", None) or Caller()
        name = f"{P}-{len(self.names)}"
        said = {"user_id": caller.id, "what": what, "limit": limit, "period": period, **spec}
        submit(Document("Budget", name, said), by=SYSTEM)
        self.names.append(name)
        self.callers[name] = caller
        return caller

    def name_for(self, caller: Caller) -> str:
        return next(name for name, found in self.callers.items() if found is caller)


@pytest.fixture(scope="module")
def upstream() -> Iterator[ProviderServer]:
    with provider_server() as server:
        yield server


@pytest.fixture(scope="module")
def governed(migrated_database: None, upstream: ProviderServer) -> Iterator[Governed]:
    """A provider, an agent for each of its ways, a price for one of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tools.process._process.policy", OutboundPolicy(allowed_hosts=["127.0.0.1"]))
        submit(Document("ModelProvider", P, {"base_url": upstream.url}), by=SYSTEM)
    for model in ("answers", "calls", "endless"):
        spec = {"title": model, "model": f"{P}:{model}", "tools": ["calculator_tool"], "max_output_tokens": 100}
        submit(Document("Agent", f"{P}-{model}", spec), by=SYSTEM)
    prices = {"input_price": 1.0, "output_price": 1.0}
    submit(Document("ModelPrice", f"{P}:calls@2020-01-01", prices), by=SYSTEM)
    made = Governed()
    yield made
    for name in made.names:
        submit(Document("Budget", name, None), by=SYSTEM)


@pytest.fixture(scope="module")
def cases(governed: Governed) -> dict[str, Caller]:
    """All budgets of these tests, so that the services need be waited for only once."""
    return {
        "two runs": governed.add("runs", 2),
        "one run": governed.add("runs", 1),
        "one turn": governed.add("tokens", TURN_TOKENS + 100),
        "no tokens left": governed.add("tokens", TURN_TOKENS),
        "one at a time": governed.add("concurrent_runs", 1, ""),
        "one plan at a time": governed.add("concurrent_runs", 1, ""),
        "too little": governed.add("tokens", 50),
        "plenty": governed.add("tokens", 10**8),
        "one call": governed.add("tool_calls", 1),
        "no calls": governed.add("tool_calls", 0),
        "a cent": governed.add("cost", 0.0101),
    }


@pytest.fixture(scope="module")
def connected(service_factory: ServiceFactory, cases: dict[str, Caller]) -> Iterator[RunningService]:
    started = service_factory.start(OUTBOUND_ALLOWED_HOSTS="127.0.0.1")
    yield started
    started.stop()


def post(service: RunningService, caller: Caller, model: str = "answers") -> httpx.Response:
    with service.client(caller) as client:
        return client.post(f"/ag-ui/agent/{P}-{model}/run", json=run_input("what is 6*7"))


def run(service: RunningService, caller: Caller, model: str) -> tuple[str, list[Frame]]:
    wish = run_input("what is 6*7")
    frames = service.stream(caller, "POST", f"/ag-ui/agent/{P}-{model}/run", json=wish)
    assert_well_formed(frames, wish["runId"])
    return wish["runId"], frames


@pytest.fixture
def used(superuser_connection: psycopg.Connection, governed: Governed) -> Callable[[Caller], tuple[int, int]]:
    """What is used and reserved of a caller's budget."""

    def look(caller: Caller) -> tuple[int, int]:
        row = superuser_connection.execute(
            "SELECT coalesce(sum(used), 0)::int, coalesce(sum(reserved), 0)::int FROM tools_budgetuse AS spent "
            "JOIN tools_budget AS budget ON budget.id = spent.budget_id WHERE budget.name = %s",
            (governed.name_for(caller),),
        ).fetchone()
        assert row is not None
        return row[0], row[1]

    return look


def test_a_run_over_budget_is_refused_before_it_begins_and_told_when_to_come_again(
    connected: RunningService,
    cases: dict[str, Caller],
    governed: Governed,
    stored: Stored,
    superuser_connection: psycopg.Connection,
) -> None:
    caller = cases["two runs"]
    name = governed.name_for(caller)
    assert [post(connected, caller).status_code for _ in range(2)] == [200, 200]
    refused = post(connected, caller)
    problem = refused.json()
    assert (refused.status_code, problem["code"], problem["retryable"]) == (429, "budget_exceeded", True)
    assert problem["budget"] == name
    assert problem["detail"] == f"The budget {name} (2 runs in a month) is used up. It renews at {problem['renewsAt']}."
    assert 0 < int(refused.headers["retry-after"]) <= 31 * 86400
    assert stored.rows_of(caller)[1] == 2, "what was refused left no run"
    query = (
        "SELECT convert_from(envelope, 'UTF8')::json ->> 'policy_version' FROM audit_events "
        "WHERE action = 'budget.refused' AND actor_id = %s"
    )
    assert eventually(lambda: stored.values(query, caller.id), "it is recorded") == [f"{name}:2/month:runs"]
    superuser_connection.execute(
        "UPDATE tools_budgetuse SET window_start = window_start - interval '1 month' "
        "WHERE budget_id = (SELECT id FROM tools_budget WHERE name = %s)",
        (name,),
    )
    assert post(connected, caller).status_code == 200


def test_of_two_processes_that_begin_the_last_run_at_once_one_does(
    connected: RunningService, service_factory: ServiceFactory, cases: dict[str, Caller]
) -> None:
    other = service_factory.start(OUTBOUND_ALLOWED_HOSTS="127.0.0.1")
    try:
        with ThreadPoolExecutor(6) as pool:
            tries = [pool.submit(post, found, cases["one run"]) for found in (connected, other) * 3]
        assert sorted(found.result().status_code for found in tries) == [200, 429, 429, 429, 429, 429]
    finally:
        other.stop()


def test_a_run_that_uses_up_its_budget_says_so_and_keeps_what_it_has_done(
    connected: RunningService, cases: dict[str, Caller], governed: Governed, used: Callable[..., Any], stored: Stored
) -> None:
    caller = cases["one turn"]
    run_id, frames = run(connected, caller, "calls")
    assert events(frames, "TOOL_CALL_RESULT")[0]["content"] == "42"
    result = frames[-1].event["result"]
    assert (result["stopped"], result["budget"]) == ("budget", governed.name_for(caller))
    assert result["renewsAt"] in text(frames)
    assert frames[-1].event["outcome"] == {"type": "success"}
    assert frames[-1].event["usage"][0]["totalTokens"] == TURN_TOKENS
    assert used(caller) == (TURN_TOKENS, 0)
    assert "budget.refused" in stored.audit(run_id)


def test_a_budget_that_no_turn_can_fit_into_says_so_and_not_that_it_renews(
    connected: RunningService, cases: dict[str, Caller], governed: Governed
) -> None:
    caller = cases["too little"]
    _, frames = run(connected, caller, "answers")
    expected = {"stopped": "budget", "budget": governed.name_for(caller), "cause": "too_small"}
    assert frames[-1].event["result"] == expected
    assert "(50 tokens in a month) is too small" in text(frames)
    assert "renews" not in text(frames)


def test_where_nothing_is_left_no_run_begins(
    connected: RunningService, cases: dict[str, Caller], used: Callable[..., Any]
) -> None:
    caller = cases["no tokens left"]
    run(connected, caller, "answers")
    assert used(caller) == (TURN_TOKENS, 0)
    assert post(connected, caller).json()["code"] == "budget_exceeded"


def test_as_many_runs_go_on_at_the_same_time_as_the_budget_allows(
    connected: RunningService, cases: dict[str, Caller], used: Callable[..., Any]
) -> None:
    caller, wish = cases["one at a time"], run_input("on and on")
    with connected.open_stream(caller, "POST", f"/ag-ui/agent/{P}-endless/run", json=wish) as (_, frames):
        seen = [next(frames) for _ in range(5)]
        refused = post(connected, caller)
        assert (refused.status_code, refused.json()["code"]) == (429, "budget_exceeded")
        assert "renewsAt" not in refused.json()
        with connected.client(caller) as client:
            client.post(f"/ag-ui/runs/{wish['runId']}/cancel").raise_for_status()
        assert [*seen, *frames][-1].event["outcome"] == {"type": "cancelled"}
    assert used(caller) == (0, 0)
    assert post(connected, caller).status_code == 200


def test_a_run_that_ends_takes_budget_and_thread_in_the_order_of_one_that_begins(
    connected: RunningService, cases: dict[str, Caller], governed: Governed, superuser_connection: psycopg.Connection
) -> None:
    caller, wish = cases["one plan at a time"], run_input("plan: compare the weather in London and Paris")
    with connected.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        assert next(frames).event["type"] == "RUN_STARTED"
        with superuser_connection.transaction():  # as the next run of the thread begins: the budget, then the thread
            superuser_connection.execute(
                "SELECT FROM tools_budgetuse AS spent JOIN tools_budget AS budget ON budget.id = spent.budget_id "
                "WHERE budget.name = %s FOR UPDATE OF spent",
                (governed.name_for(caller),),
            )
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
            eventually(
                lambda: superuser_connection.execute(waiting).fetchone() == (1,), "the run's end waits for the budget"
            )
            superuser_connection.execute(
                "SELECT FROM orchestration_thread WHERE public_id = %s FOR NO KEY UPDATE NOWAIT", (wish["threadId"],)
            )
        assert list(frames)[-1].event["outcome"] == {"type": "success"}


def test_an_answer_that_is_stopped_before_its_end_is_counted_all_the_same(
    connected: RunningService, cases: dict[str, Caller], used: Callable[..., Any], stored: Stored
) -> None:
    caller, wish = cases["plenty"], run_input("on and on")
    with connected.open_stream(caller, "POST", f"/ag-ui/agent/{P}-endless/run", json=wish) as (_, frames):
        for frame in frames:
            if len(text([frame])) and used(caller)[1]:
                break
        with connected.client(caller) as client:
            client.post(f"/ag-ui/runs/{wish['runId']}/cancel").raise_for_status()
        last = list(frames)[-1].event
    counted, reserved = used(caller)
    assert (counted > 0, reserved) == (True, 0)
    assert last["usage"][0]["totalTokens"] == counted == sum(stored.run(wish["runId"])[c] for c in _COUNTS)


_COUNTS = ("input_tokens", "output_tokens")


def test_a_tool_call_over_budget_is_refused_and_the_model_is_told_when_it_renews(
    connected: RunningService, cases: dict[str, Caller], stored: Stored
) -> None:
    caller = cases["one call"]
    run(connected, caller, "calls")
    run_id, frames = run(connected, caller, "calls")
    [result] = events(frames, "TOOL_CALL_RESULT")
    error = result["metadata"]["error"]
    assert (error["code"], error["kind"], error["retryable"]) == ("over_budget", "rate_limited", False)
    assert error["retryAfterSeconds"] > 0
    assert "It renews at" in result["content"]
    assert ("tool.denied" in stored.audit(run_id), "tool.called" in stored.audit(run_id)) == (True, False)


def test_with_a_failure_the_model_is_told_what_budgets_leave(
    connected: RunningService, cases: dict[str, Caller], governed: Governed
) -> None:
    caller = cases["plenty"]
    [single] = events(connected.post_run(caller, "weather in Nowhere"), "TOOL_CALL_RESULT")
    results = events(connected.post_run(caller, "demo: plan-revise"), "TOOL_CALL_RESULT")
    reports = [json.loads(result["content"]) for result in results if '"plan":"not all done"' in result["content"]]
    for told in (single["metadata"]["limitsLeft"], reports[0]["limits_left"]):
        [left] = told["budgets"]
        assert (left["budget"], left["what"]) == (governed.name_for(caller), "tokens")
        assert 0 < int(left["left"]) < 10**8


def test_a_task_for_another_agent_is_a_call_too(connected: RunningService, cases: dict[str, Caller]) -> None:
    caller = cases["no calls"]
    frames = connected.post_run(caller, "ask the researcher about tea")
    [result] = events(frames, "TOOL_CALL_RESULT")
    assert result["metadata"]["error"]["code"] == "over_budget"
    assert not events(frames, "SUBAGENT_STARTED")


def test_costs_are_counted_and_a_model_without_a_price_is_not_used_under_a_budget_of_costs(
    connected: RunningService, cases: dict[str, Caller], used: Callable[..., Any]
) -> None:
    caller = cases["a cent"]
    _, frames = run(connected, caller, "answers")
    assert frames[-1].event["result"]["cause"] == "no_price"
    assert "An operator" in text(frames)
    _, frames = run(connected, caller, "calls")
    assert frames[-1].event["usage"][0]["totalTokens"] == TURN_TOKENS, "a turn costs one cent, so a second does not fit"
    assert used(caller) == (10**7, 0)


def test_what_a_killed_process_held_is_used_by_its_successor_and_counted_once(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, upstream: ProviderServer
) -> None:
    settings = {
        "RUN_LEASE_SECONDS": "3",
        "RUN_HEARTBEAT_SECONDS": "0.5",
        "OPENAI_BASE_URL": upstream.url,
        "OPENAI_MODEL": "waits",
    }
    with separate_database(cluster, tmp_path_factory.mktemp("services"), **settings) as services:
        insert = (
            'INSERT INTO tools_budget (id, name, what, "limit", period, updated_at) '
            "VALUES (gen_random_uuid(), %s, %s, %s, %s, now())"
        )
        services.connection.execute(insert, ("all-tokens", "tokens", 50_000, "month"))
        services.connection.execute(insert, ("all-runs", "concurrent_runs", 3, ""))
        owner, successor, caller, wish = services.start(), services.start(), Caller(), run_input("well?")
        upstream.go_on.clear()
        with owner.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
            reader = Reader(frames)
            eventually(lambda: events(reader.frames, "TEXT_MESSAGE_CONTENT"), "the model has begun")
            [held] = services.connection.execute(
                "SELECT sum(reserved) FROM tools_budgetuse WHERE reserved > 1"
            ).fetchall()
            owner.stop(signal.SIGKILL)
            with pytest.raises(Exception):  # noqa: B017 - however the client's library says that the connection is cut
                reader.whole()
        upstream.go_on.set()
        with following(successor, caller, wish["runId"], after=reader.frames[-1].number) as rest:
            assert list(rest)[-1].event["outcome"] == {"type": "success"}
        stand = services.connection.execute(
            "SELECT budget.name, spent.used, spent.reserved FROM tools_budgetuse AS spent "
            "JOIN tools_budget AS budget ON budget.id = spent.budget_id ORDER BY budget.name"
        ).fetchall()
        assert held[0] > 0
        assert stand == [("all-runs", 0, 0), ("all-tokens", TURN_TOKENS, 0)]
        assert services.connection.execute("SELECT count(*) FROM tools_budgetreservation").fetchone() == (0,)
