"""The registry as the run path sees it: a snapshot of tools, pinned versions, roles, rules, budgets, servers, sealed
credentials and guardrail policies.

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
from typing import Any, Final, TypeVar
from uuid import UUID

import orjson
import psycopg
from psycopg_pool import PoolTimeout

from agentbackend.foundation.database import Database, database
from audit.actor import Actor
from tools.calls import CacheScope, RateLimitScope, SideEffects, ToolDefinition
from tools.governance.approvals import Decider
from tools.governance.budgets import BudgetRule, rule_from
from tools.governance.conditions import ArgumentCondition, Unfit, first_unfit
from tools.governance.roles import Decision, Deny, Inheritance, may_use
from tools.governance.screens import PolicyNames, RegisteredPolicy, Screen, Screens, registered_policy
from tools.vault import Sealed

logger = logging.getLogger(__name__)

REVISION_AGE_SECONDS: Final = 0.9  # with the reading itself a change is seen within a second


@dataclass(frozen=True, slots=True)
class RegisteredTool:
    """A tool in its pinned version, ready to be called."""

    definition: ToolDefinition
    version_id: str
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
    approval_required: bool
    approval_by: Decider
    approver_role: str
    approval_expires_seconds: int
    cache_seconds: int
    cache_scope: CacheScope
    rate_limit: str
    rate_limit_scope: RateLimitScope
    max_concurrent: int
    denies: tuple[Deny, ...]
    conditions: tuple[ArgumentCondition, ...]

    @property
    def policy_version(self) -> str:
        """What the audit trail names as the deciding version: name, number and the digest's beginning."""
        return f"{self.definition.name}:{self.definition.version}:{self.definition.digest[:12]}"


@dataclass(frozen=True, slots=True)
class RegisteredServer:
    """An MCP server of others, as its tools call it; fields as in `tools.models.RemoteServer`."""

    id: UUID
    name: str
    url: str
    protocol: str
    credential: str
    credential_placement: str
    credential_header: str
    timeout_seconds: float
    enabled: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The registry at one revision."""

    revision: int
    tools: Mapping[str, RegisteredTool]
    inheritance: Inheritance
    vault: Mapping[str, Sealed]
    servers: Mapping[str, RegisteredServer]
    policies: Mapping[str, RegisteredPolicy]
    budgets: tuple[BudgetRule, ...] = ()

    def decide(self, actor: Actor, tool: RegisteredTool) -> Decision:
        """Whether this caller's role may use the tool."""
        return may_use(actor.role, tool.required_role, self.inheritance, tool.denies)

    def unfit(self, actor: Actor, tool: RegisteredTool, arguments: object) -> Unfit | None:
        """The condition on arguments that binds this caller and is not fulfilled, if any."""
        return first_unfit(arguments, actor.role, self.inheritance, tool.conditions)


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
        self._screens = Screens()

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

    async def screen(self, names: PolicyNames = None, *, snapshot: Snapshot | None = None) -> Screen:
        """The guardrail policies that bind whoever names these, and those that apply everywhere; compiled once while they stay."""
        now = snapshot or await self.snapshot()
        if names and snapshot is None and not names <= now.policies.keys():
            self.expire()  # they may have been made together with the agent that names them, which is known already
            now = await self.snapshot()
        return await self._screens.of(now.policies, names, now.vault)

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

            async def rows(query: str) -> list[Any]:
                return await (await connection.execute(query)).fetchall()

            [(revision,)] = await rows(_REVISION)
            return _snapshot(
                revision,
                tools=await rows(_TOOLS),
                roles=await rows(_ROLES),
                denies=_by_tool(await rows(_DENIES), Deny),
                conditions=_by_tool(await rows(_CONDITIONS), _condition),
                vault={name: Sealed(kid, bytes(sealed)) for name, kid, sealed in await rows(_VAULT)},
                servers=[RegisteredServer(*row) for row in await rows(_SERVERS)],
                policies=[registered_policy(*row) for row in await rows(_POLICIES)],
                budgets=_budgets(await rows(_BUDGETS)),
            )


Rule = TypeVar("Rule", Deny, ArgumentCondition)


def _by_tool(rows: list[Any], make: Callable[..., Rule]) -> dict[str | None, list[Rule]]:
    """Rules by the tool that they are about (None: all), each made of the row's other columns."""
    found: dict[str | None, list[Rule]] = {}
    for tool_name, *columns in rows:
        found.setdefault(tool_name, []).append(make(*columns))
    return found


def _condition(role: str, schema: Any, reason: str) -> ArgumentCondition:
    """A rule that cannot be read refuses everything that it binds: it stands for a bound that somebody wanted."""
    try:
        return ArgumentCondition(role, orjson.dumps(schema), reason)
    except TypeError:
        logger.exception("a rule on arguments cannot be read and refuses all", extra={"role": role})
        return ArgumentCondition(role, b"false", reason)


def _budgets(rows: list[Any]) -> tuple[BudgetRule, ...]:
    """The budgets that are on. A budget that cannot be read takes no call down with it: forms let none in."""
    found = []
    for row in rows:
        values = dict(zip(_BUDGET_COLUMNS, row, strict=True))
        try:
            found.append(rule_from(values))
        except ValueError:
            logger.exception("a budget cannot be read and does not count", extra={"budget": values["name"]})
    return tuple(found)


