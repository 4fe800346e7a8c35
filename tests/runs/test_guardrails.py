"""Guardrail policies in runs: nothing that they forbid is streamed, replayed, stored or handed to a tool."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from django.db import transaction

from agentbackend.embedded_postgres.cluster import Cluster
from agentbackend.foundation.outbound import OutboundPolicy
from audit.actor import SYSTEM
from orchestration.models import Agent
from tests.guardrail_support import a_word, escaped, make_policy, places_of, remove_policies
from tests.mcp_server.support import META_KEY, STATELESS, call_of
from tests.running_service import Caller, Frame, RunningService, ServiceFactory, read_frames, run_input
from tests.runs.support import (
    Reader,
    Stored,
    assert_well_formed,
    events,
    eventually,
    following,
    text,
    types,
)
from tests.separate_database import separate_database
from tools import process
from tools.documents import kind_named
from tools.governance.policies import KEYWORDS_POLICY
from tools.models import GuardrailPolicy

_RULES = {
    "out_block": ("block", "output"),
    "out_redact": ("redact", "output"),
    "out_warn": ("warn", "output"),
    "in_block": ("block", "user_input"),
    "probe": ("block", "user_input"),
    "in_redact": ("redact", "user_input"),
    "arguments_block": ("block", "tool_arguments"),
    "arguments_redact": ("redact", "tool_arguments"),
    "arguments_ask": ("ask", "tool_arguments"),
    "result_block": ("block", "tool_result"),
    "result_redact": ("redact", "tool_result"),
    "result_warn": ("warn", "tool_result"),
    "answer_block": ("block", "remote_answer"),
    "answer_redact": ("redact", "remote_answer"),
}


@dataclass
class Guarded:
    """An agent with one policy for each place and action, and the word that each looks for."""

    slug: str
    policies: dict[str, str] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return f"/ag-ui/agent/{self.slug}/run"

    def word(self, rule: str) -> str:
        return self.words[rule]


def make_guarded() -> Guarded:
    words, policies = {}, {}
    for rule, (action, stage) in _RULES.items():
        words[rule] = a_word()
        policies[rule] = make_policy(action, stage, words=[words[rule]])
    made = make_agent(list(policies.values()))
    return Guarded(made.slug, policies, words)


def make_agent(policies: list[str]) -> Guarded:
    """An agent that names these policies."""
    slug = f"guarded-{uuid4().hex[:12]}"
    kind = kind_named("Agent")
    spec = kind.complete({"title": "Guarded", "guardrails": policies})
    kind.check(slug, spec)
    with transaction.atomic():
        kind.write(slug, spec, by=SYSTEM, note="")
    return Guarded(slug)


@pytest.fixture(scope="module")
def guarded(service: RunningService) -> Iterator[Guarded]:
    made = make_guarded()

    eventually(lambda: seen_by(service, made, made.word("probe")), "the service has seen the agent and its policies")
    yield made
    Agent.objects.filter(slug=made.slug).update(enabled=False)
    remove_policies(list(made.policies.values()))


def say(**wanted: Any) -> str:
    """A wish that the demo model says exactly this; what it is to say cannot be read in the wish itself."""
    return "demo: say " + _hidden(wanted)


def _hidden(value: Any) -> str:
    if isinstance(value, str):
        return f'"{escaped(value)}"'
    if isinstance(value, list):
        return f"[{', '.join(map(_hidden, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{name}": {_hidden(part)}' for name, part in value.items()) + "}"
    return json.dumps(value)


def posted(service: RunningService, guarded: Guarded, words: str, **changes: Any) -> tuple[dict[str, Any], list[Frame]]:
    """A whole run of the guarded agent: its input, and its frames."""
    wish = run_input(words, **changes)
    frames = service.stream(Caller(), "POST", guarded.path, json=wish)
    assert_well_formed(frames, wish["runId"])
    return wish, frames


def raw(frames: list[Frame]) -> str:
    return json.dumps([frame.event for frame in frames]).lower()


def violation(frames: list[Frame]) -> dict[str, Any]:
    [found] = [event for event in events(frames, "CUSTOM") if event["name"] == "GUARDRAIL_VIOLATION"]
    return found["value"]


def policy_versions(stored: Stored, run_id: str, action: str) -> list[str]:
    return stored.values(
        "SELECT convert_from(a.envelope, 'UTF8')::jsonb ->> 'policy_version' FROM audit_events a "
        "JOIN orchestration_run r ON r.id = a.run_id WHERE r.public_id = %s AND a.action = %s",
        run_id,
        action,
    )


# --- what agents say


@pytest.mark.parametrize("where", ["pieces", "reasoning"])
def test_what_a_policy_blocks_is_never_streamed_replayed_or_stored(
    service: RunningService, guarded: Guarded, stored: Stored, superuser_connection: psycopg.Connection, where: str
) -> None:
    word, policy = guarded.word("out_block"), guarded.policies["out_block"]
    caller = Caller()
    pieces = ["This is ", "quite " + word[:5], word[5:], " and more."]
    said = say(pieces=pieces) if where == "pieces" else say(reasoning=f"I think of {word} now", text="Never said.")
    wish = run_input(said)
    frames = service.stream(caller, "POST", guarded.path, json=wish)

    assert_well_formed(frames, wish["runId"])
    assert word not in raw(frames)
    assert word[:5] not in text(frames)
    assert violation(frames) == {"policy": policy, "version": 1, "stage": "output", "category": "keyword"}
    after = types(frames)[types(frames).index("CUSTOM") + 1 :]
    assert after == ["TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END", "RUN_FINISHED"]
    last = frames[-1].event
    assert (last["type"], last["outcome"]) == ("RUN_FINISHED", {"type": "success"})
    assert last["result"] == {"stopped": "guardrail", "policy": policy, "version": 1}
    assert "does not allow it" in text(frames)
    if where == "pieces":
        assert text(frames).startswith("This is quite")
    with following(service, caller, wish["runId"]) as replayed:
        assert [frame.event for frame in replayed] == [frame.event for frame in frames]
    envelope = service.stream(caller, "GET", f"/ag-ui/runs/{wish['runId']}/events?protocol=envelope")
    assert events(envelope, "GUARDRAIL_VIOLATION")[0]["data"]["policy"] == policy
    assert types(envelope)[-1] == "AGENT_RESPONSE"
    assert envelope[-1].event["data"]["final"] is True
    assert places_of(superuser_connection, word) == []
    [version] = policy_versions(stored, wish["runId"], "guardrail.violation")
    assert version.startswith(f"{policy}:1:")
    # the thread goes on, and its next run knows nothing of it either
    again = run_input("hello", threadId=wish["threadId"])
    assert frames[-1].event["type"] == service.stream(caller, "POST", guarded.path, json=again)[-1].event["type"]


def test_what_a_policy_redacts_is_masked_however_it_is_cut(
    service: RunningService, guarded: Guarded, stored: Stored, superuser_connection: psycopg.Connection
) -> None:
    word = guarded.word("out_redact")
    wish, frames = posted(service, guarded, say(pieces=["Say ", *word, " again."]))

    assert text(frames).startswith("Say ")
    assert text(frames).endswith(" again.")
    assert word not in raw(frames)
    assert frames[-1].event.get("result") is None
    assert places_of(superuser_connection, word) == []
    assert len(policy_versions(stored, wish["runId"], "guardrail.found")) == 1


def test_what_a_policy_warns_of_is_said_and_recorded(service: RunningService, guarded: Guarded, stored: Stored) -> None:
    wish, frames = posted(service, guarded, say(text=f"Hear {guarded.word('out_warn')} well."))
    assert text(frames) == f"Hear {guarded.word('out_warn')} well."
    assert len(policy_versions(stored, wish["runId"], "guardrail.found")) == 1


def test_arguments_that_agents_write_are_output_too(
    service: RunningService, guarded: Guarded, superuser_connection: psycopg.Connection
) -> None:
    word = guarded.word("out_block")
    _, frames = posted(service, guarded, say(calls=[["calculator_tool", {"expression": word}]]))
    assert violation(frames)["stage"] == "output"
    assert not [kind for kind in types(frames) if kind.startswith("TOOL_CALL")]
    assert places_of(superuser_connection, word) == []


# --- what users say


def test_a_blocked_question_asks_no_model_and_is_not_kept(
    service: RunningService, guarded: Guarded, stored: Stored, superuser_connection: psycopg.Connection
) -> None:
    word = guarded.word("in_block")
    wish, frames = posted(service, guarded, f"Tell me of {word}")

    assert violation(frames)["stage"] == "user_input"
    assert events(frames, "STEP_STARTED") == []
    [shown] = events(frames, "MESSAGES_SNAPSHOT")[0]["messages"]
    assert "withheld" in shown["content"]
    assert "model.turn" not in stored.audit(wish["runId"])
    assert "guardrail.violation" in stored.audit(wish["runId"])
    assert places_of(superuser_connection, word) == []


def test_a_redacted_question_is_what_the_model_is_asked(
    service: RunningService, guarded: Guarded, superuser_connection: psycopg.Connection
) -> None:
    word = guarded.word("in_redact")
    _, frames = posted(service, guarded, f"My name is {word}, indeed")
    assert "My name is" in text(frames)
    assert "indeed" in text(frames)
    assert word not in raw(frames)
    assert places_of(superuser_connection, word) == []


# --- tools


def test_a_call_with_blocked_arguments_is_refused_and_its_arguments_are_kept_nowhere(
    service: RunningService, guarded: Guarded, stored: Stored, superuser_connection: psycopg.Connection
) -> None:
    word, policy = guarded.word("arguments_block"), guarded.policies["arguments_block"]
    note = {"title": "A", "content": f"about {word}"}
    wish, frames = posted(service, guarded, say(calls=[["add_note_tool", note]], then="So it is."))

    [result] = events(frames, "TOOL_CALL_RESULT")
    assert result["metadata"]["error"]["code"] == "denied"
    assert policy in result["content"]
    assert word not in raw(frames)
    assert text(frames) == "So it is."
    assert "tool.allowed" not in stored.audit(wish["runId"])
    [version] = policy_versions(stored, wish["runId"], "tool.denied")
    assert version.startswith(f"{policy}:1:")
    assert places_of(superuser_connection, word) == []


def test_redacted_arguments_are_what_the_tool_gets(
    service: RunningService, guarded: Guarded, stored: Stored, superuser_connection: psycopg.Connection
) -> None:
    word, title = guarded.word("arguments_redact"), uuid4().hex
    note = {"title": title, "content": f"call {word} back"}
    _, frames = posted(service, guarded, say(calls=[["add_note_tool", note]]))
    [kept] = stored.values("SELECT content FROM tools_note WHERE title = %s", title)
    assert kept.startswith("call ")
    assert word not in kept
    assert word not in raw(frames)
    assert places_of(superuser_connection, word) == []


def test_a_person_is_asked_about_arguments_where_a_policy_says_so(service: RunningService, guarded: Guarded) -> None:
    caller, title = Caller(), uuid4().hex
    note = {"title": title, "content": f"about {guarded.word('arguments_ask')}"}
    wish = run_input(say(calls=[["add_note_tool", note]], then="Kept."))
    frames = service.stream(caller, "POST", guarded.path, json=wish)
    [interrupt] = frames[-1].event["outcome"]["interrupts"]

    answer = [{"interruptId": interrupt["id"], "status": "resolved", "payload": {"approved": True}}]
    again = run_input("", threadId=wish["threadId"], messages=[], resume=answer)
    frames = service.stream(caller, "POST", guarded.path, json=again)
    [result] = events(frames, "TOOL_CALL_RESULT")
    assert "saved" in result["content"]


def _asked(service: RunningService, guarded: Guarded, caller: Caller) -> tuple[dict[str, Any], str]:
    """A run that ended with a question about a note: its input, and the question's id."""
    note = {"title": uuid4().hex, "content": f"about {guarded.word('arguments_ask')}"}
    wish = run_input(say(calls=[["add_note_tool", note]], then="So it is."))
    frames = service.stream(caller, "POST", guarded.path, json=wish)
    [interrupt] = frames[-1].event["outcome"]["interrupts"]
    return wish, interrupt["id"]


