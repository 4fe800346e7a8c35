"""Interrupts: what a person must decide before a thread goes on, and the decisions that its next run carries out.

Source: AG-UI 1.0, `Interrupt` and `RunAgentInput.resume`. A question ends its run; the thread's next run brings the answers. A next
message without answers counts as "no", so that no thread is ever stuck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from agentbackend.foundation.identifiers import uuid7
from agentbackend.foundation.problems import Problem
from orchestration.run_input import ResumeEntry
from tools.calls import ToolCall, ToolOutcome, ToolResult


class QuestionKind(StrEnum):
    """What a person is asked about a call."""

    REPEAT = "repeat"
    """It may have taken effect: shall it be made again?"""
    APPROVAL = "approval"
    """It was not made yet, and its tool wants a person's word first."""


@dataclass(frozen=True, slots=True)
class _Wording:
    """How one kind of question reads: to the person, on the answer's field, and to the model after a no."""

    text: str
    title: str
    description: str
    declined: ToolResult


_WORDING = {
    QuestionKind.REPEAT: _Wording(
        text="The tool {name} was called, and the service failed before it knew what came of it: the call may have taken "
        "effect. Shall it be made again?",
        title="Call it again",
        description="true: the call is made again; false: it is not, and the agent goes on without its result.",
        declined=ToolResult(
            ToolOutcome.FAILED,
            "The service failed while this call was under way, so it is not known whether it took effect. The user decided "
            "that it is not made again. Do not call this tool again unless the user asks for it.",
            error="interrupted, not repeated",
        ),
    ),
    QuestionKind.APPROVAL: _Wording(
        text="The agent wants to call the tool {name}. Shall the call be made?",
        title="Make the call",
        description="true: the call is made; false: it is not, and the agent goes on without it.",
        declined=ToolResult(
            ToolOutcome.DENIED,
            "The user was asked and decided that this call is not made. Do not call this tool again unless the user asks "
            "for it.",
            error="not approved",
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Question:
    """A call that is not made without a person's word."""

    id: UUID
    call: ToolCall
    kind: QuestionKind = QuestionKind.REPEAT

    @property
    def text(self) -> str:
        """What the person is asked."""
        return _WORDING[self.kind].text.format(name=self.call.name)

    def as_interrupt(self) -> dict[str, Any]:
        """The protocol's Interrupt."""
        return {
            "id": str(self.id),
            "reason": "tool_call",
            "message": self.text,
            "toolCallId": self.call.id,
            "responseSchema": _response_schema(self.kind),
            "metadata": {
                "toolName": self.call.name,
                "arguments": self.call.arguments,
                "question": self.kind.value,
            },
        }

    def as_detail(self) -> dict[str, Any]:
        """What the run that carries out the answer needs to know."""
        return {"call": _call_document(self.call), "question": self.kind.value}


def ask_about(call: ToolCall, kind: QuestionKind) -> Question:
    """A new question about a call."""
    return Question(uuid7(), call, kind)


def _response_schema(kind: QuestionKind) -> dict[str, Any]:
    wording = _WORDING[kind]
    approved = {"type": "boolean", "title": wording.title, "description": wording.description}
    return {"type": "object", "properties": {"approved": approved}, "required": ["approved"]}


def _call_document(call: ToolCall) -> dict[str, str]:
    return {"id": call.id, "name": call.name, "arguments": call.arguments}


def _kind(document: dict[str, Any]) -> QuestionKind:
    """Questions that were asked before there were kinds are about repeating."""
    return QuestionKind(document.get("question", QuestionKind.REPEAT))


@dataclass(frozen=True, slots=True)
class OpenInterrupt:
    """A question that waits for its answer."""

    id: str
    call: ToolCall
    kind: QuestionKind = QuestionKind.REPEAT

    @classmethod
    def of(cls, key: object, detail: dict[str, Any]) -> OpenInterrupt:
        """A question as it is stored; see `Question.as_detail`."""
        return cls(str(key), ToolCall(**detail["call"]), _kind(detail))


@dataclass(frozen=True, slots=True)
class Decision:
    """An answer: whether the call is made."""

    interrupt_id: str
    call: ToolCall
    approved: bool
    kind: QuestionKind = QuestionKind.REPEAT

    @property
    def declined(self) -> ToolResult | None:
        """What takes the place of a call that is not made; None when it is."""
        return None if self.approved else _WORDING[self.kind].declined

    def as_document(self) -> dict[str, Any]:
        """The decision as the run's stored input holds it."""
        answer = {"interruptId": self.interrupt_id, "approved": self.approved}
        return {**answer, "call": _call_document(self.call), "question": self.kind.value}


def decision_from(document: dict[str, Any]) -> Decision:
    """The inverse of `as_document`."""
    return Decision(document["interruptId"], ToolCall(**document["call"]), document["approved"], _kind(document))


def decide(open_interrupts: Sequence[OpenInterrupt], resume: Sequence[ResumeEntry]) -> list[Decision]:
    """What a run's `resume` says to the thread's open questions; without any `resume` each is answered with no.

    Raises Problem `invalid_input` when an answer fits no open question, is missing, or cannot be read.
    """
    answers = {entry.interrupt_id: entry for entry in resume}
    unknown = answers.keys() - {interrupt.id for interrupt in open_interrupts}
    if unknown:
        raise Problem("invalid_input", f"No interrupt {min(unknown)!r} is open in this thread.", field="resume")
    if resume and len(answers) < len(open_interrupts):
        missing = next(interrupt.id for interrupt in open_interrupts if interrupt.id not in answers)
        raise Problem("invalid_input", f"The interrupt {missing!r} is open, too, and has no answer.", field="resume")
    return [
        Decision(interrupt.id, interrupt.call, _approves(answers.get(interrupt.id)), interrupt.kind)
        for interrupt in open_interrupts
    ]


def _approves(entry: ResumeEntry | None) -> bool:
    if entry is None or entry.status == "cancelled":
        return False
    approved = entry.payload.get("approved") if isinstance(entry.payload, dict) else None
    if not isinstance(approved, bool):
        raise Problem(
            "invalid_input",
            'Expected a payload {"approved": true or false}.',
            field=f"resume[{entry.interrupt_id}].payload",
        )
    return approved
