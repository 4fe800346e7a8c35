"""The demo model in the other forms: without tool calling, and to an output schema; the playground works with either."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.running_service import Caller, Frame, RunningService, run_input
from tests.runs.support import CLIENT_TIME, Stored, assert_well_formed, events, eventually, text

SCHEMA = {
    "type": "object",
    "properties": {"said": {"type": "string"}, "score": {"type": "integer", "minimum": 3}},
    "required": ["said", "score"],
}


def made_agent(service: RunningService, connection: psycopg.Connection, prompting: str, schema: Any = None) -> str:
    """An agent, once the service knows it."""
    slug = f"form-{uuid4().hex[:8]}"
    connection.execute(
        "INSERT INTO orchestration_agent (id, slug, name, prompting, output_schema) "
        "VALUES (gen_random_uuid(), %s, %s, %s, %s)",
        (slug, slug, prompting, None if schema is None else json.dumps(schema)),
    )
    with service.client(Caller()) as client:
        eventually(lambda: slug in client.get("/ag-ui/info").json()["agents"], "the agent is known")
    return slug


def asked(service: RunningService, agent: str, words: str, **changes: Any) -> list[Frame]:
    wish = run_input(words, **changes)
    frames = service.stream(Caller(), "POST", f"/ag-ui/agent/{agent}/run", json=wish)
    assert_well_formed(frames, wish["runId"])
    return frames


def test_an_agent_without_tool_calling_behaves_as_any_other(
    service: RunningService, superuser_connection: psycopg.Connection
) -> None:
    agent = made_agent(service, superuser_connection, "prompted_json")
    called = asked(service, agent, "weather in Rome and 2+2, and think")
    assert [event["toolCallName"] for event in events(called, "TOOL_CALL_START")] == [
        "get_weather_tool",
        "calculator_tool",
    ]
    assert "2+2 = 4." in text(called)
    assert events(called, "REASONING_MESSAGE_CONTENT")
    assert len(events(asked(service, agent, "a long answer"), "TEXT_MESSAGE_CONTENT")) > 5, "the answer is streamed"
    pending = asked(service, agent, "what time is it for me", tools=[CLIENT_TIME])
    assert events(pending, "RUN_FINISHED")[0]["outcome"]["pendingToolCallIds"]
    assert text(asked(service, agent, "demo: bad json")).endswith("I corrected my answer.")


@pytest.mark.parametrize("prompting", ["native", "prompted_json"])
def test_an_answer_to_a_schema_is_one_message_and_a_result(
    service: RunningService, superuser_connection: psycopg.Connection, stored: Stored, prompting: str
) -> None:
    agent = made_agent(service, superuser_connection, prompting, SCHEMA)
    value = {"said": "hello", "score": 5}
    frames = asked(service, agent, f"demo: structured {json.dumps(value)}")
    assert [json.loads(event["delta"]) for event in events(frames, "TEXT_MESSAGE_CONTENT")] == [value]
    assert events(frames, "RUN_FINISHED")[0]["result"] == {"answer": value}
    mended = run_input(f"demo: structured-bad {json.dumps(value)}")
    path = f"/ag-ui/agent/{agent}/run"
    frames = service.stream(Caller(), "POST", path, json=mended)
    assert events(frames, "RUN_FINISHED")[0]["result"] == {"answer": value}
    assert stored.run(mended["runId"])["model_turns"] == 2
    with_tools = asked(service, agent, "what is 6*7")
    assert events(with_tools, "TOOL_CALL_RESULT")[0]["content"] == "42"
    assert "42" in events(with_tools, "RUN_FINISHED")[0]["result"]["answer"]["said"]


def test_an_answer_that_never_fits_ends_the_run(
    service: RunningService, superuser_connection: psycopg.Connection
) -> None:
    agent = made_agent(service, superuser_connection, "native", SCHEMA)
    frames = asked(service, agent, 'demo: structured {"said": "hello", "score": 1}')
    [error] = events(frames, "RUN_ERROR")
    assert error["code"] == "invalid_structured_answer"
    assert not events(frames, "TEXT_MESSAGE_START"), "nothing is shown that does not fit"


def test_programs_of_the_envelope_get_the_value_too(
    service: RunningService, superuser_connection: psycopg.Connection
) -> None:
    agent = made_agent(service, superuser_connection, "native", SCHEMA)
    caller, wish = Caller(), run_input('demo: structured {"said": "hello", "score": 4}')
    service.stream(caller, "POST", f"/ag-ui/agent/{agent}/run", json=wish)
    frames = service.stream(caller, "GET", f"/ag-ui/runs/{wish['runId']}/events?protocol=envelope")
    assert frames[-1].event["data"]["answer"] == {"said": "hello", "score": 4}
    assert json.loads(frames[-1].event["message"]) == {"said": "hello", "score": 4}
