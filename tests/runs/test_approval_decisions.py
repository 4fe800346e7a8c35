"""Questions about calls, decided outside a run's `resume`: by POST, by whom, once, in time, and carried out on any process."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import httpx
import pytest

from audit.actor import SYSTEM
from tests.running_service import Caller, RunningService, ServiceFactory, run_input
from tests.runs.support import Stored, assert_well_formed, events, eventually, following, text
from tools.models import ArgumentRule, Tool
from tools.versions import Definition, publish_version, switch_tool

APPROVALS = "/ag-ui/approvals"
SCHEMA = {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}


@dataclass
class GuardedTools:
    """Makes calculators each call of which needs a person's word; a service has seen them when they are handed out."""

    service: RunningService

    def __call__(self, **changes: Any) -> str:
        tool = Tool.objects.create(name=f"guarded_{uuid4().hex[:12]}")
        definition = Definition(
            title="Guarded", description="Calculates.", input_schema=SCHEMA, side_effects="idempotent",
            handler={"function": "calculator_tool"}, approval_required=True, **changes,
        )  # fmt: skip
        publish_version(tool, definition, by=SYSTEM)
        switch_tool(tool, enabled=True, by=SYSTEM)
        self.seen_by(self.service, tool.name)
        return tool.name

    def seen_by(self, service: RunningService, name: str) -> None:
        probe = f'demo: call {name} {{"expression": "1"}}'
        eventually(lambda: not events(service.post_run(Caller(), probe), "TOOL_CALL_RESULT"), "the service has seen it")


@pytest.fixture(scope="module")
def make_guarded(service: RunningService) -> GuardedTools:
    return GuardedTools(service)


@pytest.fixture(scope="module")
def guarded(make_guarded: GuardedTools) -> str:
    return make_guarded()


@pytest.fixture(scope="module")
def four_eyes(make_guarded: GuardedTools) -> str:
    return make_guarded(approval_by="someone_else", approver_role="lead")


@dataclass
class Asked:
    """A question that ended a run."""

    service: RunningService
    caller: Caller
    thread: str
    run: str
    interrupt: dict[str, Any]

    @property
    def id(self) -> str:
        found: str = self.interrupt["id"]
        return found

    def post(self, decision: str, by: Caller | None = None, **more: Any) -> httpx.Response:
        with self.service.client(by or self.caller) as client:
            return client.post(f"{APPROVALS}/{self.id}", json={"decision": decision, **more})

    def get(self, by: Caller | None = None) -> httpx.Response:
        with self.service.client(by or self.caller) as client:
            return client.get(f"{APPROVALS}/{self.id}")

    def carried_out(self) -> list[Any]:
        """The events of the run that carried the decision out, once it has ended."""

        def run_id() -> str | None:
            found: str | None = self.get().json().get("runId")
            return found

        found = eventually(run_id, "a run carries it out")
        with following(self.service, self.caller, found) as frames:
            seen = list(frames)
        assert_well_formed(seen, found)
        return seen


def ask(service: RunningService, tool: str, caller: Caller | None = None, expression: str = "6*7") -> Asked:
    caller = caller or Caller()
    wish = run_input(f"demo: call {tool} {json.dumps({'expression': expression})}")
    frames = service.stream(caller, "POST", "/ag-ui/events", json=wish)
    [interrupt] = frames[-1].event["outcome"]["interrupts"]
    return Asked(service, caller, wish["threadId"], wish["runId"], interrupt)


def results(frames: list[Any]) -> list[str]:
    return [event["content"] for event in events(frames, "TOOL_CALL_RESULT")]


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def trail(stored: Stored, asked: Asked) -> list[str]:
    return stored.values(
        "SELECT action || ' ' || reason FROM audit_events WHERE target_kind = 'interrupt' AND target_id = %s ORDER BY id",
        asked.id,
    )


# --- each decision


