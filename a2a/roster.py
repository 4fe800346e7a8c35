"""The registered agents as a process asks them: peers made of the rows, anew when the registry's revision has moved.

So a change reaches every process within a second. A peer's circuit outlives the change.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Mapping
from uuid import UUID

import psycopg
from psycopg_pool import PoolTimeout

from a2a.circuit import Circuit
from a2a.contract import RegisteredAgent
from a2a.delegation import Peer
from a2a.remote_peer import RemotePeer
from agentbackend.foundation.database import Database, database
from tools.registry import ToolRegistry, registry

logger = logging.getLogger(__name__)

_COLUMNS = tuple(field.name for field in dataclasses.fields(RegisteredAgent))
_AGENTS = f"SELECT {', '.join(_COLUMNS)} FROM a2a_remoteagent ORDER BY name"  # noqa: S608 - constants


class Roster:
    """Hands out the peers by the names of their tools."""

    def __init__(self, database: Database, registry: ToolRegistry) -> None:
        self._database = database
        self._registry = registry
        self._revision = -1
        self._peers: dict[str, Peer] = {}
        self._circuits: dict[UUID, Circuit] = {}
        self._lock = asyncio.Lock()

    async def peers(self) -> Mapping[str, Peer]:
        """As they are, or were within the last second."""
        revision = (await self._registry.snapshot()).revision
        if revision != self._revision:
            async with self._lock:
                if revision != self._revision and await self._refreshed():
                    self._revision = revision
        return self._peers

    async def _refreshed(self) -> bool:
        """Read the rows; while the database is away the last ones are used, as in the registry."""
        try:
            self._peers = await self._read()
        except (psycopg.OperationalError, PoolTimeout) as error:
            if self._revision < 0:
                raise
            reason = type(error).__name__
            logger.warning("remote agents cannot be read; the last ones are used", extra={"reason": reason})
            return False
        return True

    async def _read(self) -> dict[str, Peer]:
        rows = [RegisteredAgent(*row) for row in await self._database.fetch_all(_AGENTS)]
        self._circuits = {row.id: self._circuits.get(row.id) or Circuit() for row in rows}
        found: dict[str, Peer] = {}
        for row in rows:
            try:
                peer = RemotePeer(row, self._circuits[row.id])
            except (TypeError, ValueError, AttributeError):  # one that cannot be read must not take the others with it
                logger.exception("a remote agent cannot be read and is left out", extra={"agent": row.name})
                continue
            found[peer.agent.tool_name] = peer
        return found


roster = Roster(database, registry)
"""The process's registered agents, on its pool."""
