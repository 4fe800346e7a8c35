"""A tool for tests with real processes: each call leaves traces in a folder, and waits there until it may end."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from tools.calls import SideEffects
from tools.invocation import ToolInvocation
from tools.python_functions import tool_function


@tool_function(
    "waiting_tool",
    title="Waiting",
    description="Waits.",
    side_effects=SideEffects.IDEMPOTENT,
    timeout_seconds=60,
)
async def wait(*, invocation: ToolInvocation) -> str:
    folder = Path(os.environ["WAITING_FOLDER"]) / invocation.actor.id
    (folder / "begun").touch()
    invocation.report_progress(1, 2, "waiting")
    try:
        while not (folder / "go-on").exists():  # noqa: ASYNC110 - another process makes the file
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        (folder / "cancelled").touch()
        raise
    invocation.report_progress(2, 2, "through")
    return "through"
