"""Questions of runs in the console: operators decide them once, by a POST, and it is recorded."""

from __future__ import annotations

import pytest

from agentbackend.console_groups import COMPLIANCE, OPERATORS
from audit.models import AuditEvent
from orchestration.models import Interrupt
from tests.console.support import SECRET, client_of, console_user, member_of, stored_run, text_of

QUESTIONS = "/admin/orchestration/interrupt/"


@pytest.fixture
def question() -> Interrupt:
    run = stored_run(status="interrupted")
    call = {"id": "call_1", "name": "send_money_tool", "arguments": SECRET}
    return Interrupt.objects.create(
        run=run,
        thread=run.thread,
        number=1,
        reason="tool_call",
        message="Again?",
        tool_call_id="call_1",
        detail={"call": call},
    )


def page(question: Interrupt, action: str = "change") -> str:
    return f"{QUESTIONS}{question.pk}/{action}/"


@pytest.mark.parametrize(("action", "approved"), [("make-call", True), ("decline", False)])
def test_an_operator_decides_once_and_it_is_recorded(question: Interrupt, action: str, approved: bool):
    user = console_user(OPERATORS)
    client = client_of(user)
    assert "send_money_tool" in text_of(client.get(QUESTIONS))
    for _ in range(2):
        client.post(page(question, action), {"_form_submitted": "on"})
    question.refresh_from_db()
    assert (question.status, question.decision) == ("open", {"approved": approved}), "a run carries it out"
    assert question.decided_by == f"console:{user.pk}"
    [event] = AuditEvent.objects.filter(target_id=str(question.pk), action="interrupt.decided")
    assert (event.actor_id, event.reason) == (f"console:{user.pk}", "approved" if approved else "declined")


@pytest.mark.parametrize("action", ["make-call", "decline"])
def test_looking_at_the_dialog_decides_nothing(question: Interrupt, action: str):
    assert member_of(OPERATORS).get(page(question, action)).status_code == 200
    question.refresh_from_db()
    assert question.decided_at is None


def test_who_may_only_look_decides_nothing(question: Interrupt):
    client = member_of(COMPLIANCE)
    assert client.get(page(question)).status_code == 200
    client.post(page(question, "make-call"), {"_form_submitted": "on"})
    question.refresh_from_db()
    assert question.decided_at is None


def test_arguments_are_shown_to_those_who_may_read_conversations_only(question: Interrupt):
    assert SECRET not in text_of(member_of(OPERATORS).get(page(question)))
    assert SECRET in text_of(member_of(COMPLIANCE).get(page(question)))


def test_without_questions_the_list_says_so():
    response = member_of(OPERATORS).get(QUESTIONS, {"q": "nothing-like-this"})
    assert response.status_code == 200