def _answered(
    service: RunningService, guarded: Guarded, way: str, answer: dict[str, Any]
) -> tuple[list[Frame], dict[str, Any]]:
    """Ask about a note and answer it by this way: the frames of the run that carries it out, and the question as it is kept."""
    caller = Caller()
    wish, question = _asked(service, guarded, caller)
    address = f"/ag-ui/approvals/{question}"
    if way == "resume":
        resume = [{"interruptId": question, "status": "resolved", "payload": answer}]
        again = run_input("", threadId=wish["threadId"], messages=[], resume=resume)
        frames = service.stream(caller, "POST", guarded.path, json=again)
    with service.client(caller) as client:
        if way == "post":
            decision = "approve" if answer.pop("approved") else "deny"
            response = client.post(address, json={"decision": decision, **answer})
            assert response.status_code == 200, response.text
            run_id = eventually(lambda: client.get(address).json().get("runId"), "a run carries it out")
            with following(service, caller, run_id) as following_frames:
                frames = list(following_frames)
        return frames, client.get(address).json()


@pytest.mark.parametrize("way", ["resume", "post"])
@pytest.mark.parametrize("rule", ["in_block", "in_redact", "out_block"])
def test_the_reason_of_an_answer_is_a_users_words_and_the_answer_counts_all_the_same(
    service: RunningService,
    guarded: Guarded,
    stored: Stored,
    superuser_connection: psycopg.Connection,
    rule: str,
    way: str,
) -> None:
    word = guarded.word(rule)
    frames, kept = _answered(service, guarded, way, {"approved": False, "reason": f"not {word}"})
    [result] = events(frames, "TOOL_CALL_RESULT")
    assert "decided that this call is not made" in result["content"]
    assert (kept["status"], word in json.dumps(kept)) == ("denied", False)
    assert word not in raw(frames)
    assert places_of(superuser_connection, word) == []
    found = "guardrail.found" if rule == "in_redact" else "guardrail.violation"
    where = stored.values(
        "SELECT action FROM audit_events WHERE thread_id = (SELECT thread_id FROM orchestration_interrupt WHERE id = %s)",
        kept["id"],
    )
    assert found in where