def _snapshot(
    revision: int,
    *,
    tools: list[Any],
    roles: list[Any],
    denies: dict[str | None, list[Deny]],
    conditions: dict[str | None, list[ArgumentCondition]],
    vault: dict[str, Sealed],
    servers: list[RegisteredServer],
    policies: list[RegisteredPolicy],
    budgets: tuple[BudgetRule, ...],
) -> Snapshot:
    for_all = denies.get(None, [])
    readable: dict[str, RegisteredTool] = {}
    for name, *row in tools:
        try:
            of_tool = (*for_all, *denies.get(name, ())), tuple(conditions.get(name, ()))
            readable[name] = _registered((name, *row), *of_tool)
        except (TypeError, ValueError):  # one tool that cannot be read must not take the others with it
            logger.exception("a tool cannot be read and is left out", extra={"tool": name})
    return Snapshot(
        revision=revision,
        tools=readable,
        inheritance={name: frozenset(inherited) for name, inherited in roles},
        vault=vault,
        servers={server.name: server for server in servers},
        policies={found.policy.name: found for found in policies},
        budgets=budgets,
    )


def _registered(
    row: tuple[Any, ...], denies: tuple[Deny, ...], conditions: tuple[ArgumentCondition, ...]
) -> RegisteredTool:
    values = dict(zip(_COLUMNS, row, strict=True))
    definition = ToolDefinition(
        name=values["name"],
        title=values["title"],
        description=values["description"],
        input_schema=values["input_schema"],
        side_effects=SideEffects(values["side_effects"]),
        version=values["number"],
        digest=values["digest"],
        output_schema=values["output_schema"],
    )
    output_schema = values["output_schema"]
    return RegisteredTool(
        definition=definition,
        version_id=str(values["id"]),
        enabled=values["enabled"],
        input_schema=orjson.dumps(values["input_schema"]),
        output_schema=None if output_schema is None else orjson.dumps(output_schema),
        handler_type=values["handler_type"],
        handler=values["handler"],
        required_credentials=tuple(values["required_credentials"]),
        required_role=values["required_role"],
        timeout_seconds=values["timeout_seconds"],
        output_limit_bytes=values["output_limit_bytes"],
        max_retries=values["max_retries"],
        approval_required=values["approval_required"],
        approval_by=Decider(values["approval_by"]),
        approver_role=values["approver_role"],
        approval_expires_seconds=values["approval_expires_seconds"],
        cache_seconds=values["cache_seconds"],
        cache_scope=CacheScope(values["cache_scope"]),
        rate_limit=values["rate_limit"],
        rate_limit_scope=RateLimitScope(values["rate_limit_scope"]),
        max_concurrent=values["max_concurrent"],
        denies=denies,
        conditions=conditions,
    )


_REVISION = "SELECT coalesce(max(revision), 0) FROM tools_registryrevision"
_OF_VERSION = (
    "id", "number", "digest", "title", "description", "input_schema", "output_schema", "side_effects", "handler_type",
    "handler", "required_credentials", "required_role", "timeout_seconds", "output_limit_bytes", "max_retries",
    "approval_required", "approval_by", "approver_role", "approval_expires_seconds", "cache_seconds", "cache_scope",
    "rate_limit", "rate_limit_scope", "max_concurrent",
)  # fmt: skip
_COLUMNS = ("name", "enabled", *_OF_VERSION)
_TOOLS = f"""
SELECT tool.name, tool.enabled, {", ".join(f"version.{column}" for column in _OF_VERSION)}
FROM tools_tool AS tool JOIN tools_toolversion AS version ON version.id = tool.current_version_id
ORDER BY tool.name COLLATE "C"
"""  # noqa: S608 - constants
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
_CONDITIONS = """
SELECT tool.name, rule.role, rule.schema, rule.reason
FROM tools_argumentrule AS rule JOIN tools_tool AS tool ON tool.id = rule.tool_id
"""
_VAULT = "SELECT name, kid, sealed FROM tools_storedcredential"
_SERVERS = """
SELECT id, name, url, protocol, credential, credential_placement, credential_header, timeout_seconds, enabled
FROM tools_remoteserver
"""
_POLICIES = """
SELECT policy.name, policy.everywhere, version.number, version.digest, version.kind, version.stages, version.action,
    version.settings, version.message
FROM tools_guardrailpolicy AS policy JOIN tools_guardrailpolicyversion AS version ON version.id = policy.current_version_id
WHERE policy.enabled ORDER BY policy.name COLLATE "C"
"""

_BUDGET_COLUMNS = ("id", "name", "agent", "role", "user_id", "each_user", "what", "limit", "period")
_BUDGETS = f"""
SELECT {", ".join(f'"{column}"' for column in _BUDGET_COLUMNS)} FROM tools_budget WHERE enabled ORDER BY name
"""  # noqa: S608 - constants

registry = ToolRegistry(database)
"""The process's registry, on the process's pool."""


async def offered_tools(actor: Actor, allowed: frozenset[str] | None = None) -> list[ToolDefinition]:
    """What this caller may use; see `ToolRegistry.offered_tools`."""
    return await registry.offered_tools(actor, allowed)


async def get_tool(name: str) -> RegisteredTool | None:
    """The tool of this name, switched on or not."""
    return await registry.get_tool(name)
