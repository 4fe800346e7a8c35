"""Interrupts: what a person must decide before a thread goes on, and the decisions that its next run carries out.

Source: AG-UI 1.0, `Interrupt` and `RunAgentInput.resume`. A question ends its run; the thread's next run brings the answers, or is
begun when all of them were given elsewhere. A next message without answers withdraws what is still asked, so that no thread is
ever stuck. What was decided already, or has expired, stays so whatever a client sends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import orjson

from agentbackend.foundation.identifiers import uuid7
from agentbackend.foundation.problems import Problem
from audit.actor import SYSTEM, Actor
from orchestration.answers import Answer
from orchestration.run_input import ResumeEntry
from tools.calls import ToolCall, ToolOutcome, ToolResult
from tools.governance.approvals import Approval, ApprovalRequest, Binding, Decider, digest_of_arguments

_SHOWN_ARGUMENTS = 2000
EDITED_NOTE = "A person changed the arguments of this call before it was made. It was made with: "
"""Begins the line that stands before the result of such a call."""


class QuestionKind(StrEnum):
    """What a person is asked about a call."""

    REPEAT = "repeat"
    """It may have taken effect: shall it be made again?"""
    APPROVAL = "approval"
    """It was not made yet, and its tool or a policy wants a person's word first."""


class Verdict(StrEnum):
    """What became of a question."""

    APPROVED = "approved"
    DENIED = "denied"
    WITHDRAWN = "withdrawn"
    """Who asked for the call does not want it any more, or went on without it."""
    EXPIRED = "expired"

    @property
    def status(self) -> str:
        """`Interrupt.Status` of a question with this verdict, once it is carried out."""
        return {"approved": "resolved", "expired": "expired"}.get(self.value, "cancelled")


@dataclass(frozen=True, slots=True)
class _Wording:
    """How one kind of question reads: to the person, on the answer's field, and to the model where the call is not made."""

    text: str
    title: str
    description: str
    before: str
    instead: dict[Verdict, str]


_NOT_AGAIN = " Do not call this tool again unless the user asks for it."
_WORDING = {
    QuestionKind.REPEAT: _Wording(
        text="The tool {name} was called, and the service failed before it knew what came of it: the call may have taken "
        "effect. Shall it be made again?",
        title="Call it again",
        description="true: the call is made again; false: it is not, and the agent goes on without its result.",
        before="The service failed while this call was under way, so it is not known whether it took effect. ",
        instead={
            Verdict.DENIED: "A person decided that it is not made again.",
            Verdict.WITHDRAWN: "The user decided that it is not made again.",
            Verdict.EXPIRED: "Nobody decided in time whether it is made again, so it was not.",
        },
    ),
    QuestionKind.APPROVAL: _Wording(
        text="The agent wants to call the tool {name}. Shall the call be made?",
        title="Make the call",
        description="true: the call is made; false: it is not, and the agent goes on without it.",
        before="",
        instead={
            Verdict.DENIED: "A person was asked and decided that this call is not made.",
            Verdict.WITHDRAWN: "The user was asked and decided that this call is not made.",
            Verdict.EXPIRED: "A person was asked about this call and did not answer in time, so this call is not made.",
        },
    ),
}