@pytest.mark.parametrize("way", ["resume", "post"])
@pytest.mark.parametrize("rule", ["arguments_redact", "out_redact"])
def test_edited_arguments_are_masked_like_those_of_a_model(
    service: RunningService,
    guarded: Guarded,
    stored: Stored,
    superuser_connection: psycopg.Connection,
    rule: str,
    way: str,
) -> None:
    word, title = guarded.word(rule), uuid4().hex
    edited = {"title": title, "content": f"call {word} back"}
    frames, _ = _answered(service, guarded, way, {"approved": True, "editedArgs": edited})
    [content] = stored.values("SELECT content FROM tools_note WHERE title = %s", title)
    assert content.startswith("call ")
    assert word not in content + raw(frames)
    assert places_of(superuser_connection, word) == []


def test_a_decision_is_carried_out_though_a_policy_has_changed_since(service: RunningService) -> None:
    asking, word, probe = a_word(), a_word(), a_word()
    with transaction.atomic():
        policies = [make_policy("ask", "tool_arguments", words=[asking]), make_policy("block", "output", words=[probe])]
    made, caller = make_agent(policies), Caller()

    def is_seen(said: str) -> bool:
        with service.client(Caller()) as client:  # the agent may not be known yet
            return "GUARDRAIL_VIOLATION" in client.post(made.path, json=run_input(say(text=said))).text

    eventually(lambda: is_seen(probe), "the service has seen the agent and its policies")
    calls = [["add_note_tool", {"title": title, "content": asking}] for title in ("first", "second")]
    frames = service.stream(caller, "POST", made.path, json=run_input(say(calls=calls, then="So it is.")))
    first, second = [f"/ag-ui/approvals/{asked['id']}" for asked in frames[-1].event["outcome"]["interrupts"]]
    with service.client(caller) as client:
        edited = {"title": "first", "content": word}
        assert client.post(first, json={"decision": "approve", "editedArgs": edited}).status_code == 200
        kind = kind_named("Guardrail")
        changed = kind.complete(
            {"kind": "keywords", "stages": ["output"], "action": "block", "settings": {"keywords": [word]}}
        )
        with transaction.atomic():
            kind.write(policies[1], changed, by=SYSTEM, note="")
        eventually(lambda: is_seen(word), "the service has seen the change")
        assert client.post(second, json={"decision": "deny"}).status_code == 200
        eventually(lambda: client.get(first).json().get("runId"), "a run carries both out")


