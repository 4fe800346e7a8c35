"""Calls for trying a tool: they pass the same door, only that the tool may still be switched off."""

from typing import Any

import pytest

from tests.tools.support import Door, ToolMaker, details, somebody
from tools.calls import CallContext, ToolCall, ToolOutcome, ToolResult
from tools.door import call_tool


async def act() -> str:
    return "acted"


async def tried(door: Door, name: str, **changes: Any) -> ToolResult:
    context = CallContext(
        actor=somebody(changes.pop("role", "user")),
        recorder=door.recorder,
        origin="test",
        allow_disabled=True,
        **changes,
    )
    return await call_tool(ToolCall("call-1", name, "{}"), context, registry=door.registry)


async def test_a_tool_that_is_switched_off_is_called_in_a_test_and_the_record_says_so(door: Door, make_tool: ToolMaker):
    name = await make_tool(act, enabled=False)

    assert (await door.call(name)).outcome is ToolOutcome.DISABLED
    assert (await tried(door, name)).content == "acted"
    allowed, called = door.recorder.entries[-2:]
    assert (details(allowed)["origin"], details(allowed)["enabled"]) == ("test", False)
    assert details(called)["origin"] == "test"


@pytest.mark.parametrize("role", ["user", "unheard-of"])
async def test_a_test_is_bound_by_the_role_that_it_is_made_as(door: Door, make_tool: ToolMaker, role: str):
    name = await make_tool(act, enabled=False, required_role="admin")

    assert (await tried(door, name, role=role)).outcome is ToolOutcome.DENIED
    assert (await tried(door, name, role="admin")).ok
