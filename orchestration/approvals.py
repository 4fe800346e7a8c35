"""Approvals outside a run's `resume`: read, decided one by one, expired.

A decision here is a request: it is stored with the question under a row lock, so of two at one moment exactly one counts, and the run
that carries it out is begun once every open question of the thread has its answer. Every look-up starts from the caller: what they
neither asked nor may decide is not found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from psycopg.rows import dict_row

from agentbackend.foundation.database import Connection, Database
from agentbackend.foundation.problems import Problem
from agentbackend.foundation.writer import Unit
from audit import rows as audit_rows
from audit.actor import SYSTEM, Actor
from audit.entry import AuditEntry, Target
from orchestration.answer_screening import screen_answer
from orchestration.answers import Answer
from orchestration.approval_audit import common_ids, decided_entry
from orchestration.deciders import is_same_person, may_decide_by_role
from orchestration.interrupts import Decision, OpenInterrupt, Verdict, decided, moment, require_agreement
from orchestration.run_input import ResumeEntry
from tools.door import refused_before_approval
from tools.governance import findings as of_findings
from tools.governance.approvals import Decider
from tools.registry import registry

MAX_PAGE = 100
_EXPIRED_AT_ONCE = 200

STATUSES = ("open", "decided", "expired", "all")
"""What lists can be narrowed to."""

_COLUMNS = """
asked.id, asked.detail, asked.status, asked.decision, asked.decider, asked.approver_role, asked.expires_at, asked.decided_by,
asked.decided_at, asked.created_at, asked.message, asked.thread_id, asked.run_id, thread.public_id AS thread_public_id,
thread.tenant, thread.owner_id, run.public_id AS run_public_id, run.agent_id, run.input -> 'actor' AS asker,
carried.public_id AS carried_out_in, asked.expires_at <= now() AS is_late
"""
_FROM = """
FROM orchestration_interrupt AS asked JOIN orchestration_thread AS thread ON thread.id = asked.thread_id
JOIN orchestration_run AS run ON run.id = asked.run_id
LEFT JOIN orchestration_run AS carried ON carried.id = asked.carried_out_in_id
"""
_ONE = f"SELECT {_COLUMNS} {_FROM} WHERE asked.id = %s AND thread.tenant = %s"
_LIST = f"""
SELECT {_COLUMNS} {_FROM}
WHERE thread.tenant = %(tenant)s
    AND (thread.owner_id = %(caller)s OR (asked.decider = 'someone_else' AND asked.approver_role = ANY(%(roles)s)))
    AND (%(before)s::uuid IS NULL OR asked.id < %(before)s::uuid)
    AND CASE %(status)s
        WHEN 'open' THEN asked.status = 'open' AND asked.decided_at IS NULL
            AND (asked.expires_at IS NULL OR asked.expires_at > now())
        WHEN 'decided' THEN asked.status IN ('resolved', 'cancelled') OR (asked.status = 'open' AND asked.decided_at IS NOT NULL)
        WHEN 'expired' THEN asked.status = 'expired'
            OR (asked.status = 'open' AND asked.decided_at IS NULL AND asked.expires_at <= now())
        ELSE true END
