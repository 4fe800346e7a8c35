"""Runs as A2A tasks use them: the port of `a2a.run_port`, on the engine and its tables."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from a2a.run_port import (
    ExposedAgent,
    Phase,
    RunKey,
    RunUpdate,
    RunView,
    RunWish,
    StreamInterruptedError,
    TextBegins,
    TextDelta,
    TextEnds,
    TextIsVoid,
)
from agentbackend.foundation.identifiers import uuid7
from agentbackend.foundation.problems import Problem
from audit.actor import Actor
from orchestration import events as ev
from orchestration.agents import AgentProfile
from orchestration.approvals import set_aside
from orchestration.engine import Engine, RunRequest
from orchestration.live import Chunk
from orchestration.resuming import RECOVERED_EVENT
from orchestration.run_input import ResumeEntry, RunInput
from orchestration.store import find_run, text_of

_VIEWS: Final = """
SELECT run.tenant, run.owner_id, run.public_id, run.status, run.outcome, run.error_code, run.error_message, turn.messages,
    CASE WHEN run.status = 'finished' THEN (SELECT log.events FROM orchestration_runevents AS log WHERE log.run_id = run.id
        ORDER BY log.seq_from DESC LIMIT 1) END,
    CASE WHEN run.status = 'interrupted' THEN (SELECT next.public_id FROM orchestration_run AS next
        WHERE next.thread_id = run.thread_id AND next.id > run.id ORDER BY next.id LIMIT 1) END
