"""Processes are killed at each point of an approval: what was decided is carried out, and nothing is done twice unasked."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentbackend.embedded_postgres.cluster import Cluster
from tests.running_service import ROOT, Caller, Frame, RunningService, run_input
from tests.runs.effect_services import effect_services
from tests.runs.effect_tools import ROLE
from tests.runs.support import Stored, events, eventually, following
from tests.runs.upstream import Upstream
from tests.separate_database import SeparateDatabase

_TOOLS = """
apiVersion: agentbackend/v1
kind: Tool
name: unsafe_effect_tool
spec: {approval_required: true}
---
apiVersion: agentbackend/v1
kind: Tool
name: keyed_effect_tool
spec: {approval_required: true}
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.close()


@pytest.fixture(scope="module")
def services(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, upstream: Upstream
) -> Iterator[SeparateDatabase]:
    """Services whose tools with effects need a person's word, and whose model calls what it is told to."""
    with effect_services(cluster, tmp_path_factory, upstream) as made:
        made.start().stop()  # it registers the tools of its modules
        command = [sys.executable, "manage.py", "registry", "apply", "--yes", "-"]
        subprocess.run(command, cwd=ROOT, env=made.environment(), input=_TOOLS.encode(), check=True)
        yield made


@pytest.fixture(scope="module")
def successor(services: SeparateDatabase) -> RunningService:
    """The process that outlives the others."""
    return services.start()


@pytest.fixture
def stored(services: SeparateDatabase) -> Stored:
    return Stored(services.connection)


class Asked:
    """A question about a call with an effect, that a process asked which is killed sooner or later."""

    def __init__(self, services: SeparateDatabase, kind: str, owner: RunningService) -> None:
        self.caller = Caller(role=ROLE)
        self.folder = Path(services.settings["EFFECTS_FOLDER"]) / self.caller.id
        self.folder.mkdir()
        self.owner = owner
        wish = run_input(f"call {kind}_effect_tool {{}}")
        frames = owner.stream(self.caller, "POST", "/ag-ui/events", json=wish)
        [interrupt] = frames[-1].event["outcome"]["interrupts"]
        self.thread, self.id = wish["threadId"], interrupt["id"]

    @property
    def effects(self) -> list[str]:
        file = self.folder / "effects"
        return file.read_text().splitlines() if file.exists() else []

    def let_go(self) -> None:
        (self.folder / "go-on").touch()

    def post(self, service: RunningService, question: str, decision: str = "approve") -> None:
        with service.client(self.caller) as client:
            answer = client.post(f"/ag-ui/approvals/{question}", json={"decision": decision})
        assert answer.status_code == 200, answer.text

    def run_of(self, service: RunningService, question: str) -> str:
        with service.client(self.caller) as client:
            found: str = eventually(
                lambda: client.get(f"/ag-ui/approvals/{question}").json().get("runId"), "a run carries it out"
            )
        return found

    def frames(self, service: RunningService, question: str) -> list[Frame]:
        with following(service, self.caller, self.run_of(service, question)) as found:
            return list(found)


def result_of(frames: list[Frame]) -> dict[str, Any]:
    [result] = events(frames, "TOOL_CALL_RESULT")
    found: dict[str, Any] = json.loads(result["content"])
    return found


def test_a_decision_outlives_the_process_that_took_it(services: SeparateDatabase, successor: RunningService) -> None:
    asked = Asked(services, "unsafe", services.start(WORKER_IN_PROCESS="false"))
    asked.let_go()
    asked.post(asked.owner, asked.id)
    asked.owner.stop(signal.SIGKILL)  # before, while or after a run is begun: whoever is left carries it out
    frames = asked.frames(successor, asked.id)
    assert result_of(frames) == {"done": "unsafe_effect_tool"}
    assert len(asked.effects) == 1


@pytest.mark.parametrize("decision", ["approve", "deny"])
def test_an_approved_call_that_was_cut_off_is_asked_about_again(
    services: SeparateDatabase, successor: RunningService, decision: str
) -> None:
    asked = Asked(services, "unsafe", services.start())
    resume = [{"interruptId": asked.id, "status": "resolved", "payload": {"approved": True}}]
    again = run_input("", threadId=asked.thread, messages=[], resume=resume)
    with asked.owner.open_stream(asked.caller, "POST", "/ag-ui/events", json=again) as (_, _frames):
        eventually(lambda: asked.effects, "the call is at work")
        asked.owner.stop(signal.SIGKILL)
    with following(successor, asked.caller, again["runId"]) as rest:
        [question] = list(rest)[-1].event["outcome"]["interrupts"]
    assert question["metadata"]["question"] == "repeat"
    assert len(asked.effects) == 1, "it is not known what came of it, so nothing is done"
    asked.let_go()
    asked.post(successor, question["id"], decision)
    frames = asked.frames(successor, question["id"])
    assert len(asked.effects) == (2 if decision == "approve" else 1)
    assert len(events(frames, "TOOL_CALL_RESULT")) == 1


def test_an_approved_call_with_a_key_is_made_again_with_the_same_key(
    services: SeparateDatabase, successor: RunningService
) -> None:
    asked = Asked(services, "keyed", services.start())
    resume = [{"interruptId": asked.id, "status": "resolved", "payload": {"approved": True}}]
    again = run_input("", threadId=asked.thread, messages=[], resume=resume)
    with asked.owner.open_stream(asked.caller, "POST", "/ag-ui/events", json=again) as (_, _frames):
        eventually(lambda: asked.effects, "the call is at work")
        asked.owner.stop(signal.SIGKILL)
    asked.let_go()
    with following(successor, asked.caller, again["runId"]) as rest:
        assert result_of(list(rest)) == {"done": "keyed_effect_tool"}
    first, second = asked.effects
    assert first == second


def test_a_call_that_has_ended_is_not_made_again_when_the_process_dies_after_it(
    services: SeparateDatabase, successor: RunningService, upstream: Upstream, stored: Stored
) -> None:
    asked = Asked(services, "unsafe", services.start())
    asked.let_go()
    upstream.may_answer_after_tools.clear()
    resume = [{"interruptId": asked.id, "status": "resolved", "payload": {"approved": True}}]
    again = run_input("", threadId=asked.thread, messages=[], resume=resume)
    turns = (
        "SELECT s.id FROM orchestration_step s JOIN orchestration_run r ON r.id = s.run_id "
        "WHERE r.public_id = %s AND s.kind = 'model_turn'"
    )
    with asked.owner.open_stream(asked.caller, "POST", "/ag-ui/events", json=again) as (_, _frames):
        eventually(lambda: stored.values(turns, again["runId"]), "the model is asked what to say")
        asked.owner.stop(signal.SIGKILL)
    upstream.may_answer_after_tools.set()
    with following(successor, asked.caller, again["runId"]) as rest:
        frames = list(rest)
    assert frames[-1].event["outcome"] == {"type": "success"}
    assert len(events(frames, "TOOL_CALL_RESULT")) == len(asked.effects) == 1
