"""A tool that wants a person's word before each call."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from audit.actor import SYSTEM
from tests.running_service import Caller, RunningService, run_input
from tests.runs.support import Stored, assert_well_formed, events, eventually, text
from tools.models import Tool
from tools.versions import Definition, publish_version, switch_tool


@pytest.fixture(scope="module")
def guarded(service: RunningService) -> Iterator[str]:
    """The calculator under a name of its own, each call to be approved; the service knows it."""
    tool = Tool.objects.create(name=f"guarded_{uuid4().hex[:12]}")
    schema = {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}
    definition = Definition(
        title="Guarded", description="Calculates.", input_schema=schema, side_effects="idempotent",
        handler={"function": "calculator_tool"}, approval_required=True,
    )  # fmt: skip
    publish_version(tool, definition, by=SYSTEM)
    switch_tool(tool, enabled=True, by=SYSTEM)
    probe = f'demo: call {tool.name} {{"expression": "1"}}'
    eventually(lambda: not events(service.post_run(Caller(), probe), "TOOL_CALL_RESULT"), "the service has seen it")
    yield tool.name
    tool.delete()


def asked(service: RunningService, caller: Caller, tool: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run that ends with the question: its input, and the interrupt."""
    wish = run_input(f'demo: call {tool} {{"expression": "6*7"}}')
    frames = service.stream(caller, "POST", "/ag-ui/events", json=wish)
    assert_well_formed(frames, wish["runId"])
    assert events(frames, "TOOL_CALL_RESULT") == []
    [interrupt] = frames[-1].event["outcome"]["interrupts"]
    return wish, interrupt


def answered(interrupt: dict[str, Any], *, approved: bool) -> list[dict[str, Any]]:
    return [{"interruptId": interrupt["id"], "status": "resolved", "payload": {"approved": approved}}]


def test_a_call_is_made_once_a_person_has_approved_it(service: RunningService, guarded: str, stored: Stored) -> None:
    caller = Caller()
    wish, interrupt = asked(service, caller, guarded)
    assert (interrupt["reason"], interrupt["metadata"]["question"]) == ("tool_call", "approval")
    assert guarded in interrupt["message"]
    assert stored.run(wish["runId"])["status"] == "interrupted"
    assert "tool.approval_asked" in stored.audit(wish["runId"])
    assert "tool.allowed" not in stored.audit(wish["runId"])

    again = run_input("", threadId=wish["threadId"], messages=[], resume=answered(interrupt, approved=True))
    frames = service.stream(caller, "POST", "/ag-ui/events", json=again)

    assert_well_formed(frames, again["runId"])
    [result] = events(frames, "TOOL_CALL_RESULT")
    assert (result["toolCallId"], result["content"]) == (interrupt["toolCallId"], "42")
    assert "42" in text(frames)
    assert {"tool.allowed", "tool.called"} <= set(stored.audit(again["runId"]))


def test_a_call_that_is_not_approved_is_not_made_and_the_model_is_told(
    service: RunningService, guarded: str, stored: Stored
) -> None:
    caller = Caller()
    wish, interrupt = asked(service, caller, guarded)

    again = run_input("", threadId=wish["threadId"], messages=[], resume=answered(interrupt, approved=False))
    frames = service.stream(caller, "POST", "/ag-ui/events", json=again)

    [result] = events(frames, "TOOL_CALL_RESULT")
    assert "this call is not made" in result["content"]
    assert "tool.allowed" not in stored.audit(again["runId"])


@pytest.mark.parametrize("approved", [True, False])
def test_a_plan_waits_for_the_decision_about_its_step_and_goes_on(
    service: RunningService, guarded: str, stored: Stored, approved: bool
) -> None:
    caller = Caller()
    values = {"x": {"$from": "asked"}}
    steps = [
        {"id": "free", "tool": "calculator_tool", "arguments": {"expression": "1+1"}},
        {"id": "asked", "tool": guarded, "arguments": {"expression": "6*7"}},
        {"id": "after", "tool": "calculator_tool", "arguments": {"expression": "x+1", "values": values}},
    ]
    wish = run_input("demo: plan " + json.dumps({"goal": "to be approved", "steps": steps}))
    frames = service.stream(caller, "POST", "/ag-ui/events", json=wish)
    assert_well_formed(frames, wish["runId"])
    [interrupt] = frames[-1].event["outcome"]["interrupts"]
    [state] = stored.values("SELECT state FROM orchestration_thread WHERE public_id = %s", wish["threadId"])
    assert [step["status"] for step in state["plan"]["steps"]] == ["done", "waiting", "pending"]
    assert [result["content"] for result in events(frames, "TOOL_CALL_RESULT")] == ["2"]

    again = run_input("", threadId=wish["threadId"], messages=[], resume=answered(interrupt, approved=approved))
    rest = service.stream(caller, "POST", "/ag-ui/events", json=again)

    assert_well_formed(rest, again["runId"])
    results = [result["content"] for result in events(rest, "TOOL_CALL_RESULT")]
    assert (results[:-1] == ["42", "43"]) is approved
    told = {step["id"]: step["status"] for step in json.loads(results[-1])["steps"]}
    assert told == {
        "free": "done",
        **dict(zip(("asked", "after"), ("done", "done") if approved else ("failed", "skipped"), strict=True)),
    }
    assert "The plan is" in text(rest)
    [state] = stored.values("SELECT state FROM orchestration_thread WHERE public_id = %s", wish["threadId"])
    assert {step["id"]: step["status"] for step in state["plan"]["steps"]} == told


def test_a_step_may_refer_to_a_call_whose_arguments_a_person_changed(service: RunningService, guarded: str) -> None:
    caller = Caller()
    steps = [
        {"id": "asked", "tool": guarded, "arguments": {"expression": "6*7"}},
        {"id": "after", "tool": "calculator_tool",
         "arguments": {"expression": "x+1", "values": {"x": {"$from": "asked"}}}},
    ]  # fmt: skip
    wish = run_input("demo: plan " + json.dumps({"goal": "to be approved", "steps": steps}))
    frames = service.stream(caller, "POST", "/ag-ui/events", json=wish)
    [interrupt] = frames[-1].event["outcome"]["interrupts"]
    payload = {"approved": True, "editedArgs": {"expression": "10+10"}}
    resume = [{"interruptId": interrupt["id"], "status": "resolved", "payload": payload}]
    again = run_input("", threadId=wish["threadId"], messages=[], resume=resume)
    rest = service.stream(caller, "POST", "/ag-ui/events", json=again)
    assert events(rest, "TOOL_CALL_RESULT")[1]["content"] == "21"


def test_an_approval_is_for_one_call_only(service: RunningService, guarded: str) -> None:
    caller = Caller()
    wish, interrupt = asked(service, caller, guarded)
    again = run_input(
        f'demo: call {guarded} {{"expression": "1+1"}}',
        threadId=wish["threadId"],
        resume=answered(interrupt, approved=True),
    )

    frames = service.stream(caller, "POST", "/ag-ui/events", json=again)

    [result] = events(frames, "TOOL_CALL_RESULT")
    assert result["content"] == "42"
    [second] = frames[-1].event["outcome"]["interrupts"]
    assert second["toolCallId"] != interrupt["toolCallId"]