ORDER BY asked.id DESC LIMIT %(limit)s
"""
_APPROVER_ROLES = """
SELECT DISTINCT approver_role FROM orchestration_interrupt WHERE decider = 'someone_else' AND approver_role <> ''
"""
_DECIDE = """
UPDATE orchestration_interrupt SET decision = %s, decided_by = %s, decided_at = now()
WHERE id = %s AND status = 'open' AND decided_at IS NULL AND (expires_at IS NULL OR expires_at > now())
"""
_CLOSED = f"""
SELECT {_COLUMNS} {_FROM} WHERE asked.thread_id = %s AND asked.id::text = ANY(%s) AND asked.status <> 'open'
"""
_DUE = """
SELECT id FROM orchestration_interrupt WHERE status = 'open' AND decided_at IS NULL AND expires_at <= now()
ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED
"""
_EXPIRE = (
    "UPDATE orchestration_interrupt SET status = 'expired', decided_by = %s, decided_at = now() WHERE id = ANY(%s)"
)
_MANY = f"SELECT {_COLUMNS} {_FROM} WHERE asked.id = ANY(%s)"


@dataclass(frozen=True, slots=True)
class AskedCall:
    """A question as it is stored, with who asked and what became of it."""

    question: OpenInterrupt
    asker: Actor
    thread_id: UUID
    thread_public_id: str
    owner_id: str
    run_id: UUID
    run_public_id: str
    agent_id: UUID
    status: str
    answer: Answer | None
    is_withdrawn: bool
    decided_by: str
    decided_at: datetime | None
    asked_at: datetime
    message: str
    carried_out_in: str | None
    is_late: bool

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> AskedCall:
        """From the columns that the queries of this module select."""
        decision = row["decision"]
        return cls(
            question=OpenInterrupt.of(row),
            asker=Actor(**(row["asker"] or {"id": row["owner_id"], "tenant": row["tenant"]})),
            thread_id=row["thread_id"],
            thread_public_id=row["thread_public_id"],
            owner_id=row["owner_id"],
            run_id=row["run_id"],
            run_public_id=row["run_public_id"],
            agent_id=row["agent_id"],
            status=row["status"],
            answer=Answer.stored(decision) if decision and row["decided_at"] is not None else None,
            is_withdrawn=bool((decision or {}).get("withdrawn")),
            decided_by=row["decided_by"],
            decided_at=row["decided_at"],
            asked_at=row["created_at"],
            message=row["message"],
            carried_out_in=row["carried_out_in"],
            is_late=bool(row["is_late"]),
        )

    @property
    def id(self) -> str:
        """The question's id."""
        return self.question.id

    @property
    def verdict(self) -> Verdict | None:
        """What became of it; None while it waits."""
        if self.status == "expired" or (self.is_late and self.status == "open" and self.decided_at is None):
            return Verdict.EXPIRED
        if self.decided_at is None:
            return None
        if self.answer is not None and self.answer.approved:
            return Verdict.APPROVED
        return Verdict.WITHDRAWN if self.is_withdrawn else Verdict.DENIED

    def as_document(self, caller: Actor, *, may_decide: bool) -> dict[str, Any]:
        """The question as this caller gets it; where it stands in the asker's conversation only the asker is told."""
        question, binding = self.question, self.question.binding
        verdict = self.verdict
        document: dict[str, Any] = {
            "id": self.id,
            "status": verdict.value if verdict else "open",
            "question": question.kind.value,
            "message": self.message,
            "toolName": question.call.name,
            "arguments": _json_or_text(question.call.arguments),
            "decider": question.decider.value,
            "isMine": caller.id == self.owner_id,
            "mayDecide": may_decide and verdict is None,
            "askedAt": moment(self.asked_at),
        }
        if question.approver_role:
            document["approverRole"] = question.approver_role
        if binding is not None:
            document |= {"toolVersion": binding.tool_version, "argumentsDigest": binding.arguments_digest}
            document["policyVersion"] = ", ".join(binding.policy_versions)
        if question.expires_at is not None:
            document["expiresAt"] = moment(question.expires_at)
        if document["isMine"]:
            document |= {"threadId": self.thread_public_id, "askedInRun": self.run_public_id}
            document |= {"toolCallId": question.call.id}
            if self.carried_out_in:
                document["runId"] = self.carried_out_in
        else:
            document["asker"] = {"id": self.asker.id, **({"email": self.asker.email} if self.asker.email else {})}
        return document | self._decided()

    def _decided(self) -> dict[str, Any]:
        if self.decided_at is None:
            return {}
        about: dict[str, Any] = {"decidedAt": moment(self.decided_at)}
        if self.answer is not None and self.answer.reason:
            about["reason"] = self.answer.reason
        if self.answer is not None and self.answer.edited is not None:
            about["editedArgs"] = self.answer.edited
        return about


