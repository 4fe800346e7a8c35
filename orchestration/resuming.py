"""Where a run stands that another process left: from its journal of steps and its event log to the point to go on from.

Completed model turns and tool calls are taken from the journal and not repeated. A model turn that was cut off is void: what it
streamed is named, so that readers drop it, and the turn is done again. A tool call that was permitted and has no end may have taken
effect; what its tool says of its side effects decides what becomes of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any
from uuid import UUID

import msgspec

from orchestration import events as ev
from orchestration.fold import OpenItems
from orchestration.model_port import Rejection
from orchestration.model_turn import StreamedTurn
from orchestration.plans.in_messages import StepPlace
from orchestration.shared_state import patched
from tools.calls import SideEffects, ToolCall

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
    """What the journal knows of a tool call or delegation: its result, or that it was begun. `said`: what a subagent said; `place`:
    where a plan's step stands; `peer_task`: what another agent calls the task that was handed to it."""

    message: dict[str, Any] | None
    permitted: bool
    side_effects: SideEffects
    call: ToolCall
    said: tuple[dict[str, Any], ...] = ()
    place: StepPlace | None = None
    peer_task: str = ""

    @property
    def may_have_happened(self) -> bool:
        """Whether the call was handed to its tool and nothing is known of the end."""
        return self.message is None and self.permitted


@dataclass(slots=True)
class LogState:
    """The event log, folded: how far it goes, what it leaves open, what belongs to a model turn that has not ended (`unfinished`),
    the text of its reasoning messages by their ids, and the shared state as readers were told it (UNSET: they were told nothing)."""

    last_seq: int = 0
    size: int = 0
    open_items: OpenItems = field(default_factory=OpenItems)
    unfinished: dict[str, None] = field(default_factory=dict)
    reasoning: dict[str, str] = field(default_factory=dict)
    state: Any = ev.UNSET
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
            case ev.StateSnapshot():
                self.state = event.snapshot
            case ev.StateDelta():
                self._patch(event.delta)

    def _patch(self, operations: list[dict[str, Any]]) -> None:
        try:
            self.state = patched(self.state, operations)
        except (LookupError, TypeError, ValueError):
            logger.exception("a change of the shared state does not fit it")

    def _note(self, item: str) -> None:
        if self._model_step:
            self.unfinished[item] = None


MODEL_TURN_STEP = "model turn "
CALL_KINDS = ("tool_call", "delegation")
"""Kinds of steps that answer a call of the model's."""


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """What a successor begins with. `added`: the messages of completed steps; `turn`: the last completed model turn, if its calls
    may not all have been made; `spent`: what the turns so far have used; `turn_limit`: the limit at which that turn was to be the last
    answer, if it was; `corrections`: answers in the wrong form that the model has not mended yet."""

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
    turn_limit: str = ""
    corrections: list[Rejection] = field(default_factory=list)

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
    first_turn = next((step.number for step in steps if step.kind == "model_turn"), None)
    added, response, turn = _messages_between(steps, calls, 0, first_turn), "", None
    corrections: list[Rejection] = []
    for step, following in zip_longest(ended_turns, ended_turns[1:]):
        turn = StreamedTurn.from_journal(step.detail)
        added += turn.messages()
        response = turn.text or response
        corrections = [*corrections, turn.rejected] if turn.rejected else []
        added += _messages_between(steps, calls, step.number, following.number if following else None)
        if following is not None:
            added += turn.trailing_message()
            response = turn.trailing_text or response
    return ResumePoint(
        attempt=attempt,
        log=log,
        added=added,
        response=response,
        turn=None if corrections else turn,
        calls=calls,
        turns=len(ended_turns),
        spent=spent_by(steps),
        last_step_number=max((step.number for step in steps), default=0),
        open_steps=[step for step in steps if step.status == "started"],
        turn_limit=ended_turns[-1].detail.get("limit", "") if ended_turns else "",
        corrections=corrections,
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
            call=ToolCall(detail["toolCallId"], detail["name"], detail["arguments"]),
            said=tuple(detail.get("said") or ()),
            place=StepPlace.of(detail),
            peer_task=detail.get("peerTask") or "",
        )
    return known


def _messages_between(
    steps: Sequence[StoredStep], calls: dict[str, KnownCall], after: int, before: int | None
) -> list[dict[str, Any]]:
    """What the calls between two steps have added, in the order in which they were begun: the calls of plans' steps, and results.

    An earlier run may have asked about a call that this one carries out, so a call of this run has its messages here only.
    """
    called = dict.fromkeys(
        step.detail["toolCallId"]
        for step in steps
        if step.kind in CALL_KINDS and step.number > after and (before is None or step.number < before)
    )
    found: list[dict[str, Any]] = []
    for call in (calls[call_id] for call_id in called):
        if call.place is not None:
            found.append(call.place.message(call.call))
        if call.message is not None:
            found += [*call.said, call.message]
    return found