FROM unnest(%s::text[], %s::text[], %s::text[]) AS wanted(tenant, owner_id, public_id)
JOIN orchestration_run AS run USING (tenant, owner_id, public_id)
LEFT JOIN conversation_turns AS turn ON turn.run_id = run.id
"""
_PHASES: Final = {
    "interrupted": Phase.INTERRUPTED,
    "finished": Phase.FINISHED,
    "failed": Phase.FAILED,
    "cancelled": Phase.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class A2ARuns:
    """`a2a.run_port.RunPort` on this process's engine."""

    engine: Engine

    @property
    def is_ending(self) -> bool:
        """Whether the engine has sent its readers away."""
        return self.engine.live.interrupted

    async def exposed(self, slug: str) -> ExposedAgent | None:
        """The exposed agent of this slug, or the default one."""
        try:
            agent = await (self.engine.agents.get(slug) if slug else self.engine.agents.default())
        except Problem:
            return None
        return _exposed(agent) if agent.exposed_over_a2a else None

    async def start(self, wish: RunWish) -> None:
        """Begin a run here; it lives on when its caller leaves."""
        resume = [ResumeEntry(answer.question_id, "resolved", answer.payload) for answer in wish.answers]
        said = [{"id": str(uuid7()), "role": "user", "content": wish.text}] if wish.text else []
        given = RunInput(
            thread_id=wish.context_id,
            run_id=wish.run_id,
            messages=said,
            protocol_version=ev.PROTOCOL_VERSION,
            forwarded_props=wish.properties or None,
            resume=resume,
        )
        await self.engine.start_run(
            RunRequest(
                actor=wish.actor,
                run_input=given,
                agent_slug=wish.agent,
                request_id=wish.request_id,
                trace_context=wish.trace_context,
            )
        )

    async def view(self, keys: Sequence[RunKey]) -> dict[RunKey, RunView]:
        """How runs stand, with one query."""
        tenants, owners, ids = zip(*((k.tenant, k.owner_id, k.run_id) for k in keys), strict=True)
        rows = await self.engine.database.fetch_all(_VIEWS, (list(tenants), list(owners), list(ids)))
        return {RunKey(*row[:3]): _view(row[3:]) for row in rows}

    async def follow(self, actor: Actor, run_id: str) -> AsyncIterator[RunUpdate]:
        """What a run says, from its log and then live."""
        run = await find_run(self.engine.database, actor, run_id)
        follower = self.engine.follow(run, _Lines())
        texts = _Texts()
        try:
            async with aclosing(aiter(follower)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    for line in piece.splitlines():
                        if line == _INTERRUPTED:
                            raise StreamInterruptedError(run_id)
                        for update in texts.updates(line):
                            yield update
        finally:
            follower.close()

    async def cancel(self, actor: Actor, run_id: str) -> bool:
        """Cancel a run wherever it is carried out."""
        return await self.engine.cancel(actor, run_id)

    async def withdraw(self, actor: Actor, run_id: str, request_id: str = "") -> bool:
        """Set aside what the run asked."""
        return await set_aside(
            self.engine.database, actor, run_id, reason="The task was canceled.", request_id=request_id
        )


_INTERRUPTED: Final = b"interrupted"


class _Lines:
    """A dialect: the stored events, one a line."""

    needs_whole_log = False

    def frames(self, chunk: Chunk, after: int) -> bytes:
        """The stored lines."""
        part = chunk.after(after)
        return b"".join(b"%b\n" % line for line in part.lines) if part is not None else b""

    def error_frame(self, code: str, message: str) -> bytes:
        """A line that says so."""
        return _INTERRUPTED + b"\n"


@dataclass(slots=True)
class _Texts:
    """The agent's messages in a run's events, numbered as they begin to say something. A message that is void gives its number back."""

    _numbers: dict[str, int] = field(default_factory=dict)
    _count: int = 0

    def updates(self, line: bytes) -> list[RunUpdate]:
        if not line.startswith(b'{"type":"TEXT_MESSAGE_') and RECOVERED_EVENT.encode() not in line:
            return []
        match event := ev.decode(line):
            case ev.TextMessageContent() if event.subagent_run_id is ev.UNSET:
                return self._said(event.message_id, event.delta)
            case ev.TextMessageEnd() if event.message_id in self._numbers:
                return [TextEnds(self._numbers[event.message_id])]
            case ev.Custom(name=name) if name == RECOVERED_EVENT:
                return self._void(event.value["discarded"])
        return []

    def _said(self, message_id: str, delta: str) -> list[RunUpdate]:
        number = self._numbers.get(message_id)
        if number is not None:
            return [TextDelta(number, delta)]
        number = self._numbers[message_id] = self._count
        self._count += 1
        return [TextBegins(number), TextDelta(number, delta)]

    def _void(self, ids: Sequence[str]) -> list[RunUpdate]:
        numbers = sorted(self._numbers.pop(key) for key in ids if key in self._numbers)
        self._count -= len(numbers)  # a turn that is begun again is the last one
        return [TextIsVoid(number) for number in numbers]


def _exposed(agent: AgentProfile) -> ExposedAgent:
    return ExposedAgent(
        slug=agent.slug,
        name=agent.name,
        description=agent.description,
        skills=tuple({"id": key, **skill} for key, skill in agent.skills.items()),
        is_default=agent.is_default,
        changed_at=agent.updated_at or datetime.now(UTC),
        answers_in_json=agent.output_schema is not None,
    )


def _view(row: Sequence[Any]) -> RunView:
    status, outcome, error_code, error_message, messages, last_events, next_run = row
    phase = _PHASES.get(status, Phase.GOING_ON)
    if phase is Phase.GOING_ON:
        return RunView(phase)
    return RunView(
        phase=phase,
        texts=tuple(_texts(messages or ())),
        questions=tuple((outcome or {}).get("interrupts", ())),
        result=_result(last_events),
        error_code=error_code,
        error_message=error_message,
        next_run=next_run or "",
    )


def _texts(messages: Sequence[dict[str, Any]]) -> list[str]:
    """What the agent said itself, message by message."""
    said = (
        text_of(message.get("content"))
        for message in messages
        if message["role"] == "assistant" and "subagentRunId" not in message
    )
    return [text for text in said if text]


def _result(last_events: bytes | None) -> dict[str, Any] | None:
    """The result of RUN_FINISHED, which the run's last event holds; None when the log is gone or holds none."""
    if not last_events:
        return None
    line = bytes(last_events).rstrip(b"\n").rpartition(b"\n")[2]
    if not line.startswith(b'{"type":"RUN_FINISHED"'):
        return None
    try:
        result = orjson.loads(line).get("result")
    except orjson.JSONDecodeError:
        return None
    return result if isinstance(result, dict) else None
