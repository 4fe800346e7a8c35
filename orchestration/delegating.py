"""A delegation as a run shows it: a subagent that starts, says something, and ends (AG-UI 1.0, SUBAGENT_*)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from a2a.delegation import RemoteAgent
from agentbackend.foundation.identifiers import uuid7
from orchestration import events as ev
from orchestration.journal import RunJournal


class SubagentEvents:
    """Writes one delegation into a run's journal. What the other agent says is a message of its own, attributed to it."""

    def __init__(self, journal: RunJournal, tool_call_id: str, note_task: Callable[[str], None]) -> None:
        """`note_task` keeps the other agent's id of the task."""
        self._journal = journal
        self._tool_call_id = tool_call_id
        self.accepted = note_task
        self._run_id = ""
        self._about: dict[str, Any] = {}
        self._message_id = str(uuid7())
        self._pieces: list[str] = []

    def started(self, delegation_id: str, agent: RemoteAgent, task: str) -> None:
        """See DelegationListener."""
        self._run_id = delegation_id
        self._about = {"agent": agent.name}
        self._journal.emit(
            ev.SubagentStarted(
                subagent_run_id=delegation_id,
                name=agent.name,
                description=agent.description or ev.UNSET,
                parent_tool_call_id=self._tool_call_id,
                metadata={"task": ev.clean_text(task)},
            )
        )

    def text(self, delta: str) -> None:
        """See DelegationListener."""
        delta = ev.clean_text(delta)
        if not delta:
            return
        if not self._pieces:
            self._journal.emit(
                ev.TextMessageStart(message_id=self._message_id, role="assistant", subagent_run_id=self._run_id)
            )
        self._pieces.append(delta)
        self._journal.emit_delta(
            ev.TextMessageContent(message_id=self._message_id, delta=delta, subagent_run_id=self._run_id)
        )

    def finished(self, answer: str) -> None:
        """See DelegationListener."""
        self._close_text()
        self._journal.emit(
            ev.SubagentFinished(subagent_run_id=self._run_id, result=ev.clean_text(answer), metadata=self._about)
        )

    def failed(self, code: str, message: str) -> None:
        """See DelegationListener."""
        self._close_text()
        self._journal.emit(
            ev.SubagentError(
                subagent_run_id=self._run_id, message=ev.clean_text(message), code=code, metadata=self._about
            )
        )

    def messages(self) -> list[dict[str, Any]]:
        """What it said, as a message of the thread; nothing when it said nothing."""
        if not self._pieces:
            return []
        content = "".join(self._pieces)
        return [{"id": self._message_id, "role": "assistant", "content": content, "subagentRunId": self._run_id}]

    def _close_text(self) -> None:
        if self._pieces:
            self._journal.emit(ev.TextMessageEnd(message_id=self._message_id, subagent_run_id=self._run_id))
