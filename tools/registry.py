"""The registry as the run path sees it: a snapshot of tools, pinned versions, roles and deny rules.

At most once a second a look at the revision (one row) tells whether the snapshot is still true; only then is it
read again. So a change reaches every process within a second, and no connection is held in between.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
import psycopg
from psycopg_pool import PoolTimeout

from agentbackend.foundation.database import Database, database
from audit.actor import Actor
from tools.calls import SideEffects, ToolDefinition
from tools.governance.roles import Decision, Deny, Inheritance, may_use

logger = logging.getLogger(__name__)

REVISION_AGE_SECONDS: Final = 0.9  # with the reading itself a change is seen within a second


@dataclass(frozen=True, slots=True)
class RegisteredTool:
    """A tool in its pinned version, ready to be called."""

    definition: ToolDefinition
    enabled: bool
    input_schema: bytes
    output_schema: bytes | None
    handler_type: str
    handler: Mapping[str, Any]
    required_credentials: tuple[str, ...]
    required_role: str
    timeout_seconds: float
    output_limit_bytes: int
    max_retries: int
    denies: tuple[Deny, ...]

    @property
    def policy_version(self) -> str:
        """What the audit trail names as the deciding version: name, number and the digest's beginning."""
        return f"{self.definition.name}:{self.definition.version}:{self.definition.digest[:12]}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The registry at one revision."""

    revision: int
    tools: Mapping[str, RegisteredTool]
    inheritance: Inheritance

    def decide(self, actor: Actor, tool: RegisteredTool) -> Decision:
        """Whether this caller's role may use the tool."""
        return may_use(actor.role, tool.required_role, self.inheritance, tool.denies)


