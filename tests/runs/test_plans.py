"""Plans from the question to the answer: through the running service, as clients see them and as they are stored."""

from __future__ import annotations

import json
from typing import Any

from tests.running_service import Caller, Frame, RunningService, run_input
from tests.runs.support import Stored, assert_well_formed, events, patched, text


def a_plan(*steps: dict[str, Any]) -> str:
    """What makes the demo model hand in this plan."""
    return "demo: plan " + json.dumps({"goal": "to test", "steps": steps})


def calculation(name: str, expression: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "tool": "calculator_tool", "arguments": {"expression": expression}, **more}


def report(frames: list[Frame], number: int = 0) -> dict[str, Any]:
    """What the model was told of the plan with this number."""
    plans = [event["toolCallId"] for event in events(frames, "TOOL_CALL_START") if event["toolCallName"] == "make_plan"]
    [result] = [event for event in events(frames, "TOOL_CALL_RESULT") if event["toolCallId"] == plans[number]]
    found: dict[str, Any] = json.loads(result["content"])
    return found


def state_of(frames: list[Frame]) -> Any:
    """The shared state as a client holds it after these events."""
    state: Any = None
    for frame in frames:
        if frame.event["type"] == "STATE_SNAPSHOT":
            state = frame.event["snapshot"]
        elif frame.event["type"] == "STATE_DELTA":
            state = patched(state, frame.event["delta"])
    return state


def stored_state(stored: Stored, thread_id: str) -> Any:
    [state] = stored.values("SELECT state FROM orchestration_thread WHERE public_id = %s", thread_id)
    return state


def statuses(plan: dict[str, Any]) -> dict[str, str]:
    return {step["id"]: step["status"] for step in plan["steps"]}


def test_results_feed_later_steps_and_the_answer(service: RunningService, stored: Stored) -> None:
    wish = run_input("plan: compare the weather in London and Paris")
    frames = service.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    assert_well_formed(frames, wish["runId"])
    found = {step["id"]: step for step in report(frames)["steps"]}
    london, paris = (found[name]["result"]["temperature_c"] for name in ("first", "second"))
    assert found["difference"]["result"] == london - paris
    assert f"difference gave {london - paris}" in text(frames)
    made = [event["toolCallName"] for event in events(frames, "TOOL_CALL_START")]
    assert made == ["make_plan", "get_weather_tool", "get_weather_tool", "calculator_tool"]
    assert stored.audit(wish["runId"]).count("tool.allowed") == 3
    names = stored.values(
        "SELECT detail ->> 'name' FROM orchestration_step s JOIN orchestration_run r ON r.id = s.run_id "
        "WHERE r.public_id = %s AND kind = 'tool_call' AND s.status = 'finished' ORDER BY number",
        wish["runId"],
    )
    assert names == made


def test_the_plan_stands_in_the_shared_state_beside_what_is_the_clients(
    service: RunningService, stored: Stored
) -> None:
    wish = run_input("demo: plan-revise", state={"theme": "dark", "list": [1]})
    frames = service.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    state = state_of(frames)
    assert statuses(state["plan"]) == {"again": "done", "total": "done"}
    assert (state["theme"], state["list"], state["plan"]["revision"]) == ("dark", [1], 2)
    assert state == stored_state(stored, wish["threadId"])
    seen = [
        operation["value"]
        for event in events(frames, "STATE_DELTA")
        for operation in event["delta"]
        if operation["path"] == "/plan/steps/1/status"
    ]
    assert seen == ["running", "failed", "running", "done"]


def test_a_failed_step_skips_what_needs_it_and_the_model_revises(service: RunningService) -> None:
    wish = run_input("demo: plan-revise")
    frames = service.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    assert_well_formed(frames, wish["runId"])
    first, second = report(frames), report(frames, 1)
    assert statuses(first) == {"sum": "done", "place": "failed", "note": "skipped"}
    failed = next(step for step in first["steps"] if step["id"] == "place")
    assert failed["error"]["kind"] == "not_found"
    assert failed["error"]["retry"] == {"can_help": True, "same_arguments": False}
    assert statuses(second) == {"again": "done", "total": "done"}
    again, total = second["steps"]
    assert total["result"] == 42 + again["result"]["temperature_c"], "it refers to a step of the first plan"
    expressions = [
        event["delta"] for event in events(frames, "TOOL_CALL_ARGS") if event["delta"] == '{"expression":"6*7"}'
    ]
    assert len(expressions) == 1, "what was done is not done again"


def test_of_a_plan_with_a_fault_nothing_runs(service: RunningService, stored: Stored) -> None:
    wish = run_input(a_plan(calculation("a", "1+1"), calculation("b", "2+2", after=["c"])))
    frames = service.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    assert_well_formed(frames, wish["runId"])
    [result] = events(frames, "TOOL_CALL_RESULT")
    assert "/steps/1/after/0: There is no step 'c'" in result["content"]
    assert result["metadata"]["error"]["problems"] == [{"at": "/steps/1/after/0", "problem": "There is no step 'c'."}]
    assert "tool.allowed" not in stored.audit(wish["runId"])
    assert state_of(frames) is None


