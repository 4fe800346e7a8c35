"""Agents as the run path sees them: a snapshot of their rows, read again at most once a second."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import TupleRow

from agentbackend.foundation.database import Database
from agentbackend.foundation.problems import Problem


@dataclass(frozen=True, slots=True)
class AgentProfile:
    """What a run needs to know of its agent. Empty `model`: the service's; None limits: the service's."""

    id: UUID
    slug: str
    name: str
    description: str
    instructions: str
    model: str
    temperature: float | None
    max_output_tokens: int | None
    max_iterations: int | None
    history_token_budget: int
    tools: frozenset[str] | None
    is_default: bool
    fallback_models: tuple[str, ...]
    prompting: str
    planning: bool
    output_schema: dict[str, Any] | None
    guardrails: frozenset[str]
    summarise_history: bool
    exposed_over_a2a: bool = False
    skills: dict[str, Any] = field(default_factory=dict)
    updated_at: datetime | None = None


_FIELDS = tuple(column.name for column in fields(AgentProfile))


class AgentCatalogue:
    """The enabled agents."""

    def __init__(self, database: Database, *, max_age_seconds: float = 1.0) -> None:
        self._database = database
        self._max_age = max_age_seconds
        self._agents: dict[str, AgentProfile] = {}
        self._read_at = float("-inf")
        self._lock = asyncio.Lock()

    async def all(self) -> list[AgentProfile]:
        """Every enabled agent, by name."""
        await self._refresh()
        return list(self._agents.values())

    async def get(self, slug: str) -> AgentProfile:
        """The enabled agent of this slug; raises Problem `unknown_agent`."""
        await self._refresh()
        agent = self._agents.get(slug)
        if agent is None:
            raise Problem("unknown_agent", f"There is no agent {slug!r}.")
        return agent

    async def by_id(self, agent_id: UUID) -> AgentProfile | None:
        """The enabled agent of this id, if any."""
        await self._refresh()
        return next((agent for agent in self._agents.values() if agent.id == agent_id), None)

    async def default(self) -> AgentProfile:
        """The agent that answers on /ag-ui/events; raises Problem `unknown_agent` when none is set."""
        await self._refresh()
        agent = next((agent for agent in self._agents.values() if agent.is_default), None)
        if agent is None:
            raise Problem("unknown_agent", "No default agent is enabled.")
        return agent

    async def _refresh(self) -> None:
        if time.monotonic() - self._read_at < self._max_age:
            return
        async with self._lock:
            if time.monotonic() - self._read_at < self._max_age:
                return
            rows = await self._database.fetch_all(
                f"SELECT {', '.join(_FIELDS)} FROM orchestration_agent WHERE enabled ORDER BY name"  # noqa: S608 - constants
            )
            self._agents = {agent.slug: agent for agent in map(_profile, rows)}
            self._read_at = time.monotonic()


def _profile(row: TupleRow) -> AgentProfile:
    values = dict(zip(_FIELDS, row, strict=True))
    values |= {
        "tools": frozenset(values["tools"]) or None,
        "fallback_models": tuple(values["fallback_models"]),
        "guardrails": frozenset(values["guardrails"]),
    }
    return AgentProfile(**values)
