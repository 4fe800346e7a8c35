"""Decisions of people in the console about what runs have asked.

A decision here is a request, as everywhere outside a run: any process's sweep begins the run that carries it out, once all open
questions of the thread are decided. These functions use the ORM and belong into a thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
from asgiref.sync import async_to_sync
from django.db import connection, transaction
from django.db.models import Q, QuerySet
from django.db.models.fields.json import KeyTransform
from django.utils import timezone

import audit
from agentbackend.foundation.database import database
from agentbackend.foundation.problems import Problem
from audit.actor import Actor
from audit.console_actor import caller_id, console_actor
from audit.entry import Target
from audit.recording import insert
from orchestration.answer_screening import screen_answer
from orchestration.answers import Answer
from orchestration.approval_audit import ACTIONS, common_ids, decision_details, reason_code
from orchestration.approvals import require_usable
from orchestration.deciders import is_same_person
from orchestration.interrupts import Decision, OpenInterrupt, decided
from orchestration.models import Interrupt
from tools.governance import findings as of_findings
from tools.governance.approvals import Decider
from tools.governance.explanations import explain
from tools.governance.guardrails.policy import Finding
from tools.models import Tool
from tools.registry import registry

PERMISSION = "orchestration.decide_interrupt"


def waiting() -> Q:
    """Questions that somebody can still answer."""
    in_time = Q(expires_at__isnull=True) | Q(expires_at__gt=timezone.now())
    return Q(status=Interrupt.Status.OPEN, decided_at__isnull=True) & in_time


def expired() -> Q:
    """Questions that nobody answered in time, whether or not they are marked yet."""
    late = Q(status=Interrupt.Status.OPEN, decided_at__isnull=True, expires_at__lte=timezone.now())
    return Q(status=Interrupt.Status.EXPIRED) | late


def with_asker(questions: QuerySet[Interrupt]) -> QuerySet[Interrupt]:
    """The questions, each with who asked as `asker_document`, without the rest of the run's input."""
    found = questions.select_related("run", "run__agent", "thread").annotate(
        asker_document=KeyTransform("actor", "run__input")
    )
    return found.defer("run__input", "run__outcome", "thread__state")


def asker_of(question: Interrupt) -> Actor:
    """Who asked for the call, as authenticated then; of a question from `with_asker`."""
    document: dict[str, Any] | None = question.asker_document  # type: ignore[attr-defined]
    return Actor(**(document or {"id": question.thread.owner_id, "tenant": question.thread.tenant}))


def is_own(question: Interrupt, user: Any) -> bool:
    """Whether this person is who asked, as far as that is known: by the account's id in the playground, or the e-mail."""
    return is_same_person(asker_of(question), console_actor(user), other_ids=frozenset({caller_id(user)}))


def may_decide(question: Interrupt, user: Any) -> bool:
    """Whether this person's answer would count: by permission, and never about a call of their own that somebody else must decide."""
    if not user.has_perm(PERMISSION):
        return False
    return question.decider != Decider.SOMEONE_ELSE or not is_own(question, user)


def decide(interrupt_id: Any, answer: Answer, *, user: Any, request_id: str = "") -> None:
    """Store and record a person's answer. The same answer again changes nothing.

    Raises Problem: `already_decided`, `approval_expired`, `approval_by_someone_else`, and `invalid_input` for edited arguments that
    cannot be used.
    """
    answer, found = _screened(interrupt_id, answer)
    require_usable_edit(interrupt_id, answer)
    by = console_actor(user)
    with transaction.atomic():
        Interrupt.objects.select_for_update().get(pk=interrupt_id)
        question = with_asker(Interrupt.objects.filter(pk=interrupt_id)).get()
        if _was_answered(question, answer):
            return
        if not may_decide(question, user):
            raise Problem("approval_by_someone_else")
        decision = decided(open_interrupt(question), answer, by=by.id, at=datetime.now(UTC))
        question.decision, question.decided_by, question.decided_at = answer.as_document(), by.id, decision.decided_at
        question.save(update_fields=["decision", "decided_by", "decided_at"])
        _record(question, decision, by, request_id, found)
    of_findings.count(found)


def _screened(interrupt_id: Any, answer: Answer) -> tuple[Answer, tuple[Finding, ...]]:
    """The answer as the policies of the agent that asked let it be kept, in a process that serves."""
    if not database.is_open:
        return answer, ()
    question = Interrupt.objects.select_related("run__agent").get(pk=interrupt_id)
    guardrails = frozenset(question.run.agent.guardrails)
    if not connection.in_atomic_block:
        connection.close()  # see `require_usable_edit`

    async def screened() -> tuple[Answer, tuple[Finding, ...]]:
        return await screen_answer(await registry.screen(guardrails), answer, field="editedArgs")

    return async_to_sync(screened)()


def require_usable_edit(interrupt_id: Any, answer: Answer) -> None:
    """Raise Problem `invalid_input` when the edited arguments would be refused to the asker all the same."""
    if answer.edited is None:
        return
    question = with_asker(Interrupt.objects.filter(pk=interrupt_id)).get()
    decision = decided(open_interrupt(question), answer, by="", at=None)
    asker = asker_of(question)
    if database.is_open:  # a process that serves: as the door will judge
        tools = frozenset(question.run.agent.tools) or None
        if not connection.in_atomic_block:
            connection.close()  # none is held meanwhile; Django opens another one when it needs it
        guardrails = frozenset(question.run.agent.guardrails)
        async_to_sync(require_usable)(decision, asker, tools=tools, guardrails=guardrails, field="editedArgs")
        return
    tool = Tool.objects.select_related("current_version").filter(name=decision.call.name).first()
    judged = explain(tool, asker.role, orjson.loads(decision.call.arguments)) if tool else None
    if judged is None or not judged.allowed:
        why = judged.explanation if judged else "There is no such tool."
        raise Problem("invalid_input", f"A call with these arguments cannot be made. {why}", field="editedArgs")


def open_interrupt(question: Interrupt) -> OpenInterrupt:
    """The question as the run path sees it."""
    names = ("id", "detail", "status", "decision", "decider", "approver_role", "expires_at", "decided_by", "decided_at")
    return OpenInterrupt.of({name: getattr(question, name) for name in names})


def _was_answered(question: Interrupt, answer: Answer) -> bool:
    if question.status == Interrupt.Status.EXPIRED or open_interrupt(question).has_expired(datetime.now(UTC)):
        raise Problem("approval_expired")
    if question.status == Interrupt.Status.OPEN and question.decided_at is None:
        return False
    if not Answer.stored(question.decision or {}).agrees_with(answer):
        raise Problem("already_decided")
    return True


def _record(question: Interrupt, decision: Decision, by: Actor, request_id: str, found: Sequence[Finding]) -> None:
    asker = asker_of(question)
    target = Target("interrupt", decision.interrupt_id)
    ids = common_ids(question.run_id, question.thread_id, request_id)
    for audit_entry in of_findings.entries(found, actor=by, target=target, **ids):
        insert(audit_entry)
    audit.record(
        ACTIONS[decision.verdict],
        actor=by,
        target=target,
        subject_id="" if asker.id == by.id else asker.id,
        reason=reason_code(decision),
        policy_version=decision.binding.policy_versions[0]
        if decision.binding and decision.binding.policy_versions
        else "",
        details=decision_details(decision),
        **ids,
    )
