"""The clients that applications use, under Node: `@ag-ui/client` 1.0.0, and 0.0.59, which much of the field still runs."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from audit.actor import SYSTEM
from tests.node_packages import executable, installed
from tests.running_service import Caller, RunningService
from tests.runs.support import Stored, events, eventually
from tools.models import Tool
from tools.versions import Definition, publish_version, switch_tool

pytestmark = pytest.mark.node

SOURCES = Path(__file__).resolve().parent.parent / "node"
CLIENTS = ["client-1.0", "client-0.0"]

Drive = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def installed_clients() -> Path:
    """A folder with both clients."""
    return installed(SOURCES)


@pytest.fixture
def drive(installed_clients: Path, service: RunningService) -> Drive:
    """Play a scenario of drive.mjs with one of the clients; what the application saw."""
    script = Path(shutil.copy(SOURCES / "drive.mjs", installed_clients))

    def play(client: str, scenario: str, caller: Caller, *more: str) -> dict[str, Any]:
        address = f"{service.url}/ag-ui/events"
        command = [executable("node"), str(script), client, scenario, address, caller.id, *more]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 0, ended.stderr
        seen: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        return seen

    return play


def roles(seen: dict[str, Any]) -> list[str]:
    return [message["role"] for message in seen["messages"]]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_plain_answer(drive: Drive, client: str) -> None:
    seen = drive(client, "plain", Caller())
    assert seen["runs"] == [{"ok": True, "newMessages": 1}]
    assert (seen["events"][0], seen["events"][-1]) == ("RUN_STARTED", "RUN_FINISHED")
    assert roles(seen) == ["user", "assistant"]
    assert "Hello!" in seen["messages"][-1]["content"]


@pytest.mark.parametrize("client", CLIENTS)
def test_an_answer_with_a_tool(drive: Drive, client: str) -> None:
    seen = drive(client, "tool", Caller())
    assert [run["ok"] for run in seen["runs"]] == [True]
    assert roles(seen) == ["user", "assistant", "tool", "assistant"]
    _, call, result, answer = seen["messages"]
    assert call["toolCalls"][0]["function"]["name"] == "get_weather_tool"
    assert json.loads(call["toolCalls"][0]["function"]["arguments"]) == {"location": "London"}
    assert result["toolCallId"] == call["toolCalls"][0]["id"]
    assert "London" in answer["content"]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_task_for_another_agent_and_a_next_message(drive: Drive, client: str) -> None:
    seen = drive(client, "delegation", Caller())
    assert [run["ok"] for run in seen["runs"]] == [True, True]
    assert ("SUBAGENT_STARTED" in seen["events"]) is (client == "client-1.0")
    assert "MESSAGES_SNAPSHOT" not in seen["events"]
    said = [message for message in seen["messages"] if "subagentRunId" in message]
    assert [message["content"].startswith("I am a scripted agent") for message in said] == [True] * (
        client == "client-1.0"
    )


@pytest.mark.parametrize("client", CLIENTS)
def test_thoughts_before_an_answer(drive: Drive, client: str) -> None:
    seen = drive(client, "reasoning", Caller())
    assert [run["ok"] for run in seen["runs"]] == [True]
    assert "REASONING_MESSAGE_CONTENT" in seen["events"]
    assert "I thought about it" in seen["messages"][-1]["content"]


@pytest.fixture(scope="module")
def guarded(service: RunningService) -> str:
    """A calculator each call of which needs a person's word; the service has seen it."""
    tool = Tool.objects.create(name=f"guarded_{uuid4().hex[:12]}")
    schema = {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}
    definition = Definition(
        title="Guarded", description="Calculates.", input_schema=schema, handler={"function": "calculator_tool"},
        approval_required=True,
    )  # fmt: skip
    publish_version(tool, definition, by=SYSTEM)
    switch_tool(tool, enabled=True, by=SYSTEM)
    probe = f'demo: call {tool.name} {{"expression": "1"}}'
    eventually(lambda: not events(service.post_run(Caller(), probe), "TOOL_CALL_RESULT"), "the service has seen it")
    return tool.name


