"""Runs that delegate to the sample agent in a process of its own: seen by clients, recorded, traced, cancelled, gone on with."""

from __future__ import annotations

import json
import secrets
import signal
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.core.exceptions import ValidationError
from psycopg.types.json import Jsonb

from a2a.models import RemoteAgent
from a2a.remote_cards import digest_of
from agentbackend.embedded_postgres.cluster import Cluster
from agentbackend.foundation.identifiers import uuid7
from audit.actor import SYSTEM
from tests.a2a_client.support import SampleProcess, sample_agent
from tests.agentbackend.trace_receiver import TraceReceiver, receiving_traces
from tests.running_service import Caller, Frame, RunningService, ServiceFactory, run_input
from tests.runs.support import Stored, assert_well_formed, events, eventually, following, text, types
from tests.separate_database import separate_database
from tools.models import Tool
from tools.versions import Definition, publish_version, switch_tool


@pytest.fixture
def stored(superuser_connection: psycopg.Connection) -> Stored:
    return Stored(superuser_connection)


def register(sample: SampleProcess, **fields: Any) -> str:
    """A row for the sample agent, its card accepted; returns its name."""
    values: dict[str, Any] = {
        "name": f"sample-{uuid4().hex[:8]}",
        "title": "Sample",
        "card_url": sample.card_url,
        "accepted_digest": digest_of(sample.card),
        "accepted_card": sample.card,
        "state": "accepted",
        "enabled": True,
        "side_effects": "idempotent",
        **fields,
    }
    RemoteAgent.objects.create(**values)
    return str(values["name"])


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SampleProcess]:
    with sample_agent(tmp_path_factory.mktemp("sample"), A2A_MOCK_PAUSE_SECONDS="0.05") as running:
        yield running


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SampleProcess]:
    with sample_agent(tmp_path_factory.mktemp("mortal")) as running:
        yield running


@pytest.fixture(scope="module")
def agents(migrated_database: None, sample: SampleProcess, mortal: SampleProcess) -> Iterator[dict[str, str]]:
    """Registered before the service starts: names by what they are for."""
    names = {
        "sample": register(sample),
        "mortal": register(mortal, side_effects="unsafe"),
        "admins": register(sample, required_role="admin"),
        "off": register(sample, enabled=False),
    }
    yield names
    RemoteAgent.objects.filter(name__in=names.values()).delete()


@pytest.fixture(scope="module")
def receiver() -> Iterator[TraceReceiver]:
    with receiving_traces() as found:
        yield found


@pytest.fixture(scope="module")
def delegating(service_factory: ServiceFactory, agents: dict[str, str], receiver: TraceReceiver) -> RunningService:
    return service_factory.start(
        OUTBOUND_ALLOWED_HOSTS="127.0.0.1",
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
        OTEL_BSP_SCHEDULE_DELAY="200",
    )


def call(name: str, task: str, **arguments: str) -> str:
    return f"demo: call delegate_to_{name} {json.dumps({'task': task, **arguments})}"


def subagent_text(frames: list[Frame]) -> str:
    return "".join(e["delta"] for e in events(frames, "TEXT_MESSAGE_CONTENT") if "subagentRunId" in e)


def test_a_delegation_to_another_process_is_a_subagent_and_one_trace_and_recorded(
    delegating: RunningService, agents: dict[str, str], sample: SampleProcess, receiver: TraceReceiver, stored: Stored
) -> None:
    wish = run_input(call(agents["sample"], "slow: tea"))
    trace_id = secrets.token_hex(16)
    headers = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}

    frames = delegating.stream(Caller(), "POST", "/ag-ui/events", json=wish, headers=headers)

    assert_well_formed(frames, wish["runId"])
    [started], [finished] = events(frames, "SUBAGENT_STARTED"), events(frames, "SUBAGENT_FINISHED")
    [result] = events(frames, "TOOL_CALL_RESULT")
    assert (started["name"], started["metadata"]) == (agents["sample"], {"task": "slow: tea"})
    assert "I know nothing of it." in finished["result"]
    assert finished["result"] == result["content"] == subagent_text(frames)
    assert len(events(frames, "TEXT_MESSAGE_CONTENT")) > 10  # it came piece by piece
    assert [a for a in stored.audit(wish["runId"]) if "delegation" in a] == [
        "delegation.allowed",
        "delegation.finished",
    ]
    assert trace_id in sample.said()
    spans = receiver.wait_for(lambda spans: {"run", "delegation"} <= {s.name for s in spans if s.trace_id == trace_id})
    assert not any("Hmm" in span.text for span in spans)


def test_the_envelope_tells_of_it_by_its_start_and_its_result(
    delegating: RunningService, agents: dict[str, str]
) -> None:
    frames = delegating.post_run(Caller(), call(agents["sample"], "tea"), path="/ag-ui/events?protocol=envelope")

    [start], [result] = events(frames, "A2A_DELEGATION_START"), events(frames, "A2A_DELEGATION_RESULT")
    assert (start["data"]["agent"], start["data"]["task"]) == (agents["sample"], "tea")
    assert "I was asked: tea" in result["data"]["result"]