@dataclass(frozen=True, slots=True)
class Question:
    """A call that is not made without a person's word, as it is asked. `original`: its arguments before a person edited them."""

    id: UUID
    call: ToolCall
    kind: QuestionKind = QuestionKind.REPEAT
    request: ApprovalRequest | None = None
    expires_at: datetime | None = None
    original: str | None = None

    @property
    def decider(self) -> Decider:
        """Who answers it."""
        return self.request.decider if self.request else Decider.ASKER

    @property
    def approver_role(self) -> str:
        """Which callers may answer it, too."""
        return self.request.approver_role if self.request else ""

    @property
    def text(self) -> str:
        """What the person is asked."""
        text = _WORDING[self.kind].text.format(name=self.call.name)
        if self.request is not None and self.request.because:
            text = f"{self.request.because} {text}"
        if self.decider is Decider.SOMEONE_ELSE:
            text += " Somebody else than who asked must decide this."
        return text

    def as_interrupt(self) -> dict[str, Any]:
        """The protocol's Interrupt."""
        interrupt: dict[str, Any] = {
            "id": str(self.id),
            "reason": "tool_call",
            "message": self.text,
            "toolCallId": self.call.id,
            "responseSchema": self.response_schema(),
            "metadata": self._metadata(),
        }
        if self.expires_at is not None:
            interrupt["expiresAt"] = moment(self.expires_at)
        return interrupt

    def response_schema(self) -> dict[str, Any]:
        """What the asker may answer: where somebody else decides, no more than that the call is not wanted any more."""
        wording = _WORDING[self.kind]
        approved: dict[str, Any] = {"type": "boolean", "title": wording.title, "description": wording.description}
        if self.decider is Decider.SOMEONE_ELSE:
            approved |= {"const": False, "title": "Withdraw the call"}
        properties: dict[str, Any] = {"approved": approved}
        if self.kind is QuestionKind.APPROVAL and self.decider is Decider.ASKER:
            about = "The arguments to make the call with instead; they are checked again."
            properties["editedArgs"] = {"type": "object", "title": "Arguments", "description": about}
        about = "Told to the agent, and kept."
        properties["reason"] = {"type": "string", "maxLength": 500, "title": "Reason", "description": about}
        return {"type": "object", "properties": properties, "required": ["approved"]}

    def _metadata(self) -> dict[str, Any]:
        about: dict[str, Any] = {
            "toolName": self.call.name,
            "arguments": self.call.arguments,
            "question": self.kind.value,
            "decider": self.decider.value,
        }
        if self.approver_role:
            about["approverRole"] = self.approver_role
        if self.request is None:
            return about
        binding = self.request.binding
        about |= {"toolVersion": binding.tool_version, "argumentsDigest": binding.arguments_digest}
        if binding.policy_versions:
            about["policyVersion"] = ", ".join(binding.policy_versions)
        return about

    def as_detail(self) -> dict[str, Any]:
        """What the run that carries out the answer needs to know."""
        detail: dict[str, Any] = {"call": _call_document(self.call), "question": self.kind.value}
        if self.request is not None:
            detail["binding"] = self.request.binding.as_document()
            detail["because"] = self.request.because
        if self.original is not None:
            detail["originalArguments"] = self.original
        return detail


def ask_about(
    call: ToolCall,
    kind: QuestionKind,
    request: ApprovalRequest | None = None,
    *,
    default_seconds: int = 0,
    original: str | None = None,
) -> Question:
    """A new question about a call. It expires after the tool's time, or `default_seconds`; 0 for both: never."""
    seconds = (request.expires_seconds if request else 0) or default_seconds
    expires_at = datetime.now(UTC) + timedelta(seconds=seconds) if seconds else None
    return Question(uuid7(), call, kind, request, expires_at, original)


def _call_document(call: ToolCall) -> dict[str, str]:
    return {"id": call.id, "name": call.name, "arguments": call.arguments}


def _kind(document: Mapping[str, Any]) -> QuestionKind:
    """Questions that were asked before there were kinds are about repeating."""
    return QuestionKind(document.get("question", QuestionKind.REPEAT))


def _binding(document: Mapping[str, Any]) -> Binding | None:
    """Questions that were asked before there were bindings have none."""
    found = document.get("binding")
    return Binding.of(found) if found else None