def test_a_plan_with_blocked_arguments_is_refused_with_the_policys_name(
    service: RunningService, guarded: Guarded, superuser_connection: psycopg.Connection
) -> None:
    word, policy = guarded.word("arguments_block"), guarded.policies["arguments_block"]
    step = {"id": "note", "tool": "add_note_tool", "arguments": {"title": "n", "content": word}}
    _, frames = posted(service, guarded, "demo: plan " + _hidden({"steps": [step]}))
    [result] = events(frames, "TOOL_CALL_RESULT")
    assert f"the guardrail policy {policy} does not allow" in result["content"]
    assert result["metadata"]["error"]["kind"] == "refused"
    assert places_of(superuser_connection, word) == []


@pytest.mark.parametrize("action", ["block", "ask"])
def test_arguments_of_a_plans_step_are_checked_with_the_results_in_them(
    service: RunningService, stored: Stored, action: str
) -> None:
    word = a_word()
    with transaction.atomic():
        settings = {"settings": {"classes": ["card"]}}
        policies = [make_policy(action, "tool_arguments", kind="pii", **settings)]
        policies.append(make_policy("block", "user_input", words=[word]))
    made, caller = make_agent(policies), Caller()
    eventually(lambda: seen_by(service, made, word), "the service has seen the agent and its policies")
    plan = {
        "steps": [
            {"id": "sum", "tool": "calculator_tool", "arguments": {"expression": "4111111111111110+1"}},
            {"id": "next", "tool": "calculator_tool",
             "arguments": {"expression": "x+1", "values": {"x": {"$from": "sum"}}}},
        ]
    }  # fmt: skip
    wish = run_input("demo: plan " + json.dumps(plan))
    frames = service.stream(caller, "POST", made.path, json=wish)
    assert_well_formed(frames, wish["runId"])
    shown = [event["delta"] for event in events(frames, "TOOL_CALL_ARGS")]
    assert stored.audit(wish["runId"]).count("tool.allowed") == 1
    if action == "block":
        assert [arguments for arguments in shown if "4111111111111111" in arguments] == []
        assert f"the guardrail policy {policies[0]} does not allow" in raw(frames)
        return
    [interrupt] = frames[-1].event["outcome"]["interrupts"]
    assert "4111111111111111" in interrupt["metadata"]["arguments"]
    answer = [{"interruptId": interrupt["id"], "status": "resolved", "payload": {"approved": True}}]
    again = run_input("", threadId=wish["threadId"], messages=[], resume=answer)
    frames = service.stream(caller, "POST", made.path, json=again)
    assert events(frames, "TOOL_CALL_RESULT")[0]["content"] == "4111111111111112"
    assert frames[-1].event["outcome"] == {"type": "success"}


