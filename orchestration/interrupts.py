"""Interrupts: what a person must decide before a thread goes on, and the decisions that its next run carries out.

Source: AG-UI 1.0, `Interrupt` and `RunAgentInput.resume`. A question ends its run; the thread's next run brings the answers. A next
message without answers counts as "no", so that no thread is ever stuck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from agentbackend.foundation.identifiers import uuid7
from agentbackend.foundation.problems import Problem
from orchestration.run_input import ResumeEntry
from tools.calls import ToolCall, ToolOutcome, ToolResult

MAY_HAVE_HAPPENED = (
    "The tool {name} was called, and the service failed before it knew what came of it: the call may have taken effect. "
    "Shall it be made again?"
)
RESPONSE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "approved": {
            "type": "boolean",
            "title": "Call it again",
            "description": "true: the call is made again; false: it is not, and the agent goes on without its result.",
        }
    },
    "required": ["approved"],
}
NOT_REPEATED = ToolResult(
    ToolOutcome.FAILED,
    "The service failed while this call was under way, so it is not known whether it took effect. The user decided that it is "
    "not made again. Do not call this tool again unless the user asks for it.",
    error="interrupted, not repeated",
)


@dataclass(frozen=True, slots=True)
class Question:
    """A call that may have taken effect, and must not be repeated without a person's word."""

    id: UUID
    call: ToolCall

    @property
    def text(self) -> str:
        """What the person is asked."""
        return MAY_HAVE_HAPPENED.format(name=self.call.name)

    def as_interrupt(self) -> dict[str, Any]:
        """The protocol's Interrupt."""
        return {
            "id": str(self.id),
            "reason": "tool_call",
            "message": self.text,
            "toolCallId": self.call.id,
            "responseSchema": RESPONSE_SCHEMA,
            "metadata": {"toolName": self.call.name, "arguments": self.call.arguments},
        }


def ask_about(call: ToolCall) -> Question:
    """A new question about a call."""
    return Question(uuid7(), call)


@dataclass(frozen=True, slots=True)
class OpenInterrupt:
    """A question that waits for its answer; `decision` is what an operator has decided in the console, if one has."""

    id: str
    call: ToolCall


@dataclass(frozen=True, slots=True)
class Decision:
    """An answer: whether the call is made again."""

    interrupt_id: str
    call: ToolCall
    approved: bool

    def as_document(self) -> dict[str, Any]:
        """The decision as the run's stored input holds it."""
        call = {"id": self.call.id, "name": self.call.name, "arguments": self.call.arguments}
        return {"interruptId": self.interrupt_id, "approved": self.approved, "call": call}


def decision_from(document: dict[str, Any]) -> Decision:
    """The inverse of `as_document`."""
    return Decision(document["interruptId"], ToolCall(**document["call"]), document["approved"])


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
        Decision(interrupt.id, interrupt.call, _approves(answers.get(interrupt.id))) for interrupt in open_interrupts
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
