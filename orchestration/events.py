"""The events of a run: one closed, typed union, in the form that is stored and streamed (AG-UI 1.0, camelCase, no nulls).

Source: the AG-UI 1.0 specification's event types. An event is encoded once, when it happens; what is stored, streamed and
replayed are those bytes. `decode` reads them back for folding and for the other dialects.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET as UNSET
from msgspec import UnsetType as UnsetType

PROTOCOL_VERSION = "1.0"


class _Event(msgspec.Struct, tag_field="type", rename="camel", omit_defaults=True, frozen=True, kw_only=True, gc=False):
    """What all events share: a `type` tag, camelCase names, absent instead of null."""


class TokenUsage(msgspec.Struct, rename="camel", omit_defaults=True, frozen=True, kw_only=True):
    """Tokens of a run by model; counts, no prices."""

    provider: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    input_tokens: int | UnsetType = UNSET
    output_tokens: int | UnsetType = UNSET
    total_tokens: int | UnsetType = UNSET
    reasoning_tokens: int | UnsetType = UNSET
    cached_input_tokens: int | UnsetType = UNSET


class RunStarted(_Event, tag="RUN_STARTED", frozen=True):
    """The first event of a run."""

    thread_id: str
    run_id: str
    protocol_version: str | UnsetType = UNSET
    parent_run_id: str | UnsetType = UNSET


class RunFinished(_Event, tag="RUN_FINISHED", frozen=True):
    """The terminal event of a run that ended as meant. `outcome`: success (with pendingToolCallIds), interrupt, cancelled."""

    thread_id: str
    run_id: str
    outcome: dict[str, Any] | UnsetType = UNSET
    result: Any = UNSET
    usage: list[TokenUsage] | UnsetType = UNSET


class RunError(_Event, tag="RUN_ERROR", frozen=True):
    """The terminal event of a run that failed. `code` is a key of `foundation.problems.PROBLEMS`."""

    message: str
    code: str | UnsetType = UNSET
    usage: list[TokenUsage] | UnsetType = UNSET


class StepStarted(_Event, tag="STEP_STARTED", frozen=True):
    """A model turn, tool call or delegation begins."""

    step_name: str


class StepFinished(_Event, tag="STEP_FINISHED", frozen=True):
    """The step of this name ended."""

    step_name: str


class TextMessageStart(_Event, tag="TEXT_MESSAGE_START", frozen=True):
    """A message of the assistant opens. `subagent_run_id`, here and below: another agent says it."""

    message_id: str
    role: str | UnsetType = UNSET
    subagent_run_id: str | UnsetType = UNSET


class TextMessageContent(_Event, tag="TEXT_MESSAGE_CONTENT", frozen=True):
    """More text of an open message; never empty."""

    message_id: str
    delta: str
    subagent_run_id: str | UnsetType = UNSET


class TextMessageEnd(_Event, tag="TEXT_MESSAGE_END", frozen=True):
    """The message is complete."""

    message_id: str
    subagent_run_id: str | UnsetType = UNSET


class ToolCallStart(_Event, tag="TOOL_CALL_START", frozen=True):
    """The model begins to call a tool."""

    tool_call_id: str
    tool_call_name: str
    parent_message_id: str | UnsetType = UNSET


class ToolCallArgs(_Event, tag="TOOL_CALL_ARGS", frozen=True):
    """More of the arguments' JSON text."""

    tool_call_id: str
    delta: str


class ToolCallEnd(_Event, tag="TOOL_CALL_END", frozen=True):
    """The arguments are complete."""

    tool_call_id: str


class ToolCallResult(_Event, tag="TOOL_CALL_RESULT", frozen=True):
    """What the tool gave. A failure stands in `metadata["error"]` too, as `{code, retryable}`."""

    message_id: str
    tool_call_id: str
    content: str
    role: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class SubagentStarted(_Event, tag="SUBAGENT_STARTED", frozen=True):
    """Another agent begins with a task. `metadata["task"]` is what it was asked."""

    subagent_run_id: str
    name: str
    description: str | UnsetType = UNSET
    parent_tool_call_id: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class SubagentFinished(_Event, tag="SUBAGENT_FINISHED", frozen=True):
    """The other agent has done its task. `metadata["agent"]`, here and below: its name."""

    subagent_run_id: str
    result: Any = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class SubagentError(_Event, tag="SUBAGENT_ERROR", frozen=True):
    """The other agent has not done its task; the run goes on."""

    subagent_run_id: str
    message: str
    code: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class ReasoningStart(_Event, tag="REASONING_START", frozen=True):
    """The model begins to reason."""

    message_id: str


class ReasoningMessageStart(_Event, tag="REASONING_MESSAGE_START", frozen=True):
    """A readable piece of reasoning opens."""

    message_id: str
    role: str | UnsetType = UNSET


class ReasoningMessageContent(_Event, tag="REASONING_MESSAGE_CONTENT", frozen=True):
    """More of the reasoning's text."""

    message_id: str
    delta: str


class ReasoningMessageEnd(_Event, tag="REASONING_MESSAGE_END", frozen=True):
    """The piece of reasoning is complete."""

    message_id: str


class ReasoningEnd(_Event, tag="REASONING_END", frozen=True):
    """The model stops reasoning."""

    message_id: str


class StateSnapshot(_Event, tag="STATE_SNAPSHOT", frozen=True):
    """The whole shared state."""

    snapshot: Any


class StateDelta(_Event, tag="STATE_DELTA", frozen=True):
    """Changes of the shared state: operations of JSON Patch (RFC 6902)."""

    delta: list[dict[str, Any]]


class MessagesSnapshot(_Event, tag="MESSAGES_SNAPSHOT", frozen=True):
    """The thread's messages as the server holds them; the client drops what is not among them."""

    messages: list[dict[str, Any]]


class Custom(_Event, tag="CUSTOM", frozen=True):
    """An event of ours that AG-UI has no type for."""

    name: str
    value: Any


Event: TypeAlias = (
    RunStarted
    | RunFinished
    | RunError
    | StepStarted
    | StepFinished
    | TextMessageStart
    | TextMessageContent
    | TextMessageEnd
    | ToolCallStart
    | ToolCallArgs
    | ToolCallEnd
    | ToolCallResult
    | SubagentStarted
    | SubagentFinished
    | SubagentError
    | ReasoningStart
    | ReasoningMessageStart
    | ReasoningMessageContent
    | ReasoningMessageEnd
    | ReasoningEnd
    | StateSnapshot
    | StateDelta
    | MessagesSnapshot
    | Custom
)

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)


def encode(event: Event) -> bytes:
    """The event as one line of JSON."""
    return _encoder.encode(event)


def decode(line: bytes) -> Event:
    """Read a stored event; raises msgspec.DecodeError on anything else."""
    event: Event = _decoder.decode(line)
    return event


def as_json(value: Any) -> str:
    """A JSON text for a jsonb column."""
    return msgspec.json.encode(value).decode()


def is_terminal(event: Event) -> bool:
    """Whether no event follows in this run."""
    return isinstance(event, RunFinished | RunError)


def clean_text(text: str) -> str:
    """Text that PostgreSQL and UTF-8 can hold: NUL and lone surrogates become the replacement character."""
    if "\x00" in text:
        text = text.replace("\x00", "\ufffd")
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode() if _has_surrogate(text) else text


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
