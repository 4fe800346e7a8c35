"""Recording through the process's writer: for what belongs to no run and to no transaction of the ORM."""

from __future__ import annotations

from agentbackend.foundation.writer import GroupWriter, Unit
from audit.entry import AuditEntry
from audit.rows import add_to


class WriterRecorder:
    """Writes entries with the writer's next group."""

    def __init__(self, writer: GroupWriter) -> None:
        self._writer = writer

    async def record(self, entry: AuditEntry) -> None:
        """Return once the entry is committed; raises what the writer raises when it cannot be."""
        await self._writer.commit(self._unit(entry))

    def note(self, entry: AuditEntry) -> None:
        """Queue the entry and go on."""
        self._writer.submit(self._unit(entry))

    @staticmethod
    def _unit(entry: AuditEntry) -> Unit:
        unit = Unit()
        add_to(unit, entry)
        return unit
