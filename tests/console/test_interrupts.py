"""The inbox of approvals: people decide once, by a POST, never about their own call where somebody else must, and it is recorded."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.template.loader import get_template
from django.test import RequestFactory
from django.utils import timezone

from agentbackend.console_groups import COMPLIANCE, OPERATORS
from audit.actor import SYSTEM
from audit.console_actor import caller_id
from audit.models import AuditEvent
from orchestration.admin.interrupts import waiting_badge
from orchestration.models import Interrupt
from tests.console.support import SECRET, client_of, console_user, member_of, stored_run, text_of
from tools.governance.approvals import Binding, digest_of_arguments
from tools.models import Tool
from tools.versions import Definition, publish_version, switch_tool

QUESTIONS = "/admin/orchestration/interrupt/"
ARGUMENTS = {"expression": SECRET}


@pytest.fixture(scope="module")
def tool() -> str:
    made = Tool.objects.create(name=f"inbox_{uuid4().hex[:12]}")
    schema = {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}
    definition = Definition(
        title="Calculates", description="Calculates.", input_schema=schema, handler={"function": "calculator_tool"}
    )
    publish_version(made, definition, by=SYSTEM)
    switch_tool(made, enabled=True, by=SYSTEM)
    return made.name


def asked(tool: str, *, asker: dict[str, Any] | None = None, **columns: Any) -> Interrupt:
    run = stored_run(status="interrupted")
    if asker:
        run.input = {"actor": {"id": run.owner_id, **asker}}
        run.save()
    binding = Binding("default", run.owner_id, tool, 1, "d", digest_of_arguments(ARGUMENTS), (f"{tool}:1:d",))
    call = {"id": "call_1", "name": tool, "arguments": json.dumps(ARGUMENTS)}
    detail = {"call": call, "question": "approval", "binding": binding.as_document()}
    return Interrupt.objects.create(
        run=run, thread=run.thread, number=1, reason="tool_call", message="Shall it?", tool_call_id="call_1",
        detail=detail, **columns,
    )  # fmt: skip


@pytest.fixture
def question(tool: str) -> Interrupt:
    return asked(tool)


def page(question: Interrupt, action: str = "change") -> str:
    return f"{QUESTIONS}{question.pk}/{action}/"


def decided(question: Interrupt, action: str, user: User, **said: str) -> Any:
    return client_of(user).post(page(question, action), {"_form_submitted": "on", **said}, follow=True)


def trail(question: Interrupt) -> list[tuple[str, str, str]]:
    found = AuditEvent.objects.filter(target_id=str(question.pk), action__startswith="approval.").order_by("id")
    return [(event.action, event.actor_id, event.reason) for event in found]


@pytest.mark.parametrize(
    ("action", "said", "decision", "recorded"),
    [
        ("approve", {}, {"approved": True}, ("approval.granted", "approved")),
        ("deny", {"reason": "too\x07 dear"}, {"approved": False, "reason": "too  dear"}, ("approval.denied", "denied")),
        (
            "approve-edited",
            {"arguments": '{"expression": "1+1"}', "reason": "cheaper"},
            {"approved": True, "editedArgs": {"expression": "1+1"}, "reason": "cheaper"},
            ("approval.granted", "edited"),
        ),
    ],
)
def test_a_person_decides_once_and_it_is_recorded(
    question: Interrupt, tool: str, action: str, said: dict[str, str], decision: Any, recorded: tuple[str, str]
):
    user = console_user(OPERATORS)
    assert tool in text_of(client_of(user).get(QUESTIONS, {"status": "open"}))
    for _ in range(2):
        decided(question, action, user, **said)
    question.refresh_from_db()
    assert (question.status, question.decision) == ("open", decision), "a run carries it out"
    assert question.decided_by == f"console:{user.pk}"
    assert trail(question) == [(recorded[0], f"console:{user.pk}", recorded[1])]
    [event] = AuditEvent.objects.filter(target_id=str(question.pk), action=recorded[0])
    assert event.subject_id == question.thread.owner_id


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [("{", "Line 1"), ("[1]", "Expected a JSON object"), ('{"expression": 7}', "string")],
)
def test_edited_arguments_that_cannot_be_used_are_refused_and_nothing_is_decided(
    question: Interrupt, arguments: str, complaint: str
):
    response = decided(question, "approve-edited", console_user(OPERATORS), arguments=arguments)
    assert complaint in text_of(response)
    question.refresh_from_db()
    assert question.decided_at is None


@pytest.mark.parametrize("action", ["approve", "approve-edited", "deny"])
def test_looking_at_the_dialog_decides_nothing(question: Interrupt, action: str):
    assert member_of(OPERATORS).get(page(question, action)).status_code == 200
    question.refresh_from_db()
    assert question.decided_at is None


def test_who_may_only_look_decides_nothing(question: Interrupt):
    user = console_user(COMPLIANCE)
    assert client_of(user).get(page(question)).status_code == 200
    decided(question, "approve", user)
    question.refresh_from_db()
    assert question.decided_at is None


@pytest.mark.parametrize("known_by", ["email", "playground"])
def test_nobody_decides_about_their_own_call_where_somebody_else_must(tool: str, known_by: str):
    user = console_user(OPERATORS)
    user.email = f"{uuid4()}@example.org"
    user.save()
    same = {"email": user.email.upper()} if known_by == "email" else {"id": caller_id(user)}
    question = asked(tool, asker=same, decider="someone_else")

    client = client_of(user)
    assert "yours: someone else must decide" in text_of(client.get(page(question)))
    assert "yours: someone else must decide" in text_of(client.get(QUESTIONS, {"status": "open"}))
    decided(question, "approve", user)
    question.refresh_from_db()
    assert (question.decided_at, trail(question)) == (None, [])

    decided(question, "approve", console_user(OPERATORS))
    question.refresh_from_db()
    assert question.decision == {"approved": True}


def test_what_has_expired_is_not_decided_any_more(tool: str):
    question = asked(tool, expires_at=timezone.now() - timedelta(seconds=1))
    user = console_user(OPERATORS)
    assert str(question.pk) in client_of(user).get(QUESTIONS, {"status": "expired"}).content.decode()
    assert str(question.pk) not in client_of(user).get(QUESTIONS, {"status": "open"}).content.decode()
    decided(question, "approve", user)
    question.refresh_from_db()
    assert question.decision is None


def test_who_is_to_decide_sees_the_arguments_and_others_only_if_they_may_read_conversations(question: Interrupt):
    decider = console_user(OPERATORS)
    assert SECRET in text_of(client_of(decider).get(page(question)))
    [view] = AuditEvent.objects.filter(actor_id=f"console:{decider.pk}", target_id=str(question.pk))
    assert (view.action, view.reason) == ("console.viewed", "with_content")
    assert SECRET in text_of(member_of(COMPLIANCE).get(page(question)))
    assert SECRET not in text_of(client_of(console_user(permissions=("view_interrupt",))).get(page(question)))
    decided(question, "deny", decider)
    assert SECRET not in text_of(client_of(decider).get(page(question)))


def test_the_dashboard_says_how_many_wait(question: Interrupt):
    assert "calls waiting for a person" in text_of(member_of(OPERATORS).get("/admin/"))


def test_without_questions_the_list_says_so():
    response = member_of(OPERATORS).get(QUESTIONS, {"q": "nothing-like-this"})
    assert response.status_code == 200


def test_the_navigation_counts_what_waits_and_shows_no_empty_box(question: Interrupt, rf: RequestFactory) -> None:
    helper = get_template("unfold/helpers/app_list_badge.html")
    waits = waiting_badge(rf.get("/"))
    assert f">{waits}</span>" in helper.render({"item": {"badge": "a.function", "badge_callback": waits}})
    assert "<span" not in helper.render({"item": {"badge": "a.function", "badge_callback": ""}})
    page_of_operators = member_of(OPERATORS).get(QUESTIONS).content.decode()
    assert re.search(r"<span>Approvals</span>\s+<span[^>]*>\d", page_of_operators)