@pytest.mark.parametrize("client", CLIENTS)
def test_a_call_that_waits_for_a_person(drive: Drive, stored: Stored, guarded: str, client: str) -> None:
    caller = Caller()
    seen = drive(client, "approval", caller, guarded)
    [interrupt] = seen["interrupts"]
    assert {"id", "message", "toolCallId", "responseSchema", "expiresAt", "metadata"} <= set(interrupt)
    assert [run["ok"] for run in seen["runs"]] == [True, False, True, True], "an open question has to be answered first"
    results = [message for message in seen["messages"] if message["role"] == "tool"]
    assert [result["toolCallId"] for result in results] == [interrupt["toolCallId"]]
    assert results[0]["content"].endswith('{"expression":"5*5"}\n25')
    assert "Hello!" in seen["messages"][-1]["content"]
    assert stored.rows_of(caller) == (1, 3, 3)


@pytest.mark.parametrize("client", CLIENTS)
def test_two_turns_in_one_thread(drive: Drive, stored: Stored, client: str) -> None:
    caller = Caller()
    seen = drive(client, "twoTurns", caller)
    assert [run["ok"] for run in seen["runs"]] == [True, True]
    assert roles(seen) == ["user", "assistant", "tool", "assistant", "user", "assistant"]
    assert "MESSAGES_SNAPSHOT" not in seen["events"], "client and server hold the same messages"
    assert "demo model" not in seen["messages"][-1]["content"], "it introduces itself once in a thread"
    assert stored.rows_of(caller) == (1, 2, 2)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_plan_and_the_next_question(drive: Drive, stored: Stored, client: str) -> None:
    seen = drive(client, "plan", Caller())
    assert [run["ok"] for run in seen["runs"]] == [True, True]
    assert roles(seen) == [
        "user", "assistant", "tool", "assistant", "tool", "assistant", "tool", "assistant", "tool", "assistant", "user",
        "assistant",
    ]  # fmt: skip
    assert "MESSAGES_SNAPSHOT" not in seen["events"], "client and server hold the same messages"
    calls = [message["toolCalls"][0]["function"]["name"] for message in seen["messages"] if message.get("toolCalls")]
    assert calls == ["make_plan", "get_weather_tool", "get_weather_tool", "calculator_tool"]
    assert seen["state"]["theme"] == "dark"
    assert [step["status"] for step in seen["state"]["plan"]["steps"]] == ["done", "done", "done"]
    assert seen["state"] in stored.values(
        "SELECT state FROM orchestration_thread WHERE public_id = %s", seen["threadId"]
    )


@pytest.mark.parametrize("client", CLIENTS)
def test_a_tool_of_the_application(drive: Drive, client: str) -> None:
    seen = drive(client, "frontendTool", Caller())
    assert [run["ok"] for run in seen["runs"]] == [True, True]
    assert roles(seen) == ["user", "assistant", "tool", "assistant"]
    assert "TOOL_CALL_RESULT" not in seen["events"], "its result is the application's to give"
    assert "12:34" in seen["messages"][-1]["content"]


@pytest.mark.parametrize("client", CLIENTS)
def test_an_application_that_aborts(drive: Drive, stored: Stored, client: str) -> None:
    caller = Caller()
    seen = drive(client, "abort", caller)
    assert len(seen["runs"]) == 1
    assert "RUN_FINISHED" not in seen["events"]
    assert seen["messages"][-1]["content"]
    eventually(
        lambda: stored.values("SELECT status FROM orchestration_run WHERE owner_id = %s", caller.id) == ["finished"],
        "the run has gone on without its reader",
    )


@pytest.mark.parametrize("client", CLIENTS)
def test_a_model_that_breaks_off(drive: Drive, client: str) -> None:
    seen = drive(client, "badModel", Caller())
    [error] = seen["errors"]
    assert error["code"] == "model_stream_interrupted"
    assert error["message"]
    assert seen["runs"][-1]["ok"], "the next question is answered"
    assert "Hello!" in seen["messages"][-1]["content"]