def test_an_approved_call_is_made_by_a_run_that_begins_at_once(
    service: RunningService, guarded: str, stored: Stored
) -> None:
    asked = ask(service, guarded)
    waiting = asked.get().json()
    assert (waiting["status"], waiting["mayDecide"], waiting["isMine"]) == ("open", True, True)
    assert (waiting["toolName"], waiting["arguments"]) == (guarded, {"expression": "6*7"})
    assert waiting["expiresAt"] == asked.interrupt["expiresAt"]
    assert waiting["argumentsDigest"] == asked.interrupt["metadata"]["argumentsDigest"]

    answer = asked.post("approve", reason="fine")

    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert (said["id"], said["status"], said["threadId"]) == (asked.id, "approved", asked.thread)
    frames = asked.carried_out()
    assert frames[0].event["runId"] == said["runId"]
    assert (results(frames), "42" in text(frames)) == (["42"], True)
    assert trail(stored, asked) == ["approval.asked approval", "approval.granted approved"]
    assert (asked.get().json()["mayDecide"], asked.get().json()["reason"]) == (False, "fine")
    [allowed] = stored.values(
        "SELECT p.body FROM audit_events e JOIN audit_payload p ON p.event_id = e.id JOIN orchestration_run r "
        "ON r.id = e.run_id WHERE r.public_id = %s AND e.action = 'tool.allowed'",
        said["runId"],
    )
    assert (
        json.loads(bytes(allowed))["approval"]["interrupt"],
        json.loads(bytes(allowed))["approval"]["decided_by"],
    ) == (
        asked.id,
        asked.caller.id,
    )


def test_a_denied_call_is_not_made_and_the_model_is_told_why(
    service: RunningService, guarded: str, stored: Stored
) -> None:
    asked = ask(service, guarded)
    assert asked.post("deny", reason="not\x07 today").json()["status"] == "denied"
    frames = asked.carried_out()
    assert 'The reason given: "not  today".' in results(frames)[0]
    assert "tool.allowed" not in stored.audit(frames[0].event["runId"])
    assert trail(stored, asked)[-1] == "approval.denied denied"


def test_edited_arguments_are_checked_made_and_told(service: RunningService, guarded: str, stored: Stored) -> None:
    asked = ask(service, guarded)
    refused = asked.post("approve", editedArgs={"expression": 7})
    assert (code(refused), refused.json()["field"]) == ((422, "invalid_input"), "editedArgs")
    assert "expression" in refused.json()["detail"]
    assert asked.get().json()["status"] == "open"

    assert asked.post("approve", editedArgs={"expression": "2+3"}).status_code == 200

    frames = asked.carried_out()
    [result] = results(frames)
    assert result.startswith("A person changed the arguments of this call")
    assert result.endswith('{"expression":"2+3"}\n5')
    [snapshot] = events(frames, "MESSAGES_SNAPSHOT")
    calls = [call for message in snapshot["messages"] for call in message.get("toolCalls", ())]
    assert json.loads(calls[0]["function"]["arguments"]) == {"expression": "6*7"}, "the model's own words stay"
    assert trail(stored, asked)[-1] == "approval.granted edited"


def test_edited_arguments_are_bound_by_the_rules_of_who_asked(
    service: RunningService, make_guarded: GuardedTools
) -> None:
    tool = make_guarded(approval_by="someone_else", approver_role="lead")
    schema = {"properties": {"expression": {"maxLength": 4}}}
    ArgumentRule.objects.create(tool=Tool.objects.get(name=tool), role="user", schema=schema, reason="short ones only")
    probe = f'demo: call {tool} {{"expression": "11111+22222"}}'
    eventually(lambda: events(service.post_run(Caller(), probe), "TOOL_CALL_RESULT"), "the service has seen the rule")
    asked, lead = ask(service, tool), Caller(role="lead")
    refused = asked.post("approve", lead, editedArgs={"expression": "11111+22222"})
    assert (code(refused), "short ones only" in refused.json()["detail"]) == ((422, "invalid_input"), True)
    assert asked.post("approve", lead, editedArgs={"expression": "1+1"}).status_code == 200
    assert results(asked.carried_out())[0].endswith("\n2")


def test_edits_in_a_resume_are_checked_before_the_run_begins(service: RunningService, guarded: str) -> None:
    asked = ask(service, guarded)

    def resumed(payload: dict[str, Any]) -> dict[str, Any]:
        resume = [{"interruptId": asked.id, "status": "resolved", "payload": payload}]
        return run_input("", threadId=asked.thread, messages=[], resume=resume)

    with service.client(asked.caller) as client:
        bad = resumed({"approved": True, "editedArgs": {"expression": ""} | {"expression": 1}})
        refused = client.post("/ag-ui/events", json=bad)
    assert code(refused) == (422, "invalid_input")
    assert refused.json()["field"] == f"resume[{asked.id}].payload.editedArgs"
    good = resumed({"approved": True, "editedArgs": {"expression": "3*3"}, "reason": "smaller"})
    frames = service.stream(asked.caller, "POST", "/ag-ui/events", json=good)
    assert results(frames)[0].endswith("\n9")


