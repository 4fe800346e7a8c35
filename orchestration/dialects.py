"""The forms in which a run is streamed: AG-UI 1.0, AG-UI before 1.0, and AGUIMessage.

What is stored is AG-UI 1.0; a 1.0 client gets those bytes. The other dialects read the events and write their own. AGUIMessage
depends on what came before, so a reader who resumes is served by folding the log from its beginning and sending what is new.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
import orjson

from agentbackend.foundation.problems import PROBLEMS
from orchestration import events as ev
from orchestration.live import Chunk


class Dialect(Protocol):
    """How the events of one run are written for one reader."""

    needs_whole_log: bool
    """Whether the reader must be shown every event from the first on, also those it will not be sent."""

    def frames(self, chunk: Chunk, after: int) -> bytes:
        """The SSE frames for the chunk's events beyond `after`."""
        ...

    def error_frame(self, code: str, message: str) -> bytes:
        """A last frame, without an id, for a connection that ends before its run does."""
        ...


def choose_dialect(name: str, protocol_version: str | None) -> Dialect:
    """`envelope`: AGUIMessage. `ag-ui`: 1.0, or the older form for a client that declares no protocol version or one before 1.0."""
    if name == "envelope":
        return EnvelopeDialect()
    is_older = not protocol_version or protocol_version.split(".", 1)[0] == "0"
    return LegacyAgUiDialect() if is_older else AgUiDialect()


def _agui_error_frame(code: str, message: str) -> bytes:
    return b"data: %b\n\n" % ev.encode(ev.RunError(message=message, code=code))


class AgUiDialect:
    """AG-UI 1.0: the stored bytes."""

    needs_whole_log = False

    def frames(self, chunk: Chunk, after: int) -> bytes:
        """The stored bytes as frames."""
        part = chunk.after(after)
        return part.frames() if part is not None else b""

    def line(self, line: bytes) -> bytes:
        """One stored event as this dialect has it."""
        return line

    def error_frame(self, code: str, message: str) -> bytes:
        """RUN_ERROR."""
        return _agui_error_frame(code, message)


_SUBAGENT_MARKS = (b'"subagentRunId":', b'"SUBAGENT_')


class LegacyAgUiDialect:
    """AG-UI before 1.0: the same, but for what those clients reject.

    They know no `cancelled` outcome, no `pendingToolCallIds` and no `protocolVersion` (only RUN_ events carry any of these), and no
    subagents: a delegation is told by CUSTOM events of the names and forms that AGUIMessage has for it, without its text.
    """

    needs_whole_log = False

    def frames(self, chunk: Chunk, after: int) -> bytes:
        """The stored bytes as frames, RUN_ events rewritten."""
        part = chunk.after(after)
        if part is None:
            return b""
        written = ((seq, self.line(line)) for seq, line in enumerate(part.lines, part.seq_from))
        return b"".join(part.frame(seq, line) for seq, line in written if line)

    def error_frame(self, code: str, message: str) -> bytes:
        """RUN_ERROR."""
        return _agui_error_frame(code, message)

    def line(self, line: bytes) -> bytes:
        """One stored event as this dialect has it; empty when it has none for it."""
        if any(mark in line for mark in _SUBAGENT_MARKS):
            return self._without_subagents(line)
        if not line.startswith(b'{"type":"RUN_'):
            return line
        match event := ev.decode(line):
            case ev.RunStarted():
                return ev.encode(msgspec.structs.replace(event, protocol_version=ev.UNSET))
            case ev.RunFinished():
                return ev.encode(_legacy_finished(event))
            case ev.RunError():
                return ev.encode(msgspec.structs.replace(event, usage=ev.UNSET))
        return line

    @staticmethod
    def _without_subagents(line: bytes) -> bytes:
        event = ev.decode(line)
        if isinstance(event, ev.MessagesSnapshot):
            kept = [message for message in event.messages if "subagentRunId" not in message]
            return ev.encode(ev.MessagesSnapshot(messages=kept))
        if told := _delegation(event):
            return ev.encode(ev.Custom(name=told["event_type"], value=told["data"]))
        if isinstance(event, ev.TextMessageStart | ev.TextMessageContent | ev.TextMessageEnd):
            return line if event.subagent_run_id is ev.UNSET else b""
        return line


def _delegation(event: ev.Event) -> dict[str, Any] | None:
    """A subagent's beginning and end as A2A_DELEGATION_START and A2A_DELEGATION_RESULT; None for all other events."""
    match event:
        case ev.SubagentStarted():
            data = {"agent": event.name, "task": _of_metadata(event.metadata, "task")}
            kind = "A2A_DELEGATION_START"
        case ev.SubagentFinished():
            data = {"agent": _of_metadata(event.metadata, "agent"), "result": event.result}
            kind = "A2A_DELEGATION_RESULT"
        case ev.SubagentError():
            data = {"agent": _of_metadata(event.metadata, "agent"), "error": event.message}
            kind = "A2A_DELEGATION_RESULT"
        case _:
            return None
    return {"event_type": kind, "data": {"delegationId": event.subagent_run_id, **data}}


def _of_metadata(metadata: Any, name: str) -> str:
    return str(metadata.get(name, "")) if isinstance(metadata, dict) else ""


