"""Where a run stands that another process left: from its journal of steps and its event log to the point to go on from.

Completed model turns and tool calls are taken from the journal and not repeated. A model turn that was cut off is void: what it
streamed is named, so that readers drop it, and the turn is done again. A tool call that was permitted and has no end may have taken
effect; what its tool says of its side effects decides what becomes of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec

from orchestration import events as ev
from orchestration.fold import OpenItems
from orchestration.model_turn import StreamedTurn
from tools.calls import SideEffects

logger = logging.getLogger(__name__)

RECOVERED_EVENT = "run_recovered"
"""Name of the CUSTOM event that a successor writes first: {"attempt": n, "discarded": [ids]}."""


@dataclass(frozen=True, slots=True)
class StoredStep:
    """A row of the journal; `detail` as the runner wrote it."""

    id: UUID
    number: int
    kind: str
    name: str
    status: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class KnownCall:
    """What the journal knows of a tool call or delegation: its result, or that it was begun. `said`: what a subagent said;
    `peer_task`: what another agent calls the task that was handed to it."""

    message: dict[str, Any] | None
    permitted: bool
    side_effects: SideEffects
    said: tuple[dict[str, Any], ...] = ()
    peer_task: str = ""

    @property
    def may_have_happened(self) -> bool:
        """Whether the call was handed to its tool and nothing is known of the end."""
        return self.message is None and self.permitted


@dataclass(slots=True)
class LogState:
    """The event log, folded: how far it goes, what it leaves open, what belongs to a model turn that has not ended (`unfinished`),
    and the text of its reasoning messages by their ids."""

    last_seq: int = 0
    size: int = 0
    open_items: OpenItems = field(default_factory=OpenItems)
    unfinished: dict[str, None] = field(default_factory=dict)
    reasoning: dict[str, str] = field(default_factory=dict)
    _model_step: str = ""

    def take(self, line: bytes) -> None:
        """Take one event into account. One that cannot be read must not keep the run from being ended."""
        self.last_seq += 1
        self.size += len(line)
        try:
            event = ev.decode(line)
        except (msgspec.MsgspecError, ValueError):
            logger.exception("an event of a run that was left cannot be read")
            return
        self.open_items.apply(event)
        match event:
            case ev.StepStarted() if event.step_name.startswith(MODEL_TURN_STEP):
                self._model_step = event.step_name
                self.unfinished = {}
            case ev.StepFinished() if event.step_name == self._model_step:
                self._model_step = ""
                self.unfinished = {}
            case ev.TextMessageStart():
                self._note(event.message_id)
            case ev.ReasoningMessageStart():
                self._note(event.message_id)
                self.reasoning[event.message_id] = ""
            case ev.ReasoningMessageContent():
                self.reasoning[event.message_id] = self.reasoning.get(event.message_id, "") + event.delta
            case ev.ToolCallStart():
                self._note(event.tool_call_id)

    def _note(self, item: str) -> None:
        if self._model_step:
            self.unfinished[item] = None


MODEL_TURN_STEP = "model turn "
CALL_KINDS = ("tool_call", "delegation")
"""Kinds of steps that answer a call of the model's."""


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """What a successor begins with. `added`: the messages of completed steps; `turn`: the last completed model turn, if its calls
    may not all have been made; `spent`: what the turns so far have used."""

    attempt: int
    log: LogState
    added: list[dict[str, Any]]
    response: str
    turn: StreamedTurn | None
    calls: dict[str, KnownCall]
    turns: int
    spent: list[dict[str, Any]]
    last_step_number: int
    open_steps: list[StoredStep]

    @property
    def discarded(self) -> list[str]:
        """Ids of messages and tool calls that readers were shown and that are void."""
        return list(self.log.unfinished)

    def restated_reasoning(self) -> list[dict[str, Any]]:
        """Reasoning messages for the snapshot, so that readers drop those that are void.

        `@ag-ui/client` (1.0.0 and 0.0.59) keeps the reasoning that it holds unless a snapshot has some, and then drops all that is
        not in it: so what holds is restated, and where nothing does, a void message without its text.
        """
        void = [message_id for message_id in self.log.reasoning if message_id in self.log.unfinished]
        if not void:
            return []
        kept = {key: text for key, text in self.log.reasoning.items() if key not in self.log.unfinished}
        shown = kept or {void[-1]: ""}
        return [{"id": key, "role": "reasoning", "content": text} for key, text in shown.items()]


def resume_point(*, attempt: int, steps: Sequence[StoredStep], log: LogState) -> ResumePoint:
    """Fold the journal. `steps` in the order of their numbers, `log` read after the run was claimed."""
    calls = _known_calls(steps)
    ended_turns = [step for step in steps if step.kind == "model_turn" and step.status == "finished"]
    added, response, turn = _calls_before_any_turn(steps, calls), "", None
    for step in ended_turns:
        turn = StreamedTurn.from_journal(step.detail)
        added += turn.messages()
        response = turn.text or response
        if turn is not None and step is not ended_turns[-1]:
            added += _results(turn, calls)
            added += turn.trailing_message()
            response = turn.trailing_text or response
    return ResumePoint(
        attempt=attempt,
        log=log,
        added=added,
        response=response,
        turn=turn,
        calls=calls,
        turns=len(ended_turns),
        spent=spent_by(steps),
        last_step_number=max((step.number for step in steps), default=0),
        open_steps=[step for step in steps if step.status == "started"],
    )


def spent_by(steps: Iterable[StoredStep]) -> list[dict[str, Any]]:
    """What the model turns of a run used, as their steps say it: `usage`, and `provider`, `model` and `cost`."""
    return [step.detail for step in steps if step.kind == "model_turn" and step.detail.get("usage")]


def _known_calls(steps: Iterable[StoredStep]) -> dict[str, KnownCall]:
    """By the call's id; the last step of a call counts."""
    known: dict[str, KnownCall] = {}
    for step in steps:
        if step.kind not in CALL_KINDS:
            continue
        detail = step.detail
        known[detail["toolCallId"]] = KnownCall(
            message=detail.get("message") if step.status in ("finished", "failed") else None,
            permitted=bool(detail.get("permitted")),
            side_effects=SideEffects(detail.get("sideEffects") or SideEffects.UNSAFE),
            said=tuple(detail.get("said") or ()),
            peer_task=detail.get("peerTask") or "",
        )
    return known


def _results(turn: StreamedTurn, calls: dict[str, KnownCall]) -> list[dict[str, Any]]:
    known = [
        found for call in turn.tool_calls if (found := calls.get(call.id)) is not None and found.message is not None
    ]
    said = [message for call in known for message in call.said]
    return [*said, *(call.message for call in known if call.message is not None)]


def _calls_before_any_turn(steps: Sequence[StoredStep], calls: dict[str, KnownCall]) -> list[dict[str, Any]]:
    """Results of calls that an earlier run had asked about, and this one carried out before its first model turn."""
    first_turn = next((step.number for step in steps if step.kind == "model_turn"), None)
    early = [
        step.detail["toolCallId"]
        for step in steps
        if step.kind in CALL_KINDS and (first_turn is None or step.number < first_turn)
    ]
    found = [calls[call_id] for call_id in dict.fromkeys(early)]
    return [message for call in found if call.message is not None for message in (*call.said, call.message)]
