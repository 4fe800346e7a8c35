"""One model turn: what the port streams becomes events, and in the end a message with its tool calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from agentbackend.foundation.identifiers import uuid7
from orchestration import events as ev
from orchestration.journal import RunJournal
from orchestration.model_port import (
    Finished,
    FinishReason,
    ModelEvent,
    ReasoningDelta,
    Rejection,
    TextDelta,
    ToolCallArguments,
    ToolCallStarted,
    Usage,
)
from tools.calls import ToolCall


@dataclass(slots=True)
class _OpenCall:
    id: str
    name: str
    pieces: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StreamedTurn:
    """What a turn came to. `message_id` names the assistant's message and is the parent of its tool calls.

    `trailing_text` is what the model said after it had begun to call tools: a message of its own, since a message opens once.
    `rejected`: the model answered in the wrong form, nothing of it was shown, and it is to mend it.
    """

    message_id: str
    text: str
    reasoning_id: str
    reasoning: str
    tool_calls: list[ToolCall]
    finish_reason: FinishReason | None
    usage: Usage | None
    trailing_id: str = ""
    trailing_text: str = ""
    rejected: Rejection | None = None

    def journal_detail(self) -> dict[str, Any]:
        """The turn as the journal keeps it: all that a successor needs to go on after it."""
        rejected = {} if self.rejected is None else {"rejected": self.rejected.as_dict()}
        return {
            **rejected,
            "messageId": self.message_id,
            "text": self.text,
            "reasoningId": self.reasoning_id,
            "reasoning": self.reasoning,
            "toolCalls": [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in self.tool_calls],
            "finishReason": self.finish_reason,
            "trailingId": self.trailing_id,
            "trailingText": self.trailing_text,
            "usage": None if self.usage is None else self.usage.as_dict(),
        }

    @classmethod
    def from_journal(cls, detail: dict[str, Any]) -> StreamedTurn:
        """The inverse of `journal_detail`, but for the usage, which is summed up apart."""
        return cls(
            message_id=detail["messageId"],
            text=detail["text"],
            reasoning_id=detail["reasoningId"],
            reasoning=detail["reasoning"],
            tool_calls=[ToolCall(call["id"], call["name"], call["arguments"]) for call in detail["toolCalls"]],
            finish_reason=detail["finishReason"],
            usage=None,
            trailing_id=detail["trailingId"],
            trailing_text=detail["trailingText"],
            rejected=Rejection(**detail["rejected"]) if "rejected" in detail else None,
        )

    def messages(self) -> list[dict[str, Any]]:
        """The turn as AG-UI messages: its reasoning, and what it said with the calls it made; `trailing_message` is not among them."""
        found: list[dict[str, Any]] = []
        if self.reasoning:
            found.append({"id": self.reasoning_id, "role": "reasoning", "content": self.reasoning})
        message: dict[str, Any] = {"id": self.message_id, "role": "assistant"}
        if self.text:
            message["content"] = self.text
        if self.tool_calls:
            message["toolCalls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in self.tool_calls
            ]
        return [*found, message] if len(message) > 2 else found

    def trailing_message(self) -> list[dict[str, Any]]:
        """What the model said after its calls, as a message to stand after their results; at most one."""
        if not self.trailing_text:
            return []
        return [{"id": self.trailing_id, "role": "assistant", "content": self.trailing_text}]


class ModelTurn:
    """Turns the port's events into the run's, in order; at most one of text and reasoning is open at a time."""

    def __init__(self, journal: RunJournal, *, taken_call_ids: set[str]) -> None:
        self._journal = journal
        self._taken_call_ids = taken_call_ids
        self._message_id = str(uuid7())
        self._reasoning_id = ""
        self._trailing_id = ""
        self._text: list[str] = []
        self._trailing: list[str] = []
        self._reasoning: list[str] = []
        self._text_is_open = False
        self._reasoning_is_open = False
        self._calls: dict[int, _OpenCall] = {}
        self._open_calls: set[int] = set()
        self._finished: Finished | None = None

    @property
    def finished(self) -> bool:
        """Whether the model said that it is done."""
        return self._finished is not None

    def take(self, batch: list[ModelEvent]) -> None:
        """Take what one read from the model brought; neighbouring pieces of text become one event."""
        pieces: list[str] = []
        for event in batch:
            if isinstance(event, TextDelta):
                pieces.append(event.text)
                continue
            if pieces:
                self._write_text("".join(pieces))
                pieces = []
            self._take_other(event)
        if pieces:
            self._write_text("".join(pieces))

    def close(self) -> StreamedTurn:
        """Close what is open and say what the turn came to; safe to call after a failure."""
        self._close_text()
        self._close_reasoning()
        self._close_calls()
        complete = [ToolCall(call.id, call.name, "".join(call.pieces)) for call in self._calls.values()]
        return StreamedTurn(
            message_id=self._message_id,
            text="".join(self._text),
            reasoning_id=self._reasoning_id,
            reasoning="".join(self._reasoning),
            tool_calls=complete,
            finish_reason=self._finished.reason if self._finished else None,
            usage=self._finished.usage if self._finished else None,
            trailing_id=self._trailing_id,
            trailing_text="".join(self._trailing),
            rejected=self._finished.rejected if self._finished else None,
        )

    def _take_other(self, event: ModelEvent) -> None:
        match event:
            case ReasoningDelta():
                self._write_reasoning(event.text)
            case ToolCallStarted():
                self._start_call(event)
            case ToolCallArguments():
                self._write_arguments(event)
            case Finished():
                self._finished = event
            case TextDelta():
                self._write_text(event.text)

    def _write_text(self, text: str) -> None:
        text = ev.clean_text(text)
        if not text:
            return
        if not self._text_is_open:
            self._open_text()
        (self._trailing if self._trailing_id else self._text).append(text)
        self._journal.emit_delta(ev.TextMessageContent(message_id=self._trailing_id or self._message_id, delta=text))

    def _open_text(self) -> None:
        self._close_reasoning()
        self._close_calls()
        if self._calls or self._text:
            self._begin_trailing()
        self._journal.emit(ev.TextMessageStart(message_id=self._trailing_id or self._message_id, role="assistant"))
        self._text_is_open = True

    def _begin_trailing(self) -> None:
        if self._trailing:  # a third piece: kept with the second in the thread, streamed as a message of its own
            self._trailing.append("\n\n")
        self._trailing_id = str(uuid7())

    def _close_text(self) -> None:
        if self._text_is_open:
            self._journal.emit(ev.TextMessageEnd(message_id=self._trailing_id or self._message_id))
            self._text_is_open = False

    def _write_reasoning(self, text: str) -> None:
        text = ev.clean_text(text)
        if not text:
            return
        if not self._reasoning_is_open:
            self._close_text()
            self._reasoning_id = self._reasoning_id or str(uuid7())
            self._journal.emit(ev.ReasoningStart(message_id=self._reasoning_id))
            self._journal.emit(ev.ReasoningMessageStart(message_id=self._reasoning_id, role="reasoning"))
            self._reasoning_is_open = True
        self._reasoning.append(text)
        self._journal.emit_delta(ev.ReasoningMessageContent(message_id=self._reasoning_id, delta=text))

    def _close_reasoning(self) -> None:
        if self._reasoning_is_open:
            self._journal.emit(ev.ReasoningMessageEnd(message_id=self._reasoning_id))
            self._journal.emit(ev.ReasoningEnd(message_id=self._reasoning_id))
            self._reasoning_is_open = False

    def _start_call(self, event: ToolCallStarted) -> None:
        self._close_text()
        self._close_reasoning()
        call_id = event.id
        if not call_id or call_id in self._taken_call_ids:
            call_id = f"call_{uuid7().hex}"
        self._taken_call_ids.add(call_id)
        self._calls[event.index] = _OpenCall(call_id, ev.clean_text(event.name))
        self._open_calls.add(event.index)
        self._journal.emit(
            ev.ToolCallStart(
                tool_call_id=call_id, tool_call_name=self._calls[event.index].name, parent_message_id=self._message_id
            )
        )

    def _write_arguments(self, event: ToolCallArguments) -> None:
        call = self._calls.get(event.index)
        if call is None or not event.text:
            return
        text = ev.clean_text(event.text)
        call.pieces.append(text)
        if event.index in self._open_calls:
            self._journal.emit_delta(ev.ToolCallArgs(tool_call_id=call.id, delta=text))

    def _close_calls(self) -> None:
        for index in sorted(self._open_calls):
            self._journal.emit(ev.ToolCallEnd(tool_call_id=self._calls[index].id))
        self._open_calls.clear()