class ToolRegistry:
    """Hands out snapshots. One for each process; more can be made, each looks for itself."""

    def __init__(
        self,
        database: Database,
        *,
        max_age_seconds: float = REVISION_AGE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._max_age = max_age_seconds
        self._clock = clock
        self._snapshot: Snapshot | None = None
        self._checked_at = float("-inf")
        self._refreshing: asyncio.Task[Snapshot] | None = None

    @property
    def revision(self) -> int:
        """Revision of the snapshot at hand; 0 when none was read yet."""
        return self._snapshot.revision if self._snapshot else 0

    def expire(self) -> None:
        """Look at the revision again before the next answer, however young the snapshot is."""
        self._checked_at = float("-inf")

    async def snapshot(self) -> Snapshot:
        """The registry as it is, or was within the last second.

        While the database is away the last snapshot is used: what is to be executed must be recorded first, so
        nothing happens on old rights before the database is back. Without one, the database's error is raised.
        """
        if self._snapshot is not None and self._clock() - self._checked_at < self._max_age:
            return self._snapshot
        return await asyncio.shield(self._shared_refresh())

    async def get_tool(self, name: str) -> RegisteredTool | None:
        """The tool of this name, switched on or not."""
        return (await self.snapshot()).tools.get(name)

    async def offered_tools(self, actor: Actor, allowed: frozenset[str] | None = None) -> list[ToolDefinition]:
        """What this caller may use of the tools that are on, by name; `allowed` narrows it to an agent's tools."""
        snapshot = await self.snapshot()
        return [
            tool.definition
            for name, tool in snapshot.tools.items()
            if tool.enabled and (allowed is None or name in allowed) and snapshot.decide(actor, tool).allowed
        ]

    def _shared_refresh(self) -> asyncio.Task[Snapshot]:
        """The look that is going on, or a new one: many callers share it, and none of them can cancel it."""
        running = self._refreshing
        loop = asyncio.get_running_loop()
        if running is None or running.done() or running.get_loop() is not loop:
            running = loop.create_task(self._refresh(), name="tool-registry", context=contextvars.Context())
            self._refreshing = running
        return running

    async def _refresh(self) -> Snapshot:
        looked_at = self._clock()
        try:
            self._snapshot = await self._newest(self._snapshot)
        except (psycopg.OperationalError, PoolTimeout) as error:
            if self._snapshot is None:
                raise
            reason = type(error).__name__
            logger.warning("the tool registry cannot be read; the last snapshot is used", extra={"reason": reason})
        self._checked_at = looked_at
        return self._snapshot

    async def _newest(self, known: Snapshot | None) -> Snapshot:
        if known is not None:
            row = await self._database.fetch_one(_REVISION)
            if row is not None and row[0] == known.revision:
                return known
        return await self._read()

    async def _read(self) -> Snapshot:
        async with self._database.connection() as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            [(revision,)] = await (await connection.execute(_REVISION)).fetchall()
            tools = await (await connection.execute(_TOOLS)).fetchall()
            roles = await (await connection.execute(_ROLES)).fetchall()
            denies = await (await connection.execute(_DENIES)).fetchall()
        return _snapshot(revision, tools, roles, denies)


def _snapshot(revision: int, tools: list[Any], roles: list[Any], denies: list[Any]) -> Snapshot:
    by_tool: dict[str | None, list[Deny]] = {}
    for tool_name, role, reason in denies:
        by_tool.setdefault(tool_name, []).append(Deny(role, reason))
    for_all = by_tool.get(None, [])
    return Snapshot(
        revision=revision,
        tools={row[0]: _registered(row, (*for_all, *by_tool.get(row[0], ()))) for row in tools},
        inheritance={name: frozenset(inherits) for name, inherits in roles},
    )


def _registered(row: tuple[Any, ...], denies: tuple[Deny, ...]) -> RegisteredTool:
    (name, enabled, number, digest, title, description, input_schema, output_schema, side_effects,
     handler_type, handler, credentials, role, timeout, output_limit, retries) = row  # fmt: skip
    definition = ToolDefinition(
        name=name,
        title=title,
        description=description,
        input_schema=input_schema,
        side_effects=SideEffects(side_effects),
        version=number,
        digest=digest,
    )
    return RegisteredTool(
        definition=definition,
        enabled=enabled,
        input_schema=orjson.dumps(input_schema),
        output_schema=None if output_schema is None else orjson.dumps(output_schema),
        handler_type=handler_type,
        handler=handler,
        required_credentials=tuple(credentials),
        required_role=role,
        timeout_seconds=timeout,
        output_limit_bytes=output_limit,
        max_retries=retries,
        denies=denies,
    )


_REVISION = "SELECT coalesce(max(revision), 0) FROM tools_registryrevision"
_TOOLS = """
SELECT tool.name, tool.enabled, version.number, version.digest, version.title, version.description,
       version.input_schema, version.output_schema, version.side_effects, version.handler_type, version.handler,
       version.required_credentials, version.required_role, version.timeout_seconds,
       version.output_limit_bytes, version.max_retries
FROM tools_tool AS tool JOIN tools_toolversion AS version ON version.id = tool.current_version_id
ORDER BY tool.name COLLATE "C"
"""
_ROLES = """
SELECT role.name, coalesce(array_agg(inherited.name) FILTER (WHERE inherited.name IS NOT NULL), '{}')
FROM tools_callerrole AS role
LEFT JOIN tools_callerrole_inherits AS link ON link.from_callerrole_id = role.id
LEFT JOIN tools_callerrole AS inherited ON inherited.id = link.to_callerrole_id
GROUP BY role.name
"""
_DENIES = """
SELECT tool.name, rule.role, rule.reason
FROM tools_denyrule AS rule LEFT JOIN tools_tool AS tool ON tool.id = rule.tool_id
"""

registry = ToolRegistry(database)
"""The process's registry, on the process's pool."""


async def offered_tools(actor: Actor, allowed: frozenset[str] | None = None) -> list[ToolDefinition]:
    """What this caller may use; see `ToolRegistry.offered_tools`."""
    return await registry.offered_tools(actor, allowed)


async def get_tool(name: str) -> RegisteredTool | None:
    """The tool of this name, switched on or not."""
    return await registry.get_tool(name)
