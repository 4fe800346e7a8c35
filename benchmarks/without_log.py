"""`manage.py` with a writer that forgets: what a run costs without its log. Nothing is kept: for measurements only."""

from __future__ import annotations

import asyncio
import os

from agentbackend.foundation.writer import GroupWriter, Unit
from manage import main


async def _forget(self: GroupWriter, group: list[Unit]) -> None:
    await asyncio.sleep(
        0.002
    )  # about what a commit takes: readers come in before the first event, as they do otherwise
    self._settle(group, {(unit.run_id, unit.fence) for unit in group if unit.run_id is not None})


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "agentbackend.settings")
    GroupWriter._commit_group = _forget  # type: ignore[method-assign]
    main()