def test_a_question_of_the_agents_reaches_the_user_and_the_answer_the_agent(
    delegating: RunningService, agents: dict[str, str]
) -> None:
    caller = Caller()
    asked = delegating.post_run(caller, call(agents["sample"], "order: tea"))
    key = events(asked, "TOOL_CALL_RESULT")[0]["content"].rpartition(" ")[2]
    answered = delegating.post_run(caller, call(agents["sample"], "three, please", continues=key))
    stranger = delegating.post_run(Caller(), call(agents["sample"], "three, please", continues=key))

    assert events(asked, "SUBAGENT_ERROR")[0]["code"] == "input_required"
    assert "How many do you want?" in text(asked)
    assert "Ordered: three." in subagent_text(answered)
    assert "Ordered" not in subagent_text(stranger)


def test_a_tool_of_the_same_name_does_not_take_the_agents_place(
    delegating: RunningService, agents: dict[str, str]
) -> None:
    name = f"delegate_to_{agents['sample']}"
    with pytest.raises(ValidationError, match="delegations to remote agents"):
        Tool(name=name).full_clean()
    tool = Tool.objects.create(name=name)  # as it may have been before
    try:
        publish_version(
            tool,
            Definition(
                title="Another", description="Calculates.", input_schema={"type": "object"}, side_effects="idempotent",
                handler={"function": "calculator_tool"},
            ),
            by=SYSTEM,
        )  # fmt: skip
        switch_tool(tool, enabled=True, by=SYSTEM)
        frames = delegating.post_run(Caller(), call(agents["sample"], "hello"))
        assert events(frames, "SUBAGENT_FINISHED")
    finally:
        tool.delete()


@pytest.mark.parametrize(("which", "code"), [("admins", "denied"), ("off", "disabled")])
def test_who_may_not_or_what_is_off_is_not_asked(
    delegating: RunningService, agents: dict[str, str], which: str, code: str
) -> None:
    frames = delegating.post_run(Caller(), call(agents[which], "tea"))
    [result] = events(frames, "TOOL_CALL_RESULT")
    assert result["metadata"]["error"]["code"] == code
    assert events(frames, "SUBAGENT_STARTED") == []


def test_a_cancelled_run_cancels_the_agents_task(
    delegating: RunningService, agents: dict[str, str], sample: SampleProcess
) -> None:
    caller, wish = Caller(), run_input(call(agents["sample"], "slow: tea"))
    with delegating.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
        next(frame for frame in frames if frame.event["type"] == "TEXT_MESSAGE_CONTENT")
        with delegating.client(caller) as client:
            assert client.post(f"/ag-ui/runs/{wish['runId']}/cancel").status_code == 202
        rest = list(frames)

    assert rest[-1].event["outcome"] == {"type": "cancelled"}
    eventually(lambda: "cancelled" in sample.said(), "the agent is told")


def test_a_peer_that_is_killed_in_the_middle_is_told_to_the_model(
    delegating: RunningService, agents: dict[str, str], mortal: SampleProcess
) -> None:
    wish = run_input(call(agents["mortal"], "slow: tea"))
    with delegating.open_stream(Caller(), "POST", "/ag-ui/events", json=wish) as (_, stream):
        frames = []
        for frame in stream:
            frames.append(frame)
            if frame.event["type"] == "TEXT_MESSAGE_CONTENT" and mortal.process.poll() is None:
                mortal.kill()

    assert_well_formed(frames, wish["runId"])
    [error] = events(frames, "SUBAGENT_ERROR")
    assert "could not be reached" in error["message"]
    assert types(frames)[-1] == "RUN_FINISHED"
    assert "could not be reached" in text(frames)


def test_another_process_asks_for_the_task_that_its_predecessor_had_handed_over(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("attached")
    settings = {"RUN_LEASE_SECONDS": "3", "RUN_HEARTBEAT_SECONDS": "0.5", "OUTBOUND_ALLOWED_HOSTS": "127.0.0.1"}
    with sample_agent(folder) as sample, separate_database(cluster, folder, **settings) as services:
        services.connection.execute(
            "INSERT INTO a2a_remoteagent (id, name, card_url, accepted_digest, accepted_card, state, enabled, side_effects) "
            "VALUES (%s, 'attached', %s, %s, %s, 'accepted', true, 'unsafe')",
            (uuid7(), sample.card_url, digest_of(sample.card), Jsonb(sample.card)),
        )
        successor, victim = services.start(), services.start()
        caller, wish = Caller(), run_input(call("attached", "slow: tea"))
        with victim.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
            next(frame for frame in frames if frame.event["type"] == "TEXT_MESSAGE_CONTENT")
            stored = Stored(services.connection)
            eventually(
                lambda: stored.values("SELECT detail->>'peerTask' FROM orchestration_step WHERE kind = 'delegation'")[
                    0
                ],
                "the task's id is kept",
            )
            victim.stop(signal.SIGKILL)
        with following(successor, caller, wish["runId"]) as stream:
            whole = list(stream)

        assert_well_formed(whole, wish["runId"])
        assert len(events(whole, "SUBAGENT_STARTED")) == 2
        assert "I know nothing of it." in events(whole, "SUBAGENT_FINISHED")[0]["result"]
        assert types(whole)[-1] == "RUN_FINISHED"
        assert sample.said().count(": slow") == 1
        assert "cancelled" not in sample.said()