def _legacy_finished(event: ev.RunFinished) -> ev.Event:
    outcome = event.outcome if isinstance(event.outcome, dict) else {}
    if outcome.get("type") == "cancelled":
        return ev.RunError(message="The run was cancelled.", code="cancelled")
    kept = outcome if outcome.get("type") == "interrupt" else ev.UNSET
    return msgspec.structs.replace(event, outcome=kept, usage=ev.UNSET)


class EnvelopeDialect:
    """AGUIMessage: `{"event_type", "data", "message"?}`.

    AGENT_RESPONSE stands for a whole message; the run's last one carries `final: true`, so each is held until it is known whether
    another follows.
    """

    needs_whole_log = True

    def __init__(self) -> None:
        self._run_id = ""
        self._thread_id = ""
        self._texts: dict[str, list[str]] = {}
        self._calls: dict[str, tuple[str, list[str]]] = {}
        self._held: str | None = None
        self._held_id = ""
        self._void: set[str] = set()

    def frames(self, chunk: Chunk, after: int) -> bytes:
        """The messages that the chunk's events beyond `after` amount to."""
        parts: list[bytes] = []
        for seq, line in enumerate(chunk.lines, chunk.seq_from):
            for message in self._messages(ev.decode(line)):
                if seq > after:
                    parts.append(chunk.frame(seq, orjson.dumps(message)))
        return b"".join(parts)

    def error_frame(self, code: str, message: str) -> bytes:
        """ERROR."""
        return b"data: %b\n\n" % orjson.dumps(_error(code, message))

    def _messages(self, event: ev.Event) -> list[dict[str, Any]]:
        match event:
            case ev.RunStarted():
                self._run_id, self._thread_id = event.run_id, event.thread_id
            case ev.SubagentStarted() | ev.SubagentFinished() | ev.SubagentError():
                told = _delegation(event)
                return [told] if told is not None else []
            case ev.TextMessageStart() if event.subagent_run_id is ev.UNSET:
                self._texts[event.message_id] = []
                return self._let_go()
            case ev.TextMessageContent() if event.subagent_run_id is ev.UNSET:
                self._texts[event.message_id].append(event.delta)
            case ev.TextMessageEnd() if event.subagent_run_id is ev.UNSET:
                text = "".join(self._texts.pop(event.message_id, []))
                if event.message_id not in self._void:
                    self._held, self._held_id = text, event.message_id
            case ev.ToolCallStart():
                self._calls[event.tool_call_id] = (event.tool_call_name, [])
                return self._let_go()
            case ev.ToolCallArgs():
                self._calls[event.tool_call_id][1].append(event.delta)
            case ev.ToolCallEnd():
                return [] if event.tool_call_id in self._void else [self._tool_call(event.tool_call_id)]
            case ev.ToolCallResult():
                return [self._tool_output(event)]
            case ev.RunFinished():
                return [self._response(self._held or "", final=True, outcome=event.outcome, result=event.result)]
            case ev.RunError():
                return [*self._let_go(), _error(event.code or "internal_error", event.message)]
            case ev.Custom(name="run_recovered"):
                self._discard(event.value["discarded"])
            case ev.Custom(name="GUARDRAIL_VIOLATION"):
                return [*self._let_go(), {"event_type": "GUARDRAIL_VIOLATION", "data": event.value}]
            case _:
                pass
        return []

    def _discard(self, ids: list[str]) -> None:
        """A model turn was cut off and is done again: what it had begun is void."""
        self._void.update(ids)
        if self._held_id in self._void:
            self._held = None

    def _let_go(self) -> list[dict[str, Any]]:
        """Another item follows, so the message held back is not the last one."""
        held, self._held = self._held, None
        return [] if held is None else [self._response(held, final=False)]

    def _response(self, text: str, *, final: bool, outcome: Any = None, result: Any = None) -> dict[str, Any]:
        data: dict[str, Any] = {"runId": self._run_id, "threadId": self._thread_id, "final": final}
        if isinstance(result, dict):  # why the answer is not whole: finishReason, stopped
            data |= result
        if isinstance(outcome, dict):
            if outcome.get("interrupts"):
                data["interrupts"] = outcome["interrupts"]
            if outcome.get("pendingToolCallIds"):
                data["pendingToolCallIds"] = outcome["pendingToolCallIds"]
            if outcome.get("type") == "cancelled":
                data["cancelled"] = True
        return {"event_type": "AGENT_RESPONSE", "data": data, "message": text}

    def _tool_call(self, call_id: str) -> dict[str, Any]:
        name, pieces = self._calls[call_id]
        data = {"toolCallId": call_id, "toolName": name, "arguments": _json_or_text("".join(pieces) or "{}")}
        return {"event_type": "TOOL_CALL_START", "data": data}

    def _tool_output(self, event: ev.ToolCallResult) -> dict[str, Any]:
        name = self._calls.get(event.tool_call_id, ("", []))[0]
        failed = isinstance(event.metadata, dict) and "error" in event.metadata
        data: dict[str, Any] = {"toolCallId": event.tool_call_id, "toolName": name}
        data["error" if failed else "output"] = event.content if failed else _json_or_text(event.content)
        return {"event_type": "TOOL_OUTPUT", "data": data}


def _json_or_text(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _error(code: str, message: str) -> dict[str, Any]:
    kind = PROBLEMS.get(code)
    retryable = kind.retryable if kind is not None else False
    return {"event_type": "ERROR", "data": {"code": code, "retryable": retryable}, "message": message}
