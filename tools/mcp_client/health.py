"""How servers are reached, as calls find it: transport only, never what one caller was told.

Each process writes when a server's state changes, else at most once a minute; counted are all failures. Nothing of it can fail or
delay a call: it is written beside it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from agentbackend.foundation.database import Database, database

logger = logging.getLogger(__name__)

WRITTEN_EACH_SECONDS: Final = 60.0
_LONGEST = 300  # as the column


@dataclass(slots=True)
class _Seen:
    """What this process has seen of a server, and written of it."""

    is_failing: bool | None = None
    written_at: float = float("-inf")
    failures: int = 0
    """Not written yet."""


class HealthBook:
    """Takes notes of calls and writes them down now and then."""

    def __init__(
        self,
        database: Database,
        *,
        each_seconds: float = WRITTEN_EACH_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        statements: tuple[str, str] | None = None,
    ) -> None:
        """`statements`: what writes that one answered (`server`) and that it failed (`server`, `what`, `failures`)."""
        self._database = database
        self._each = each_seconds
        self._ok, self._failure = statements or (_OK, _FAILURE)
        self._clock = clock
        self._seen: dict[UUID, _Seen] = {}
        self._writing: set[asyncio.Task[None]] = set()

    def note_ok(self, server: UUID) -> None:
        """A server answered."""
        seen = self._seen.setdefault(server, _Seen())
        seen.failures = 0
        if self._is_due(seen, is_failing=False):
            self._write(self._ok, {"server": server})

    def note_failure(self, server: UUID, what: str) -> None:
        """A server could not be reached, or its connection broke; `what` holds no secret."""
        seen = self._seen.setdefault(server, _Seen())
        seen.failures += 1
        if self._is_due(seen, is_failing=True):
            self._write(self._failure, {"server": server, "what": what[:_LONGEST], "failures": seen.failures})
            seen.failures = 0

    async def settled(self) -> None:
        """Wait until what was noted is written."""
        while self._writing:
            await asyncio.gather(*self._writing)

    def _is_due(self, seen: _Seen, *, is_failing: bool) -> bool:
        now = self._clock()
        if seen.is_failing is is_failing and now - seen.written_at < self._each:
            return False
        seen.is_failing, seen.written_at = is_failing, now
        return True

    def _write(self, statement: str, values: dict[str, object]) -> None:
        writing = self._written(statement, values)
        task = asyncio.get_running_loop().create_task(writing, name="server-health", context=contextvars.Context())
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _written(self, statement: str, values: dict[str, object]) -> None:
        try:
            await self._database.execute(statement, values)
        except Exception as error:  # it is a note only: whatever keeps it from being written, calls go on
            reason = type(error).__name__
            logger.warning("a remote server's health could not be written", extra={"reason": reason})


_OK = """
INSERT INTO tools_remoteserverhealth AS health (server_id, last_ok_at)
SELECT id, now() FROM tools_remoteserver WHERE id = %(server)s
ON CONFLICT (server_id) DO UPDATE SET last_ok_at = now(), failures_in_a_row = 0
"""
_FAILURE = """
INSERT INTO tools_remoteserverhealth AS health (server_id, last_failure_at, last_failure, failures_in_a_row)
SELECT id, now(), %(what)s, %(failures)s FROM tools_remoteserver WHERE id = %(server)s
ON CONFLICT (server_id) DO UPDATE
SET last_failure_at = now(), last_failure = %(what)s,
    failures_in_a_row = health.failures_in_a_row + %(failures)s
"""

book = HealthBook(database)
"""The process's notes, on its pool."""
