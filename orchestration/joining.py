"""Joining a thread: what a client needs that was not there from the start.

It is told the thread as it stands, as snapshots, never by streaming old messages again: RUN_STARTED, MESSAGES_SNAPSHOT, the state, the
steps that are open, and for each item still open a START with what was said so far; then the live tail of the run, with its ids. What is
said here is made for this reader, so it carries no id; an id alone follows it, the cursor at which the run stands. A thread where nothing
is going on ends at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentbackend.foundation.database import Database
from orchestration import events as ev
from orchestration.dialects import AgUiDialect, LegacyAgUiDialect
from orchestration.engine import Engine
from orchestration.fold import OpenItems
from orchestration.shared_state import patched
from orchestration.store import RunReference, read_events
from orchestration.stream import RunFollower
from orchestration.threads import ThreadDetail


@dataclass(slots=True)
class RunState:
    """A run's events, folded into what a client that saw them all would hold."""

    messages: dict[str, dict[str, Any]]
    state: Any = None
    last_seq: int = 0
    open_items: OpenItems = field(default_factory=OpenItems)
    _pieces: dict[str, list[str]] = field(default_factory=dict)
    _calls: dict[str, ev.ToolCallStart] = field(default_factory=dict)
    _subagents: dict[str, ev.SubagentStarted] = field(default_factory=dict)

    @classmethod
    def after(cls, messages: Sequence[dict[str, Any]], state: Any) -> RunState:
        """As it stands before the run's first event."""
        return cls({message["id"]: message for message in messages}, state)

    def take(self, line: bytes) -> None:
        """Take one event into account; raises msgspec.MsgspecError when it cannot be read."""
        event = ev.decode(line)
        self.last_seq += 1
        self.open_items.apply(event)
        match event:
            case ev.MessagesSnapshot():
                self.messages = {message["id"]: message for message in event.messages}
            case ev.StateSnapshot():
                self.state = event.snapshot
            case ev.StateDelta():
                self.state = patched(self.state, event.delta)
            case ev.TextMessageStart() | ev.ReasoningMessageStart():
                self._pieces[event.message_id] = []
            case ev.TextMessageContent() | ev.ReasoningMessageContent():
                self._pieces[event.message_id].append(event.delta)
            case ev.TextMessageEnd():
                self._keep(event.message_id, "assistant", event.subagent_run_id)
            case ev.SubagentStarted():
                self._subagents[event.subagent_run_id] = event
            case ev.ReasoningMessageEnd():
                self._keep(event.message_id, "reasoning")
            case ev.ToolCallStart():
                self._calls[event.tool_call_id] = event
                self._pieces[event.tool_call_id] = []
            case ev.ToolCallArgs():
                self._pieces[event.tool_call_id].append(event.delta)
            case ev.ToolCallEnd():
                self._keep_call(event.tool_call_id)
            case ev.ToolCallResult():
                self.messages[event.message_id] = _tool_message(event)
            case _:
                pass

    def restating(self) -> list[ev.Event]:
        """The events that bring a client here, after RUN_STARTED."""
        restated: list[ev.Event] = [ev.MessagesSnapshot(messages=list(self.messages.values()))]
        if self.state not in (None, {}):
            restated.append(ev.StateSnapshot(snapshot=self.state))
        restated += [ev.StepStarted(step_name=name) for name in self.open_items.steps]
        restated += [ev.ReasoningStart(message_id=item) for item in self.open_items.reasoning]
        for item in self.open_items.reasoning_messages:
            restated.append(ev.ReasoningMessageStart(message_id=item, role="reasoning"))
            restated += [ev.ReasoningMessageContent(message_id=item, delta=text) for text in self._so_far(item)]
        restated += [self._subagents[item] for item in self.open_items.subagents]
        for item, owner in self.open_items.texts.items():
            restated.append(ev.TextMessageStart(message_id=item, role="assistant", subagent_run_id=owner))
            restated += [
                ev.TextMessageContent(message_id=item, delta=text, subagent_run_id=owner) for text in self._so_far(item)
            ]
        for item in self.open_items.tool_calls:
            restated.append(self._calls[item])
            restated += [ev.ToolCallArgs(tool_call_id=item, delta=text) for text in self._so_far(item)]
        return restated

    def _so_far(self, item: str) -> list[str]:
        text = "".join(self._pieces[item])
        return [text] if text else []

    def _keep(self, message_id: str, role: str, owner: str | ev.UnsetType = ev.UNSET) -> None:
        message = {"id": message_id, "role": role, "content": "".join(self._pieces.pop(message_id, ()))}
        if owner is not ev.UNSET:
            message["subagentRunId"] = owner
        self.messages[message_id] = {**self.messages.get(message_id, {}), **message}

    def _keep_call(self, call_id: str) -> None:
        start = self._calls[call_id]
        parent = start.parent_message_id if isinstance(start.parent_message_id, str) else call_id
        function = {"name": start.tool_call_name, "arguments": "".join(self._pieces.pop(call_id, ()))}
        message = self.messages.get(parent, {"id": parent, "role": "assistant"})
        calls = [*message.get("toolCalls", ()), {"id": call_id, "type": "function", "function": function}]
        self.messages[parent] = {**message, "toolCalls": calls}