async def list_asked(
    database: Database, caller: Actor, *, status: str = "open", limit: int = 20, before: UUID | None = None
) -> tuple[list[dict[str, Any]], str | None]:
    """What the caller has asked, and what they may decide by their role, newest first; and where the next page begins."""
    roles = await _roles_of(database, caller)
    parameters = {
        "tenant": caller.tenant, "caller": caller.id, "roles": sorted(roles), "status": status, "before": before,
        "limit": limit + 1,
    }  # fmt: skip
    async with database.connection() as connection:
        found = [AskedCall.of(row) for row in await _rows(connection, _LIST, parameters)]
    page = found[:limit]
    shown = [asked.as_document(caller, may_decide=await may_decide(asked, caller)) for asked in page]
    return shown, page[-1].id if len(found) > limit else None


async def find_asked(database: Database, caller: Actor, interrupt_id: str) -> AskedCall:
    """A question that the caller asked or may decide; raises Problem `not_found`."""
    key = _uuid(interrupt_id)
    async with database.connection() as connection:
        rows = await _rows(connection, _ONE, (key, caller.tenant)) if key else []
    asked = AskedCall.of(rows[0]) if rows else None
    if asked is None or not (caller.id == asked.owner_id or await _may_see(asked, caller)):
        raise Problem("not_found", "There is no such question.")
    return asked


async def may_decide(asked: AskedCall, caller: Actor) -> bool:
    """Whether this caller's yes would count."""
    question = asked.question
    if question.decider is Decider.ASKER:
        return caller.id == asked.owner_id
    return await _may_see(asked, caller) and not is_same_person(asked.asker, caller)


async def decide_asked(
    database: Database,
    caller: Actor,
    asked: AskedCall,
    answer: Answer,
    *,
    tools: frozenset[str] | None,
    guardrails: frozenset[str] | None,
    request_id: str,
) -> None:
    """Store the caller's answer and record it, or raise Problem: `already_decided`, `approval_expired`,
    `approval_by_someone_else`, `invalid_input` for edited arguments that cannot be used. The same answer again changes nothing.

    `tools`: those of the agent that asked.
    """
    answer, found = await screen_answer(await registry.screen(guardrails), answer, field="editedArgs")
    if await _was_answered(asked, answer):
        return
    is_withdrawn = caller.id == asked.owner_id and asked.question.decider is Decider.SOMEONE_ELSE
    if not await may_decide(asked, caller) and not (is_withdrawn and not answer.approved):
        raise Problem("approval_by_someone_else")
    decision = decided(
        asked.question, answer, by=caller.id, at=datetime.now(UTC), is_withdrawn=is_withdrawn and not answer.approved
    )
    await require_usable(decision, asked.asker, tools=tools, guardrails=guardrails, field="editedArgs")
    ids = common_ids(asked.run_id, asked.thread_id, request_id)
    records = [
        *of_findings.entries(found, actor=caller, target=Target("interrupt", asked.id), **ids),
        decided_entry(decision, actor=caller, asker_id=asked.asker.id, **ids),
    ]
    async with database.connection() as connection:
        if await _store(connection, decision, answer, records):
            of_findings.count(found)
            return
        rows = await _rows(connection, _MANY, ([UUID(asked.id)],))
    if not rows or not await _was_answered(AskedCall.of(rows[0]), answer):
        raise Problem("already_decided")


async def _was_answered(asked: AskedCall, answer: Answer) -> bool:
    """Whether the very same was answered before; raises Problem when something else was, or it has expired."""
    verdict = asked.verdict
    if verdict is None:
        return False
    if verdict is Verdict.EXPIRED:
        raise Problem("approval_expired")
    if asked.answer is None or not asked.answer.agrees_with(answer):
        raise Problem("already_decided", f"This question was answered already: {verdict.value}.")
    return True


async def _store(connection: Connection, decision: Decision, answer: Answer, records: Sequence[AuditEntry]) -> bool:
    """One transaction: the row is locked by the update, so what was decided in the same moment is seen."""
    document = answer.as_document() | ({"withdrawn": True} if decision.verdict is Verdict.WITHDRAWN else {})
    stored = orjson.dumps(document).decode()
    cursor = await connection.execute(_DECIDE, (stored, decision.decided_by, UUID(decision.interrupt_id)))
    if cursor.rowcount == 0:
        await connection.rollback()
        return False
    for record in records:
        await _record(connection, record)
    await connection.commit()
    return True