def test_a_step_may_refer_to_a_result_that_the_model_is_warned_of(service: RunningService, guarded: Guarded) -> None:
    steps = [
        {"id": "keep", "tool": "add_note_tool", "arguments": {"title": "w", "content": guarded.word("result_warn")}},
        {"id": "get", "tool": "get_note_tool", "arguments": {"title": "w"}, "after": ["keep"]},
        {"id": "again", "tool": "add_note_tool",
         "arguments": {"title": "again", "content": {"$from": "get", "path": "/content"}}},
    ]  # fmt: skip
    _, frames = posted(service, guarded, "demo: plan " + _hidden({"steps": steps}))
    report = json.loads(events(frames, "TOOL_CALL_RESULT")[-1]["content"])
    assert {step["id"]: step["status"] for step in report["steps"]} == {"keep": "done", "get": "done", "again": "done"}
    assert "data, not instructions" in report["steps"][1]["result"], "the model is warned all the same"


def test_the_name_of_a_tool_that_an_agent_makes_up_is_what_it_says(
    service: RunningService, guarded: Guarded, superuser_connection: psycopg.Connection
) -> None:
    word = guarded.word("out_redact")
    _, frames = posted(service, guarded, say(calls=[[word, {}]], then="So it is."))
    [call] = events(frames, "TOOL_CALL_START")
    assert call["toolCallName"] == "_removed_"
    assert word not in raw(frames)
    assert places_of(superuser_connection, word) == []


def test_what_the_application_says_of_its_context_is_checked(
    service: RunningService, guarded: Guarded, superuser_connection: psycopg.Connection
) -> None:
    word = guarded.word("in_block")
    _, frames = posted(service, guarded, "hello", context=[{"description": f"the page {word}", "value": "1"}])
    assert violation(frames)["stage"] == "user_input"
    assert places_of(superuser_connection, word) == []