def _tool_message(event: ev.ToolCallResult) -> dict[str, Any]:
    message = {"id": event.message_id, "role": "tool", "toolCallId": event.tool_call_id, "content": event.content}
    failed = isinstance(event.metadata, dict) and "error" in event.metadata
    return {**message, "error": event.content} if failed else message


class ThreadJoiner:
    """One reader who joins a thread. Iterating gives pieces of an SSE body."""

    def __init__(
        self, engine: Engine, thread: ThreadDetail, run: RunReference, dialect: AgUiDialect | LegacyAgUiDialect
    ) -> None:
        self._engine = engine
        self._thread = thread
        self._run = run
        self._dialect = dialect
        self._follower: RunFollower | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        state = RunState.after(self._thread.messages, self._thread.state)
        if not self._run.is_terminal:
            await self._fold(self._engine.database, state)
        if self._run.is_terminal or state.open_items.ended:
            ended = RunState.after([*state.messages.values()], state.state)
            yield self._frames(ended, [self._end()])
            return
        after = max(1, state.last_seq)  # of a run that still waits, too, RUN_STARTED was said here
        # An id without an event: whose connection is cut resumes from here and is not told all this again.
        yield self._frames(state, []) + f"id: {self._run.public_id}.{after}\n\n".encode()
        self._follower = self._engine.follow(self._run, self._dialect, after=after)
        async for piece in self._follower:
            yield piece

    def close(self) -> None:
        """Stop watching; safe to call twice."""
        if self._follower is not None:
            self._follower.close()

    async def _fold(self, database: Database, state: RunState) -> None:
        while rows := await read_events(database, self._run.id, state.last_seq):
            for seq_from, events in rows:
                for line in events.split(b"\n")[state.last_seq + 1 - seq_from :]:
                    state.take(line)

    def _frames(self, state: RunState, end: list[ev.Event]) -> bytes:
        start = ev.RunStarted(
            thread_id=self._run.thread_public_id, run_id=self._run.public_id, protocol_version=ev.PROTOCOL_VERSION
        )
        lines = [self._dialect.line(ev.encode(event)) for event in (start, *state.restating(), *end)]
        return b"".join(b"data: %b\n\n" % line for line in lines if line)

    def _end(self) -> ev.RunFinished:
        """The end of the last run; a question that is still open is asked again."""
        outcome = self._thread.open_outcome or {"type": "success"}
        return ev.RunFinished(thread_id=self._run.thread_public_id, run_id=self._run.public_id, outcome=outcome)