async def require_usable(
    decision: Decision, asker: Actor, *, tools: frozenset[str] | None, guardrails: frozenset[str] | None, field: str
) -> None:
    """Raise Problem `invalid_input` when the arguments that a person edited would be refused to the asker all the same."""
    if not decision.is_edited_now:
        return
    refusal = await refused_before_approval(decision.call, asker, allowed_tools=tools, guardrails=guardrails)
    if refusal is not None:
        raise Problem("invalid_input", f"A call with these arguments cannot be made. {refusal.message}", field=field)


async def without_closed(
    database: Database, thread_id: UUID | None, open_ids: Sequence[str], resume: Sequence[ResumeEntry]
) -> list[ResumeEntry]:
    """The entries about questions that are not closed: a client may still hold what was decided elsewhere, and must name it.

    Raises Problem `already_decided` when an entry says otherwise than what was decided.
    """
    unknown = [entry.interrupt_id for entry in resume if entry.interrupt_id not in open_ids]
    if not unknown or thread_id is None:
        return list(resume)
    async with database.connection() as connection:
        closed = {
            asked.id: asked for asked in map(AskedCall.of, await _rows(connection, _CLOSED, (thread_id, unknown)))
        }
    for entry in resume:
        asked = closed.get(entry.interrupt_id)
        if asked is not None and asked.verdict is not Verdict.EXPIRED and asked.answer is not None:
            require_agreement(entry, asked.answer)
    return [entry for entry in resume if entry.interrupt_id not in closed]


async def expire_questions(database: Database) -> int:
    """Mark what nobody answered in time, and record it; returns how many. Any process may do it at any time.

    No run is begun for it: the model is told by the thread's next run.
    """
    async with database.connection() as connection:
        cursor = await connection.execute(_DUE, (_EXPIRED_AT_ONCE,))
        due = [key for (key,) in await cursor.fetchall()]
        if not due:
            await connection.rollback()
            return 0
        rows = [AskedCall.of(row) for row in await _rows(connection, _MANY, (due,))]
        await connection.execute(_EXPIRE, (SYSTEM.id, due))
        for asked in rows:
            await _record(connection, _expired_entry(asked))
        await connection.commit()
    return len(due)


def _expired_entry(asked: AskedCall) -> AuditEntry:
    question = asked.question
    expired = Decision(
        asked.id,
        question.call,
        Verdict.EXPIRED,
        kind=question.kind,
        binding=question.binding,
        original=question.original,
    )
    return decided_entry(expired, actor=SYSTEM, asker_id=asked.asker.id, **common_ids(asked.run_id, asked.thread_id))


async def _record(connection: Connection, audit_entry: AuditEntry) -> None:
    unit = Unit()
    audit_rows.add_to(unit, audit_entry)
    for statement, parameters in unit.statements():
        await connection.execute(statement, parameters)


async def _roles_of(database: Database, caller: Actor) -> list[str]:
    """Roles named by questions for which this caller's role is enough."""
    named = [role for (role,) in await database.fetch_all(_APPROVER_ROLES)]
    inheritance = (await registry.snapshot()).inheritance if named else {}
    return [role for role in named if may_decide_by_role(caller, caller, Decider.SOMEONE_ELSE, role, inheritance)]


async def _may_see(asked: AskedCall, caller: Actor) -> bool:
    question = asked.question
    if question.decider is not Decider.SOMEONE_ELSE or not question.approver_role:
        return False
    inheritance = (await registry.snapshot()).inheritance
    return may_decide_by_role(asked.asker, caller, question.decider, question.approver_role, inheritance)


async def _rows(connection: Connection, query: str, parameters: Any) -> list[dict[str, Any]]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query, parameters)
        return await cursor.fetchall()


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _json_or_text(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
