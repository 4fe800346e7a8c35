"""What a run's `resume` says to the questions that are open in its thread, and what the model is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agentbackend.foundation.problems import Problem
from audit.actor import Actor
from orchestration.answers import MAX_REASON, Answer
from orchestration.deciders import is_same_person, may_decide_by_role
from orchestration.interrupts import OpenInterrupt, QuestionKind, Verdict, ask_about, decide, decision_from
from orchestration.run_input import ResumeEntry
from tools.calls import ToolCall, ToolOutcome, ToolResult
from tools.governance.approvals import ApprovalRequest, Binding, Decider, digest_of_arguments

ASKER = Actor(id="asker")
BINDING = Binding("default", "asker", "pay_tool", 3, "d", digest_of_arguments({"sum": 1}), ("pay_tool:3:d",))
OPEN = [
    OpenInterrupt("a", ToolCall("call_a", "pay_tool", '{"sum": 1}'), QuestionKind.APPROVAL, BINDING),
    OpenInterrupt("b", ToolCall("call_b", "pay_tool", '{"sum": 1}'), QuestionKind.APPROVAL, BINDING),
]
FIRST = OPEN[0]


def answer(key: str, approved: Any = True, status: Any = "resolved", **more: Any) -> ResumeEntry:
    return ResumeEntry(key, status, {"approved": approved, **more})


@pytest.mark.parametrize(
    ("resume", "verdicts"),
    [
        ([answer("a"), answer("b", approved=False)], ["approved", "denied"]),
        ([answer("b"), answer("a", status="cancelled")], ["withdrawn", "approved"]),
        ([], ["withdrawn", "withdrawn"]),
    ],
)
def test_each_question_has_its_answer_and_comes_back_from_the_runs_input(
    resume: list[ResumeEntry], verdicts: list[str]
) -> None:
    decisions = decide(OPEN, resume, by=ASKER)
    assert [(decision.interrupt_id, decision.verdict) for decision in decisions] == list(
        zip("ab", verdicts, strict=True)
    )
    assert all(decision.is_new and decision.decided_by == "asker" for decision in decisions)
    for decision in decisions:
        restored = decision_from(decision.as_document())
        assert restored.as_document() == decision.as_document()
        assert (restored.approval is None) == (decision.verdict is not Verdict.APPROVED)


@pytest.mark.parametrize(
    ("resume", "field"),
    [
        ([answer("a")], "resume"),
        ([answer("a"), answer("b"), answer("c")], "resume"),
        ([answer("a"), answer("b", approved="yes")], "resume[b].payload"),
        ([answer("a"), ResumeEntry("b", "resolved", None)], "resume[b].payload"),
        ([answer("a"), answer("b", editedArgs=[1])], "resume[b].payload.editedArgs"),
        ([answer("a"), answer("b", approved=False, editedArgs={})], "resume[b].payload.editedArgs"),
        ([answer("a"), answer("b", reason=7)], "resume[b].payload.reason"),
        ([answer("a"), answer("b", reason="x" * (MAX_REASON + 1))], "resume[b].payload.reason"),
    ],
)
def test_answers_that_fit_no_question_or_leave_one_open_are_refused(resume: list[ResumeEntry], field: str) -> None:
    with pytest.raises(Problem) as refused:
        decide(OPEN, resume)
    assert (refused.value.code, refused.value.field) == ("invalid_input", field)


def test_without_questions_nothing_can_be_answered() -> None:
    assert decide([], []) == []
    with pytest.raises(Problem):
        decide([], [answer("a")])


def test_edited_arguments_are_what_is_made_and_what_the_yes_is_bound_to() -> None:
    [decision] = decide([FIRST], [answer("a", editedArgs={"sum": 2})])
    assert (decision.call.arguments, decision.original) == ('{"sum":2}', '{"sum": 1}')
    assert decision.binding is not None
    assert decision.binding.arguments_digest == digest_of_arguments({"sum": 2})
    told = decision.told(ToolResult(ToolOutcome.OK, "paid"))
    assert told.content == (
        'A person changed the arguments of this call before it was made. It was made with: {"sum":2}\npaid'
    )
    assert decision_from(decision.as_document()).told(ToolResult(ToolOutcome.OK, "paid")) == told


def test_arguments_that_only_look_edited_are_not() -> None:
    [decision] = decide([FIRST], [answer("a", editedArgs={"sum": 1.0})])
    assert (decision.call, decision.original, decision.is_edited_now) == (FIRST.call, None, False)


def test_the_reason_of_a_no_reaches_the_model_without_control_characters() -> None:
    [decision] = decide([FIRST], [answer("a", approved=False, reason="too\x00 much\n\u202eevil")])
    assert decision.declined is not None
    assert 'The reason given: "too  much evil".' in decision.declined.content
    assert decision.declined.error == decision.declined.content, "the model is shown the error"


def test_what_was_decided_elsewhere_stays_whatever_the_client_sends() -> None:
    decided = replace(FIRST, answer=Answer(True), decided_by="console:7", decided_at=datetime.now(UTC))
    for resume in ([], [answer("a")], [ResumeEntry("a", "cancelled")]):
        [decision] = decide([decided], resume, by=ASKER)
        assert (decision.verdict, decision.decided_by, decision.is_new) == (Verdict.APPROVED, "console:7", False)
    with pytest.raises(Problem) as refused:
        decide([decided], [answer("a", approved=False)])
    assert refused.value.code == "already_decided"


@pytest.mark.parametrize("marked", [True, False])
def test_what_nobody_answered_in_time_has_expired_whatever_the_client_sends(marked: bool) -> None:
    late = replace(FIRST, expires_at=datetime.now(UTC) - timedelta(seconds=1), is_marked_expired=marked)
    for resume in ([], [answer("a")], [answer("a"), answer("b")]):
        decision, *_ = decide([late, OPEN[1]] if len(resume) == 2 else [late], resume, by=ASKER)
        assert (decision.verdict, decision.is_new, decision.decided_by) == (Verdict.EXPIRED, not marked, "system")
        assert decision.declined is not None
        assert "did not answer in time" in decision.declined.content


def test_an_asker_can_only_withdraw_what_somebody_else_must_decide() -> None:
    guarded = replace(FIRST, decider=Decider.SOMEONE_ELSE)
    with pytest.raises(Problem) as refused:
        decide([guarded], [answer("a")], by=ASKER)
    assert refused.value.code == "approval_by_someone_else"
    for resume in ([], [ResumeEntry("a", "cancelled")], [answer("a", approved=False)]):
        assert decide([guarded], resume, by=ASKER)[0].verdict is Verdict.WITHDRAWN


def test_the_interrupt_says_what_is_approved_by_whom_and_until_when() -> None:
    request = ApprovalRequest(BINDING, expires_seconds=60)
    interrupt = ask_about(FIRST.call, QuestionKind.APPROVAL, request, default_seconds=600).as_interrupt()
    left = datetime.fromisoformat(interrupt["expiresAt"]) - datetime.now(UTC)
    assert timedelta(0) < left <= timedelta(seconds=60)
    assert set(interrupt["responseSchema"]["properties"]) == {"approved", "editedArgs", "reason"}
    assert interrupt["metadata"] == {
        "toolName": "pay_tool",
        "arguments": '{"sum": 1}',
        "question": "approval",
        "decider": "asker",
        "toolVersion": 3,
        "argumentsDigest": BINDING.arguments_digest,
        "policyVersion": "pay_tool:3:d",
    }


def test_where_somebody_else_decides_the_asker_is_offered_to_withdraw_only() -> None:
    request = ApprovalRequest(BINDING, Decider.SOMEONE_ELSE, "lead", because="The tool has changed since.")
    interrupt = ask_about(FIRST.call, QuestionKind.APPROVAL, request).as_interrupt()
    assert interrupt["responseSchema"]["properties"]["approved"]["const"] is False
    assert "editedArgs" not in interrupt["responseSchema"]["properties"]
    assert interrupt["message"].startswith("The tool has changed since.")
    assert (interrupt["metadata"]["decider"], interrupt["metadata"]["approverRole"]) == ("someone_else", "lead")
    assert "expiresAt" not in interrupt


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (Actor(id="b"), False),
        (Actor(id="a"), True),
        (Actor(id="service", on_behalf_of="a"), True),
        (Actor(id="console:1", email="A@Example.org "), True),
        (Actor(id="console:1", email="b@example.org"), False),
        (Actor(id="console:1"), False),
    ],
)
def test_nobody_is_somebody_else_under_another_name(other: Actor, same: bool) -> None:
    assert is_same_person(Actor(id="a", email="a@example.org"), other) is same
    assert is_same_person(Actor(id="a"), Actor(id="c"), other_ids=frozenset({"a"}))


@pytest.mark.parametrize(
    ("role", "approver_role", "decider", "allowed"),
    [
        ("lead", "lead", Decider.SOMEONE_ELSE, True),
        ("head", "lead", Decider.SOMEONE_ELSE, True),
        ("user", "lead", Decider.SOMEONE_ELSE, False),
        ("lead", "", Decider.SOMEONE_ELSE, False),
        ("admin", "", Decider.SOMEONE_ELSE, False),
        ("lead", "lead", Decider.ASKER, False),
    ],
)
def test_a_role_decides_where_the_tool_names_it(role: str, approver_role: str, decider: Decider, allowed: bool) -> None:
    roles = {"head": frozenset({"lead"}), "lead": frozenset[str](), "user": frozenset[str]()}
    assert may_decide_by_role(Actor(id="a"), Actor(id="b", role=role), decider, approver_role, roles) is allowed
    assert not may_decide_by_role(Actor(id="a"), Actor(id="b", role="lead", tenant="x"), decider, approver_role, roles)


def test_a_call_that_was_cut_off_is_made_again_as_it_was_or_not_at_all() -> None:
    repeat = replace(FIRST, kind=QuestionKind.REPEAT)
    with pytest.raises(Problem) as refused:
        decide([repeat], [answer("a", editedArgs={"sum": 2})])
    assert (refused.value.code, refused.value.field) == ("invalid_input", "editedArgs")
    [declined] = decide([repeat], [answer("a", approved=False)])
    assert declined.declined is not None
    assert "not known whether it took effect" in declined.declined.content