def test_a_question_that_nobody_answered_in_time_expires_and_the_model_is_told(
    service: RunningService, make_guarded: GuardedTools, stored: Stored
) -> None:
    asked = ask(service, make_guarded(approval_expires_seconds=1))
    eventually(lambda: "approval.expired expired" in trail(stored, asked), "it is marked as expired")
    assert code(asked.post("approve")) == (410, "approval_expired")
    assert asked.get().json()["status"] == "expired"
    assert "runId" not in asked.get().json(), "no run is begun for it"

    held_by_the_client = [{"interruptId": asked.id, "status": "resolved", "payload": {"approved": True}}]
    frames = service.post_run(asked.caller, "hello", threadId=asked.thread, resume=held_by_the_client)

    assert "did not answer in time" in results(frames)[0]
    assert frames[-1].event["type"] == "RUN_FINISHED"
    assert asked.get().json()["runId"] == frames[0].event["runId"]
    assert "Hello" in text(service.post_run(asked.caller, "hello", threadId=asked.thread))


def test_a_plain_next_message_withdraws_the_question(service: RunningService, four_eyes: str, stored: Stored) -> None:
    asked = ask(service, four_eyes)
    frames = service.post_run(asked.caller, "hello", threadId=asked.thread)
    assert "this call is not made" in results(frames)[0]
    assert trail(stored, asked)[-1] == "approval.withdrawn withdrawn"
    assert code(asked.post("approve", Caller(role="lead"))) == (409, "already_decided")


# --- by whom


def test_somebody_elses_question_is_not_found(service: RunningService, guarded: str, four_eyes: str) -> None:
    for asked in (ask(service, guarded), ask(service, four_eyes)):
        stranger = Caller()
        assert asked.get(stranger).status_code == asked.post("approve", stranger).status_code == 404
        assert asked.get().json()["status"] == "open"
        with service.client(stranger) as client:
            assert client.get(APPROVALS).json()["approvals"] == []
    assert code(replace(asked, interrupt={"id": str(uuid4())}).get()) == (404, "not_found")


def test_where_someone_else_must_decide_the_asker_cannot_and_a_caller_of_the_role_can(
    service: RunningService, four_eyes: str, stored: Stored
) -> None:
    asked = ask(service, four_eyes, Caller(role="lead"))
    assert asked.interrupt["metadata"]["decider"] == "someone_else"
    assert code(asked.post("approve")) == (403, "approval_by_someone_else")
    resume = [{"interruptId": asked.id, "status": "resolved", "payload": {"approved": True}}]
    with service.client(asked.caller) as client:
        resumed = client.post("/ag-ui/events", json=run_input("", threadId=asked.thread, messages=[], resume=resume))
    assert code(resumed) == (403, "approval_by_someone_else")
    lead = Caller(role="lead")
    with service.client(lead) as client:
        mine = [one for one in client.get(f"{APPROVALS}?limit=100").json()["approvals"] if one["id"] == asked.id]
    assert (mine[0]["mayDecide"], mine[0]["asker"]["id"]) == (True, asked.caller.id)
    assert "threadId" not in mine[0], "where it stands in the asker's conversation is not the approver's to know"

    said = asked.post("approve", lead).json()

    assert (said["status"], "threadId" in said) == ("approved", False)
    assert results(asked.carried_out()) == ["42"]
    [subject] = stored.values(
        "SELECT envelope FROM audit_events WHERE target_id = %s AND action = 'approval.granted'", asked.id
    )
    assert json.loads(bytes(subject))["subject_id"] == asked.caller.id