def moment(at: datetime) -> str:
    """A moment as JSON has it: RFC 3339, UTC, milliseconds."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _read_moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


@dataclass(frozen=True, slots=True)
class OpenInterrupt:
    """A question whose answer no run has carried out yet: it waits for one, has one (`answer`), or has expired."""

    id: str
    call: ToolCall
    kind: QuestionKind = QuestionKind.REPEAT
    binding: Binding | None = None
    decider: Decider = Decider.ASKER
    approver_role: str = ""
    expires_at: datetime | None = None
    original: str | None = None
    is_marked_expired: bool = False
    answer: Answer | None = None
    is_withdrawn: bool = False
    decided_by: str = ""
    decided_at: datetime | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> OpenInterrupt:
        """A question as its row has it; moments may be texts."""
        detail, decision = row["detail"], row["decision"]
        decided = row["status"] == "open" and row["decided_at"] is not None
        return cls(
            id=str(row["id"]),
            call=ToolCall(**detail["call"]),
            kind=_kind(detail),
            binding=_binding(detail),
            decider=Decider(row["decider"]),
            approver_role=row["approver_role"],
            expires_at=_as_moment(row["expires_at"]),
            original=detail.get("originalArguments"),
            is_marked_expired=row["status"] == "expired",
            answer=Answer.stored(decision or {}) if decided else None,
            is_withdrawn=bool((decision or {}).get("withdrawn")),
            decided_by=row["decided_by"] if decided else "",
            decided_at=_as_moment(row["decided_at"]) if decided else None,
        )

    def has_expired(self, now: datetime) -> bool:
        """Whether nobody answered in time; an answer that was given in time stays an answer."""
        if self.answer is not None:
            return False
        return self.is_marked_expired or (self.expires_at is not None and self.expires_at <= now)

    @property
    def as_seen(self) -> tuple[bool, bool]:
        """What a decision was made on: marked as expired? decided?"""
        return self.is_marked_expired, self.answer is not None


def _as_moment(value: Any) -> datetime | None:
    return _read_moment(value) if isinstance(value, str) or value is None else value


@dataclass(frozen=True, slots=True)
class Decision:
    """What a run does about a question. `call`: as it is made, with edited arguments where a person edited them.

    `is_new`: it is made by this very request and not recorded yet; `seen`: see `OpenInterrupt.as_seen`.
    """

    interrupt_id: str
    call: ToolCall
    verdict: Verdict
    kind: QuestionKind = QuestionKind.REPEAT
    binding: Binding | None = None
    expires_at: datetime | None = None
    decided_by: str = ""
    decided_at: datetime | None = None
    reason: str = ""
    original: str | None = None
    is_edited_now: bool = False
    is_new: bool = False
    seen: tuple[bool, bool] = (False, False)

    @property
    def approved(self) -> bool:
        """Whether the call is made."""
        return self.verdict is Verdict.APPROVED

    @property
    def declined(self) -> ToolResult | None:
        """What takes the place of a call that is not made; None when it is."""
        if self.approved:
            return None
        wording = _WORDING[self.kind]
        because = f" The reason given: {orjson.dumps(self.reason).decode()}." if self.reason else ""
        text = f"{wording.before}{wording.instead[self.verdict]}{because}{_NOT_AGAIN}"
        outcome = ToolOutcome.FAILED if self.kind is QuestionKind.REPEAT else ToolOutcome.DENIED
        return ToolResult(outcome, text, error=text)

    @property
    def approval(self) -> Approval | None:
        """The yes that the door holds against the call; None when it is no yes."""
        if not self.approved:
            return None
        at = self.decided_at or datetime.now(UTC)
        return Approval(self.binding, self.interrupt_id, self.decided_by, at, self.expires_at)

    def told(self, result: ToolResult) -> ToolResult:
        """The result with what the model does not know yet: that a person changed the arguments of its call, and how."""
        if not self.approved or self.original is None:
            return result
        made_with = self.call.arguments[:_SHOWN_ARGUMENTS]
        note = f"{EDITED_NOTE}{made_with}\n"
        return replace(result, content=note + result.content, error=note + result.error if result.error else "")

    def as_document(self) -> dict[str, Any]:
        """The decision as the run's stored input holds it."""
        return {
            "interruptId": self.interrupt_id,
            "approved": self.approved,
            "verdict": self.verdict.value,
            "call": _call_document(self.call),
            "question": self.kind.value,
            "binding": self.binding.as_document() if self.binding else None,
            "expiresAt": moment(self.expires_at) if self.expires_at else None,
            "decidedBy": self.decided_by,
            "decidedAt": moment(self.decided_at) if self.decided_at else None,
            "reason": self.reason,
            "originalArguments": self.original,
        }

    def stored_answer(self) -> dict[str, Any]:
        """What the question's row keeps as the decision."""
        answer: dict[str, Any] = {"approved": self.approved}
        if self.is_edited_now:
            answer["editedArgs"] = orjson.loads(self.call.arguments)
        if self.reason:
            answer["reason"] = self.reason
        return answer | {"withdrawn": True} if self.verdict is Verdict.WITHDRAWN else answer


def decision_from(document: Mapping[str, Any]) -> Decision:
    """The inverse of `as_document`."""
    plain = Verdict.APPROVED if document["approved"] else Verdict.DENIED
    return Decision(
        interrupt_id=document["interruptId"],
        call=ToolCall(**document["call"]),
        verdict=Verdict(document.get("verdict", plain)),
        kind=_kind(document),
        binding=_binding(document),
        expires_at=_read_moment(document.get("expiresAt")),
        decided_by=document.get("decidedBy", ""),
        decided_at=_read_moment(document.get("decidedAt")),
        reason=document.get("reason", ""),
        original=document.get("originalArguments"),
    )