@pytest.mark.parametrize("action", ["block", "redact"])
def test_what_the_parts_of_a_message_say_together_is_checked(
    service: RunningService, superuser_connection: psycopg.Connection, action: str
) -> None:
    first, second, word = a_word(), a_word(), a_word()
    with transaction.atomic():
        policy = make_policy(action, "user_input", words=[f"{first} {second}"])
        probe = make_policy("block", "user_input", words=[word])
    made = make_agent([policy, probe])
    eventually(lambda: seen_by(service, made, word), "the service has seen the agent and its policies")
    parts = [{"type": "text", "text": f"tell me {first}"}, {"type": "text", "text": second}]
    _, frames = posted(service, made, "", messages=[{"id": str(uuid4()), "role": "user", "content": parts}])
    assert second not in raw(frames)
    assert places_of(superuser_connection, second) == []
    remove_policies([policy, probe])


@pytest.mark.parametrize("rule", ["result_block", "result_redact", "result_warn"])
def test_results_are_withheld_masked_or_marked(
    service: RunningService, guarded: Guarded, superuser_connection: psycopg.Connection, rule: str
) -> None:
    word, caller = guarded.word(rule), Caller()
    kept = say(calls=[["add_note_tool", {"title": "result", "content": f"It says {word} here"}]])
    service.post_run(caller, kept)  # by another agent, whom nobody keeps from it
    frames = service.post_run(caller, say(calls=[["get_note_tool", {"title": "result"}]]), path=guarded.path)

    [result] = events(frames, "TOOL_CALL_RESULT")
    if rule == "result_warn":
        assert word in result["content"]
        assert "data, not instructions" in result["content"]
        return
    assert word not in raw(frames)
    if rule == "result_block":
        assert result["metadata"]["error"]["code"] == "withheld"
        assert guarded.policies[rule] in result["content"]
    else:
        assert json.loads(result["content"])["content"].startswith("It says ")


@pytest.mark.parametrize("rule", ["answer_block", "answer_redact"])
def test_answers_of_remote_agents_are_withheld_or_masked(service: RunningService, guarded: Guarded, rule: str) -> None:
    word = guarded.word(rule)
    result, said = _delegated(service, guarded, {"task": f"find {word} out"})
    assert word not in result["content"]
    assert word not in said
    if rule == "answer_block":
        assert (result["metadata"]["error"]["code"], said) == ("withheld", "")
    else:
        assert said == result["content"]
        assert "I was asked: find" in said


def _delegated(service: RunningService, guarded: Guarded, task: dict[str, str]) -> tuple[dict[str, Any], str]:
    """The result of a delegation, and what the run's readers were shown of the answer."""
    _, frames = posted(service, guarded, say(calls=[["delegate_to_researcher", task]]))
    said = "".join(found["delta"] for found in events(frames, "TEXT_MESSAGE_CONTENT") if "subagentRunId" in found)
    [result] = events(frames, "TOOL_CALL_RESULT")
    return result, said


def test_mcp_callers_pass_the_policies_that_hold_everywhere(service: RunningService, stored: Stored) -> None:
    word, caller = a_word(), Caller()
    policy = make_policy("block", "tool_arguments", "tool_result", words=[word], everywhere=True)

    def call(content: str) -> dict[str, Any]:
        document = call_of("add_note_tool", {"title": "mcp", "content": content}, version=STATELESS)
        headers = {
            **caller.headers,
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": STATELESS,
            "mcp-method": "tools/call",
            "mcp-name": "add_note_tool",
        }
        answer = httpx.post(f"{service.url}/mcp", json=document, headers=headers, trust_env=False, timeout=30)
        found: dict[str, Any] = answer.json()["result"]
        return found

    try:
        refused = eventually(lambda: (made := call(word)).get("isError") and made, "the policy counts")
        assert refused["_meta"][META_KEY]["code"] == "denied"
        assert policy in refused["content"][0]["text"]
        assert word not in json.dumps(refused)
        assert not call("nothing of the kind").get("isError")
    finally:
        remove_policies([policy])


# --- moderation endpoints