def test_the_same_person_under_another_name_is_not_somebody_else(service: RunningService, four_eyes: str) -> None:
    asked = ask(service, four_eyes)
    other = Caller(role="lead")
    headers = {**other.headers, "X-Supabase-User-Email": asked.caller.headers["X-Supabase-User-Email"].upper()}
    with httpx.Client(base_url=service.url, headers=headers, trust_env=False) as client:
        assert client.get(f"{APPROVALS}/{asked.id}").json()["mayDecide"] is False
        refused = client.post(f"{APPROVALS}/{asked.id}", json={"decision": "approve"})
    assert code(refused) == (403, "approval_by_someone_else")


def test_an_asker_withdraws_what_somebody_else_was_to_decide(service: RunningService, four_eyes: str) -> None:
    asked = ask(service, four_eyes)
    assert asked.post("deny", reason="never mind").json()["status"] == "withdrawn"
    assert "The user was asked and decided" in results(asked.carried_out())[0]


# --- once


def test_a_decision_that_is_sent_again_is_the_same_and_another_one_is_refused(
    service: RunningService, guarded: str
) -> None:
    asked = ask(service, guarded)
    first = asked.post("approve").json()
    asked.carried_out()
    again = asked.post("approve")
    assert (again.status_code, again.json()) == (200, first)
    assert code(asked.post("deny")) == (409, "already_decided")
    assert code(asked.post("approve", editedArgs={"expression": "1"})) == (409, "already_decided")
    late = [{"interruptId": asked.id, "status": "resolved", "payload": {"approved": False}}]
    with service.client(asked.caller) as client:
        resumed = client.post("/ag-ui/events", json=run_input("hello", threadId=asked.thread, resume=late))
    assert code(resumed) == (409, "already_decided")
    for held in ({"status": "cancelled"}, {"status": "resolved", "payload": {"approved": True}}):
        frames = service.post_run(
            asked.caller, "hello", threadId=asked.thread, resume=[{"interruptId": asked.id, **held}]
        )
        assert (results(frames), "Hello" in text(frames)) == ([], True)


def test_of_decisions_at_one_moment_one_counts(
    service: RunningService, other_process: RunningService, guarded: str, stored: Stored
) -> None:
    asked = ask(service, guarded)
    elsewhere = replace(asked, service=other_process)
    with ThreadPoolExecutor(8) as pool:
        posts: list[Callable[[], httpx.Response]] = [
            lambda: asked.post("approve"), lambda: elsewhere.post("deny"),
        ] * 4  # fmt: skip
        answers = [found.result() for found in [pool.submit(post) for post in posts]]
    won = {answer.json()["status"] for answer in answers if answer.status_code == 200}
    assert len(won) == 1
    assert {code(answer) for answer in answers if answer.status_code != 200} == {(409, "already_decided")}
    asked.carried_out()
    assert len(trail(stored, asked)) == 2
    runs = stored.values(
        "SELECT r.public_id FROM orchestration_run r JOIN orchestration_thread t ON t.id = r.thread_id WHERE t.public_id = %s",
        asked.thread,
    )
    assert len(runs) == 2


def test_of_several_questions_each_is_decided_and_all_are_carried_out_together(
    service: RunningService, make_guarded: GuardedTools, stored: Stored
) -> None:
    tool = make_guarded()
    caller = Caller()
    asked = ask(service, tool, caller)
    # a second question of the same run, as a model that makes two calls in one turn leaves it
    second = str(uuid4())
    stored.values(
        "INSERT INTO orchestration_interrupt (id, run_id, thread_id, number, reason, message, tool_call_id, detail, expires_at) "
        "SELECT %s, run_id, thread_id, 2, reason, message, 'call-of-a-plan', jsonb_set(detail, '{call,id}', '\"call-of-a-plan\"'), "
        "expires_at FROM orchestration_interrupt WHERE id = %s RETURNING id",
        second, asked.id,
    )  # fmt: skip
    other = replace(asked, interrupt={"id": second})
    assert "runId" not in asked.post("approve").json()
    with service.client(caller) as client:
        left = client.get(APPROVALS).json()["approvals"]
        assert [one["id"] for one in left] == [second]
        assert [one["id"] for one in client.get(f"{APPROVALS}?status=decided").json()["approvals"]] == [asked.id]
        page = client.get(f"{APPROVALS}?status=all&limit=1").json()
        assert (page["approvals"][0]["id"], page["nextCursor"]) == (second, second) or len(page["approvals"]) == 1
    assert other.post("deny").json()["runId"]
    assert results(asked.carried_out()) == ["42"]