def decide(
    open_interrupts: Sequence[OpenInterrupt],
    resume: Sequence[ResumeEntry],
    *,
    by: Actor = SYSTEM,
    answers_given: bool | None = None,
    now: datetime | None = None,
) -> list[Decision]:
    """What a run's `resume`, sent by `by`, says to the thread's open questions; without any `resume` they are withdrawn.

    `answers_given`: whether the client sent any, also to questions that are closed and left out here.

    Raises Problem: `invalid_input` when an answer fits no open question, is missing, or cannot be read; `already_decided` when it
    contradicts what was decided; `approval_by_someone_else` when the asker approves what somebody else must.
    """
    at = now or datetime.now(UTC)
    answers = {entry.interrupt_id: entry for entry in resume}
    unknown = answers.keys() - {interrupt.id for interrupt in open_interrupts}
    if unknown:
        raise Problem("invalid_input", f"No interrupt {min(unknown)!r} is open in this thread.", field="resume")
    if resume if answers_given is None else answers_given:
        waiting = [asked for asked in open_interrupts if asked.answer is None and not asked.has_expired(at)]
        missing = next((asked.id for asked in waiting if asked.id not in answers), None)
        if missing is not None:
            raise Problem(
                "invalid_input", f"The interrupt {missing!r} is open, too, and has no answer.", field="resume"
            )
    return [_decision(interrupt, answers.get(interrupt.id), by, at) for interrupt in open_interrupts]


def _decision(interrupt: OpenInterrupt, entry: ResumeEntry | None, by: Actor, now: datetime) -> Decision:
    if interrupt.answer is not None:
        if entry is not None:
            require_agreement(entry, interrupt.answer)
        return decided(
            interrupt,
            interrupt.answer,
            is_withdrawn=interrupt.is_withdrawn,
            by=interrupt.decided_by,
            at=interrupt.decided_at,
        )
    if interrupt.has_expired(now):
        expired = decided(interrupt, Answer(False), by=SYSTEM.id, at=now)
        return replace(expired, verdict=Verdict.EXPIRED, is_new=not interrupt.is_marked_expired)
    if entry is None or entry.status == "cancelled":
        withdrawn = decided(interrupt, Answer(False), is_withdrawn=True, by=by.id, at=now)
        return replace(withdrawn, is_new=True)
    answer = Answer.of_payload(entry.payload, f"resume[{entry.interrupt_id}].payload")
    if interrupt.decider is Decider.SOMEONE_ELSE and answer.approved:
        raise Problem("approval_by_someone_else", field=f"resume[{entry.interrupt_id}]")
    by_asker_alone = interrupt.decider is Decider.SOMEONE_ELSE
    return replace(decided(interrupt, answer, is_withdrawn=by_asker_alone, by=by.id, at=now), is_new=True)


def decided(
    interrupt: OpenInterrupt, answer: Answer, *, by: str, at: datetime | None, is_withdrawn: bool = False
) -> Decision:
    """The decision that this answer is. Edited arguments are bound anew; whether they can be used is not judged here.

    Raises Problem `invalid_input` for other arguments of a call that may have taken effect with those it had.
    """
    if answer.edited is not None and interrupt.kind is QuestionKind.REPEAT:
        raise Problem("invalid_input", "A call that was cut off is made again as it was.", field="editedArgs")
    verdict = Verdict.APPROVED if answer.approved else Verdict.WITHDRAWN if is_withdrawn else Verdict.DENIED
    call, binding, original = interrupt.call, interrupt.binding, interrupt.original
    edited = answer.arguments()
    is_edited = edited is not None and _digest(edited) != _digest(call.arguments)
    if is_edited and edited is not None:
        original = call.arguments if original is None else original
        call = replace(call, arguments=edited)
        if binding is not None:
            binding = replace(binding, arguments_digest=_digest(edited))
    return Decision(
        interrupt_id=interrupt.id,
        call=call,
        verdict=verdict,
        kind=interrupt.kind,
        binding=binding,
        expires_at=interrupt.expires_at,
        decided_by=by,
        decided_at=at,
        reason=answer.reason,
        original=original,
        is_edited_now=is_edited,
        seen=interrupt.as_seen,
    )


def require_agreement(entry: ResumeEntry, given: Answer) -> None:
    """Raise Problem `already_decided` when the entry says otherwise than what was decided; a cancelled one claims nothing."""
    if entry.status == "cancelled":
        return
    said = Answer.of_payload(entry.payload, f"resume[{entry.interrupt_id}].payload")
    if not said.agrees_with(given):
        raise Problem("already_decided", field=f"resume[{entry.interrupt_id}]")


def _digest(arguments: str) -> str:
    try:
        return digest_of_arguments(orjson.loads(arguments) if arguments.strip() else {})
    except orjson.JSONDecodeError:
        return digest_of_arguments(arguments)