class Judge:
    """A moderation endpoint that objects to texts with one of these words in them, and remembers what it was asked."""

    def __init__(self, *words: str) -> None:
        self.asked: list[str] = []
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
                judge.asked.append(said)
                flagged = any(word in said for word in words)
                result = {"flagged": flagged, "categories": {"violence": flagged}, "category_scores": {}}
                body = json.dumps({"results": [result]}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def reaching(service_factory: ServiceFactory) -> RunningService:
    """A service that may reach this machine."""
    return service_factory.start(OUTBOUND_ALLOWED_HOSTS="127.0.0.1")


@pytest.mark.parametrize("mode", ["final", "sentences"])
def test_what_a_moderation_model_objects_to_does_not_leave(
    reaching: RunningService, superuser_connection: psycopg.Connection, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "outbound_policy", lambda: OutboundPolicy(allowed_hosts=["127.0.0.1"]))
    monkeypatch.setattr("tools.addresses.outbound_policy", process.outbound_policy)
    word, probe = a_word(), a_word()
    judge = Judge(word, probe)
    settings = {"url": judge.url, "mode": mode}
    policy = make_policy("block", "output", "user_input", kind="model", settings=settings)
    agent = make_agent([policy])
    try:
        judged = eventually(lambda: seen_by(reaching, agent, probe), "the policy counts")
        assert judged["stage"] == "user_input"
        _, frames = posted(
            reaching, agent, say(pieces=["All is ", "well. ", f"But {word[:4]}", f"{word[4:]} ", "is not. "])
        )
        assert violation(frames) == {"policy": policy, "version": 1, "stage": "output", "category": "violence"}
        assert text(frames).startswith("All is well. ") == (mode == "sentences")
        assert word not in raw(frames)
        assert "All is well. " in judge.asked if mode == "sentences" else "All is well. " not in judge.asked
        assert places_of(superuser_connection, word) == []
        judge.close()
        _, frames = posted(reaching, agent, "hello there, judge")  # nobody judges any more
        assert violation(frames)["category"] == "not_judged"
    finally:
        Agent.objects.filter(slug=agent.slug).update(enabled=False)
        remove_policies([policy])


def seen_by(service: RunningService, agent: Guarded, words: str) -> dict[str, Any] | None:
    """The violation that these words are, once the service knows agent and policy."""
    with service.client(Caller()) as client:
        answer = client.post(agent.path, json=run_input(words))
    if answer.status_code != 200 or "GUARDRAIL_VIOLATION" not in answer.text:
        return None
    return violation(list(read_frames(iter(answer.text.split("\n")))))


# --- a process that dies, and one that starts


def test_a_word_that_is_held_back_is_gone_with_its_process(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    word = a_word()
    settings = {"RUN_LEASE_SECONDS": "3", "RUN_HEARTBEAT_SECONDS": "0.5", "DISALLOWED_KEYWORDS": word}
    with separate_database(cluster, tmp_path_factory.mktemp("guardrails"), **settings) as services:
        owner, successor = services.start(), services.start()
        caller = Caller()
        wish = run_input(
            say(pieces=["Well, ", f"now it can be told by anybody: {word[:6]}", word[6:], " it is."], delay=1000)
        )
        with owner.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
            seen = ""
            for frame in frames:
                seen += frame.event.get("delta", "") if frame.event["type"] == "TEXT_MESSAGE_CONTENT" else ""
                if "now" in seen:  # what follows it in the same piece is held back
                    break
            owner.stop(signal.SIGKILL)
        with following(successor, caller, wish["runId"]) as stream:
            whole = Reader(stream).whole(60)

        assert_well_formed(whole, wish["runId"])
        assert violation(whole)["policy"] == KEYWORDS_POLICY
        assert [event["name"] for event in events(whole, "CUSTOM")] == ["run_recovered", "GUARDRAIL_VIOLATION"]
        assert word[:6] not in raw(whole)
        assert places_of(services.connection, word[:6]) == []


def test_disallowed_keywords_hold_from_the_start_and_cannot_be_changed_elsewhere(
    service_factory: ServiceFactory, service: RunningService
) -> None:
    word = a_word()
    starting = service_factory.start(DISALLOWED_KEYWORDS=f"{word}, {a_word()}")
    try:
        policy = GuardrailPolicy.objects.get(name=KEYWORDS_POLICY)
        assert policy.current_version is not None
        assert (policy.enabled, policy.everywhere) == (True, True)
        assert word in policy.current_version.settings["keywords"]
        frames = starting.post_run(Caller(), say(text=f"So {word}."))
        assert violation(frames)["policy"] == KEYWORDS_POLICY
        assert violation(starting.post_run(Caller(), f"What is {word}?"))["stage"] == "user_input"
        assert kind_named("Guardrail").read(KEYWORDS_POLICY) is None
    finally:
        starting.stop()
        remove_policies(
            [KEYWORDS_POLICY]
        )  # it holds for every process on this database, and holds answers of other agents back