# --- what was approved


def test_a_tool_that_changed_between_question_and_answer_is_asked_about_again(
    service: RunningService, make_guarded: GuardedTools
) -> None:
    name = make_guarded()
    asked = ask(service, name)
    tool = Tool.objects.select_related("current_version").get(name=name)
    assert tool.current_version is not None
    publish_version(tool, replace(Definition.of(tool.current_version), timeout_seconds=5.0), by=SYSTEM)

    def version() -> int:
        found: int = ask(service, name).interrupt["metadata"]["toolVersion"]
        return found

    eventually(lambda: version() == 2, "the service has seen the version")
    asked.post("approve")
    frames = asked.carried_out()
    assert results(frames) == []
    [again] = frames[-1].event["outcome"]["interrupts"]
    assert "version 1 was approved, now it is 2" in again["message"]
    assert again["toolCallId"] == asked.interrupt["toolCallId"]
    assert replace(asked, interrupt=again).post("approve").status_code == 200
    assert results(replace(asked, interrupt=again).carried_out()) == ["42"]


def test_a_tool_that_was_switched_off_is_not_called_whatever_was_approved(
    service: RunningService, make_guarded: GuardedTools
) -> None:
    name = make_guarded()
    asked = ask(service, name)
    switch_tool(Tool.objects.get(name=name), enabled=False, by=SYSTEM)
    probe = f'demo: call {name} {{"expression": "1"}}'
    eventually(lambda: events(service.post_run(Caller(), probe), "TOOL_CALL_RESULT"), "the service has seen it")
    asked.post("approve")
    assert "switched off" in results(asked.carried_out())[0]


def test_arguments_that_are_changed_in_the_database_are_not_the_approved_ones(
    service: RunningService, guarded: str, stored: Stored
) -> None:
    asked = ask(service, guarded)
    stored.values(
        "UPDATE orchestration_interrupt SET detail = jsonb_set(detail, '{call,arguments}', to_jsonb(%s::text)) WHERE id = %s "
        "RETURNING id",
        '{"expression": "99*99"}', asked.id,
    )  # fmt: skip
    asked.post("approve")
    frames = asked.carried_out()
    assert results(frames) == []
    assert "Other arguments were approved" in frames[-1].event["outcome"]["interrupts"][0]["message"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "decision"),
        ({"decision": "yes"}, "decision"),
        ({"decision": "approve", "editedArgs": "x"}, "editedArgs"),
        ({"decision": "approve", "editedArgs": {"expression": "a\x00"}}, "editedArgs"),
        ({"decision": "deny", "reason": "x" * 501}, "reason"),
        ({"decision": "deny", "because": "no"}, "because"),
        ([], "(body)"),
    ],
)
def test_an_answer_that_cannot_be_read_is_refused(service: RunningService, guarded: str, body: Any, field: str) -> None:
    with service.client(Caller()) as client:
        refused = client.post(f"{APPROVALS}/{uuid4()}", json=body)
    assert (code(refused), refused.json()["field"]) == ((422, "invalid_input"), field)


# --- on any process


def test_a_question_outlives_every_process(
    service: RunningService, service_factory: ServiceFactory, guarded: str
) -> None:
    first = service_factory.start(WORKER_IN_PROCESS="false")
    asked = ask(first, guarded)
    assert first.stop() == 0
    second = replace(asked, service=service_factory.start())
    assert second.post("approve").status_code == 200
    assert results(second.carried_out()) == ["42"]
    second.service.stop()


def test_the_older_dialects_carry_the_same_question(service: RunningService, guarded: str) -> None:
    text_ = f'demo: call {guarded} {{"expression": "1+1"}}'
    caller = Caller()
    older = service.post_run(caller, text_, protocolVersion=...)
    envelope = service.post_run(caller, text_, path="/ag-ui/events?protocol=envelope")
    [of_older] = older[-1].event["outcome"]["interrupts"]
    [of_envelope] = envelope[-1].event["data"]["interrupts"]
    assert envelope[-1].event["data"]["final"] is True
    assert (
        set(of_older) == set(of_envelope) >= {"id", "message", "toolCallId", "responseSchema", "expiresAt", "metadata"}
    )
