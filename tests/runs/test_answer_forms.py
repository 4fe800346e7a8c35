"""Models without tool calling, and answers to a schema, through the running service: recorded answers of a provider, replayed."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from agentbackend.embedded_postgres.cluster import Cluster
from tests.running_service import Caller, Frame, RunningService, run_input
from tests.runs.recorded_model import RecordedModel
from tests.runs.support import Reader, Stored, assert_well_formed, events, eventually, following, text
from tests.separate_database import SeparateDatabase, separate_database

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "number"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}

_FINISHED_STEPS = (
    "SELECT s.id FROM orchestration_step s JOIN orchestration_run r ON r.id = s.run_id "
    "WHERE r.public_id = %s AND s.status = 'finished'"
)


@pytest.fixture(scope="module")
def model() -> Iterator[RecordedModel]:
    server = RecordedModel()
    yield server
    server.close()


@pytest.fixture(scope="module")
def services(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, model: RecordedModel
) -> Iterator[SeparateDatabase]:
    settings = {
        "RUN_LEASE_SECONDS": "3",
        "RUN_HEARTBEAT_SECONDS": "0.5",
        "OPENAI_BASE_URL": model.url,
        "OPENAI_MODEL": "local-7b",
    }
    with separate_database(cluster, tmp_path_factory.mktemp("services"), **settings) as made:
        for slug, prompting, schema in (
            ("json", "prompted_json", None),
            ("json-structured", "prompted_json", json.dumps(SCHEMA)),
        ):
            made.connection.execute(
                "INSERT INTO orchestration_agent (id, slug, name, prompting, output_schema) "
                "VALUES (gen_random_uuid(), %s, %s, %s, %s)",
                (slug, slug, prompting, schema),
            )
        yield made


@pytest.fixture(scope="module")
def started(services: SeparateDatabase) -> RunningService:
    return services.start()


@pytest.fixture
def stored(services: SeparateDatabase) -> Stored:
    return Stored(services.connection)


def asked(service: RunningService, wish: dict[str, Any], agent: str = "json") -> list[Frame]:
    frames = service.stream(Caller(), "POST", f"/ag-ui/agent/{agent}/run", json=wish)
    assert_well_formed(frames, wish["runId"])
    return frames


def calls(frames: list[Frame]) -> list[str]:
    return [event["toolCallName"] for event in events(frames, "TOOL_CALL_START")]


def test_a_model_without_tool_calling_calls_a_tool_and_answers(started: RunningService, model: RecordedModel) -> None:
    frames = asked(started, run_input("recorded weather"))
    assert calls(frames) == ["get_weather_tool"]
    arguments = "".join(event["delta"] for event in events(frames, "TOOL_CALL_ARGS"))
    assert json.loads(arguments) == {"location": "Rome"}
    assert text(frames) == 'In Rome the sun shines ☀️ 😀 \u2013 take "shades".'
    thought = "".join(event["delta"] for event in events(frames, "REASONING_MESSAGE_CONTENT"))
    assert thought == "I need the weather in Rome."
    first, second = model.requests[-2:]
    assert "tools" not in first
    assert first["response_format"] == {"type": "json_object"}
    prompt = first["messages"][0]["content"]
    assert '{"tool":"get_weather_tool","purpose":' in prompt
    assert "admin_debug_tool" not in prompt, "only what the caller may use is described"
    assert second["messages"][0]["content"] == prompt
    assert [message["role"] for message in second["messages"]] == ["system", "user", "assistant", "user"]
    assert '"result":{' in second["messages"][-1]["content"]


def test_two_calls_are_made_side_by_side(started: RunningService) -> None:
    frames = asked(started, run_input("recorded two_calls"))
    assert calls(frames) == ["get_weather_tool", "calculator_tool"]
    assert "42" in [event["content"] for event in events(frames, "TOOL_CALL_RESULT")]
    assert text(frames) == "Paris is fine, and six times seven is 42."
    [usage] = events(frames, "RUN_FINISHED")[0]["usage"]
    assert usage["inputTokens"] == 800


def test_a_plan_is_carried_out(started: RunningService, model: RecordedModel) -> None:
    frames = asked(started, run_input("recorded plan"))
    assert calls(frames) == ["make_plan", "get_weather_tool", "add_note_tool"]
    assert text(frames) == "I noted the weather in Rome."
    told = model.requests[-1]["messages"]
    assert '"plan":{' in told[-2]["content"]
    assert '"tool":"make_plan"' in told[-1]["content"]


def test_an_answer_in_the_wrong_form_is_mended_and_never_shown(
    started: RunningService, model: RecordedModel, stored: Stored
) -> None:
    wish = run_input("recorded corrected")
    frames = asked(started, wish)
    assert calls(frames) == ["get_weather_tool"]
    assert text(frames) == "I corrected myself: Rome is sunny."
    told = model.requests[-2]["messages"]
    assert [message["role"] for message in told[-4:]] == ["assistant", "user", "assistant", "user"]
    assert told[-4]["content"].startswith("Let me look that up")
    assert "It holds no JSON object." in told[-3]["content"]
    assert 'There is no tool "weather". The tools are: ' in told[-1]["content"]
    assert "Let me look" not in str(model.requests[-1]["messages"]), "a mended mistake is not shown again"
    assert stored.run(wish["runId"])["model_turns"] == 4
    [messages] = stored.values(
        "SELECT c.messages FROM conversation_turns c JOIN orchestration_run r ON r.id = c.run_id WHERE r.public_id = %s",
        wish["runId"],
    )
    assert "Let me look" not in str(messages)
    reasons = stored.values(
        "SELECT a.reason FROM audit_events a JOIN orchestration_run r ON r.id = a.run_id WHERE r.public_id = %s "
        "AND a.action = 'model.turn' ORDER BY a.id",
        wish["runId"],
    )
    assert reasons == ["model_invalid_response", "model_invalid_response", "", ""]


def test_a_model_that_cannot_mend_its_answer_ends_the_run_honestly(
    started: RunningService, model: RecordedModel
) -> None:
    before = len(model.requests)
    frames = asked(started, run_input("recorded never"))
    [error] = events(frames, "RUN_ERROR")
    assert error["code"] == "model_invalid_response"
    assert "told 2 times" in error["message"]
    assert not text(frames)
    assert len(model.requests) - before == 3


def test_a_structured_answer_is_checked_before_it_is_shown(started: RunningService, model: RecordedModel) -> None:
    frames = asked(started, run_input("recorded structured"), "json-structured")
    [content] = events(frames, "TEXT_MESSAGE_CONTENT")
    assert json.loads(content["delta"]) == {"city": "Rome", "degrees": 21.5}
    assert events(frames, "RUN_FINISHED")[0]["result"] == {"answer": {"city": "Rome", "degrees": 21.5}}
    assert 'degrees: "warm" is not of type "number"' in model.requests[-1]["messages"][-1]["content"]


def test_a_correction_outlives_the_process(
    services: SeparateDatabase, started: RunningService, model: RecordedModel, stored: Stored
) -> None:
    owner, caller, wish = services.start(), Caller(), run_input("recorded killed")
    model.asked.clear()
    model.may_answer.clear()
    with owner.open_stream(caller, "POST", "/ag-ui/agent/json-structured/run", json=wish) as (_, frames):
        reader = Reader(frames)
        assert model.asked.wait(20)
        eventually(lambda: stored.values(_FINISHED_STEPS, wish["runId"]), "the rejected turn is committed")
        owner.stop(signal.SIGKILL)
        with pytest.raises(Exception):  # noqa: B017 - however the client's library says that the connection is cut
            reader.whole()
    before = len(model.requests)
    eventually(lambda: len(model.requests) > before, "the successor asks the model again")
    model.may_answer.set()
    with following(started, caller, wish["runId"], after=reader.frames[-1].number) as rest:
        seen = [*reader.frames, *rest]
    assert_well_formed(seen, wish["runId"])
    assert events(seen, "RUN_FINISHED")[0]["result"] == {"answer": {"city": "Rome", "degrees": 21.5}}
    asked_again = model.requests[before]["messages"]
    assert asked_again[-2] == {"role": "assistant", "content": "It is probably sunny."}
    assert "It holds no JSON object." in asked_again[-1]["content"]
