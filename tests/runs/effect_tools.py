"""Tools of the recovery tests, one for each kind of side effects: a call leaves a line in a file, then waits until it may end."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from tools.calls import SideEffects
from tools.invocation import ToolInvocation
from tools.python_functions import tool_function

ROLE = "recovery-tester"


async def _take_effect(invocation: ToolInvocation) -> dict[str, Any]:
    folder = Path(os.environ["EFFECTS_FOLDER"]) / invocation.actor.id
    with (folder / "effects").open("a") as effects:
        effects.write(f"{invocation.tool} {invocation.idempotency_key}\n")
    while not (folder / "go-on").exists():  # noqa: ASYNC110 - another process makes the file
        await asyncio.sleep(0.02)
    return {"done": invocation.tool}


def _register(kind: SideEffects) -> None:
    @tool_function(
        f"{kind.value}_effect_tool",
        title=f"Effect, {kind.value}",
        description="Takes effect once it is called.",
        side_effects=kind,
        required_role=ROLE,
        timeout_seconds=60,
    )
    async def effect(*, invocation: ToolInvocation) -> dict[str, Any]:
        return await _take_effect(invocation)


for _kind in SideEffects:
    _register(_kind)