def test_a_role_is_asked_for_before_anything_runs(service: RunningService) -> None:
    steps = calculation("a", "1+1"), {"id": "b", "tool": "admin_debug_tool"}
    refused = service.post_run(Caller(), a_plan(*steps))
    assert (
        "There is no tool 'admin_debug_tool' that you may use here" in events(refused, "TOOL_CALL_RESULT")[0]["content"]
    )
    allowed = service.post_run(Caller(role="admin"), a_plan(*steps))
    assert statuses(report(allowed)) == {"a": "done", "b": "done"}


def test_a_reference_that_leads_nowhere_fails_its_step_alone(service: RunningService) -> None:
    values = {"x": {"$from": "a", "path": "/nothing"}}
    frames = service.post_run(
        Caller(),
        a_plan(
            calculation("a", "1+1"),
            {"id": "b", "tool": "calculator_tool", "arguments": {"expression": "x", "values": values}},
            calculation("c", "3+3", after=["a"]),
        ),
    )
    found = report(frames)
    assert statuses(found) == {"a": "done", "b": "failed", "c": "done"}
    assert "has nothing at '/nothing'" in found["steps"][1]["error"]["message"]


def test_the_next_run_goes_on_from_the_same_messages_and_state(service: RunningService) -> None:
    caller, wish = Caller(), run_input("plan: compare the weather in Oslo and Rome")
    state = state_of(service.stream(caller, "POST", "/ag-ui/events", json=wish))
    frames = service.post_run(caller, "hello", threadId=wish["threadId"])
    assert frames[-1].event["outcome"] == {"type": "success"}
    assert state_of(frames) == state
    [snapshot] = events(frames, "MESSAGES_SNAPSHOT")  # this client has sent its new message only
    roles = [message["role"] for message in snapshot["messages"]]
    assert roles.count("tool") == len([m for m in snapshot["messages"] if m.get("toolCalls")]) == 4
    assert roles[0] == "user"
    assert roles[-2:] == ["assistant", "user"]


def test_older_clients_are_told_of_each_step(service: RunningService) -> None:
    frames = service.post_run(Caller(), a_plan(calculation("a", "1+1")), path="/ag-ui/events?protocol=envelope")
    kinds = [(frame.event["event_type"], frame.event["data"].get("toolName")) for frame in frames]
    assert kinds == [
        ("TOOL_CALL_START", "make_plan"),
        ("TOOL_CALL_START", "calculator_tool"),
        ("TOOL_OUTPUT", "calculator_tool"),
        ("TOOL_OUTPUT", "make_plan"),
        ("AGENT_RESPONSE", None),
    ]


def test_a_step_may_be_a_delegation(service: RunningService) -> None:
    wish = run_input(
        a_plan(
            calculation("count", "2+3"),
            {"id": "ask", "tool": "delegate_to_researcher", "arguments": {"task": "tea"}, "after": ["count"]},
        )
    )
    frames = service.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    assert_well_formed(frames, wish["runId"])
    found = report(frames)
    assert statuses(found) == {"count": "done", "ask": "done"}
    assert "I was asked: tea." in found["steps"][1]["result"]
    [started] = events(frames, "SUBAGENT_STARTED")
    assert started["parentToolCallId"] == events(frames, "TOOL_CALL_START")[-1]["toolCallId"]


def test_a_model_that_insists_on_what_fails_is_stopped_with_an_honest_answer(
    service: RunningService, stored: Stored
) -> None:
    wish = run_input('demo: insist get_weather_tool {"location": "Nowhere"}')
    frames = service.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    assert_well_formed(frames, wish["runId"])
    kinds = [event["metadata"]["error"]["kind"] for event in events(frames, "TOOL_CALL_RESULT")]
    assert kinds == ["not_found", "not_found", "repeated", "repeated"]
    assert stored.audit(wish["runId"]).count("tool.allowed") == 2
    assert frames[-1].event["result"] == {"stopped": "repeated_failure", "tool": "get_weather_tool", "failures": 2}
    assert "no such place was found" in text(frames)


def test_at_the_last_turn_the_model_answers_with_what_it_has(other_process: RunningService) -> None:
    wish = run_input("demo: loop politely")
    frames = other_process.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    assert_well_formed(frames, wish["runId"])
    assert "this is what I have: 1+1 = 2" in text(frames)
    assert frames[-1].event["result"] == {"stopped": "max_iterations", "iterations": 3}
    assert len(events(frames, "TOOL_CALL_RESULT")) == 2
