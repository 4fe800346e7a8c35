"""Plans in a thread's messages. What a plan has come to is read from there, so any later run and any process finds the same.

The call of `make_plan` stands in the model's message. Each step's call stands in an assistant's message of its own, which is added when
the call is made and whose `metadata` names plan and step; a tool message answers each. The model is not shown the steps' messages: the
result of `make_plan` tells it all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid5

from orchestration.interrupts import EDITED_NOTE
from orchestration.plans.definition import MAKE_PLAN
from orchestration.plans.references import value_of
from tools.call_screening import WARNING, WARNING_OF_AGENT
from tools.calls import ToolCall

_PLAN, _STEP = "planCallId", "planStepId"


@dataclass(frozen=True, slots=True)
class StepPlace:
    """Where a step's call stands: its message, and which step of which plan it is."""

    message_id: str
    plan_call_id: str
    step_id: str

    def message(self, call: ToolCall) -> dict[str, Any]:
        """The assistant's message that holds the call."""
        function = {"name": call.name, "arguments": call.arguments}
        return {
            "id": self.message_id,
            "role": "assistant",
            "toolCalls": [{"id": call.id, "type": "function", "function": function}],
            "metadata": {_PLAN: self.plan_call_id, _STEP: self.step_id},
        }

    def as_detail(self) -> dict[str, str]:
        """For the step in the journal."""
        return {"messageId": self.message_id, _PLAN: self.plan_call_id, _STEP: self.step_id}

    @classmethod
    def of(cls, detail: dict[str, Any]) -> StepPlace | None:
        """The inverse of `as_detail`; None for a call that is no step of a plan."""
        return cls(detail["messageId"], detail[_PLAN], detail[_STEP]) if _PLAN in detail else None


@dataclass(frozen=True, slots=True)
class PlanCall:
    """A call of `make_plan` in a message."""

    message_id: str
    call: ToolCall

    def place(self, step_id: str) -> StepPlace:
        """Where a step of this plan stands: the same whoever asks."""
        return StepPlace(str(self._named(f"{step_id}/message")), self.call.id, step_id)

    def step_call_id(self, step_id: str) -> str:
        """The id of a step's call."""
        return f"call_{self._named(step_id).hex}"

    def _named(self, name: str) -> UUID:
        return uuid5(UUID(self.message_id), f"{self.call.id}/{name}")


def is_plan_step(message: dict[str, Any]) -> bool:
    """Whether a message holds the call of a plan's step."""
    return bool(plan_of(message))


def plan_of(message: dict[str, Any]) -> str:
    """The id of the call of `make_plan` to which a message's call belongs; empty when it is no step's."""
    metadata = message.get("metadata")
    found = metadata.get(_PLAN) if isinstance(metadata, dict) and message["role"] == "assistant" else None
    return found if isinstance(found, str) else ""


def find_plan_call(messages: Sequence[dict[str, Any]], call_id: str) -> PlanCall | None:
    """The call of `make_plan` with this id."""
    return next((found for _, found in _plan_calls(messages) if found.call.id == call_id), None)


def step_results(messages: Sequence[dict[str, Any]], plan_call_id: str) -> dict[str, dict[str, Any]]:
    """The tool messages that answer a plan's steps, by step id."""
    answers = {message["toolCallId"]: message for message in messages if message["role"] == "tool"}
    found = {}
    for message in messages:
        if plan_of(message) == plan_call_id:
            answer = answers.get(message["toolCalls"][0]["id"])
            if answer is not None:
                found[message["metadata"][_STEP]] = answer
    return found


def has_begun(messages: Sequence[dict[str, Any]], plan_call_id: str) -> bool:
    """Whether a call of the plan was made or asked for."""
    return any(plan_of(message) == plan_call_id for message in messages)


def values_of(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What references to these steps find; only steps that are done."""
    return {
        step: value_of(without_notes(str(answer["content"])))
        for step, answer in results.items()
        if not answer.get("error")
    }


def without_notes(content: str) -> str:
    """A result without what this service has written before it for the model: references are to what the tool has said."""
    if content.startswith(EDITED_NOTE):
        content = content.partition("\n")[2]
    for note in (WARNING, WARNING_OF_AGENT):
        content = content.removeprefix(note)
    return content


def earlier_plans(messages: Sequence[dict[str, Any]], plan_call_id: str) -> list[str]:
    """Ids of the plans that were carried out for the same question before this one, oldest first.

    Of an earlier question's plans only one that was left open and has been closed since.
    """
    asked = max((index for index, message in enumerate(messages) if message["role"] == "user"), default=-1)
    closed_since = {message["toolCallId"] for message in messages[asked + 1 :] if message["role"] == "tool"}
    return [
        found.call.id
        for index, found in _plan_calls(messages)
        if found.call.id != plan_call_id
        and (index > asked or found.call.id in closed_since)
        and has_begun(messages, found.call.id)
    ]


def _plan_calls(messages: Sequence[dict[str, Any]]) -> list[tuple[int, PlanCall]]:
    """All calls of `make_plan`, with the index of their message."""
    return [
        (index, PlanCall(message["id"], ToolCall(call["id"], MAKE_PLAN, call["function"]["arguments"])))
        for index, message in enumerate(messages)
        if message["role"] == "assistant"
        for call in message.get("toolCalls", ())
        if call["function"]["name"] == MAKE_PLAN
    ]
