"""The console's answers to "why?" are the door's."""

from asgiref.sync import sync_to_async

from tests.tools.support import Door, ToolMaker, envelope, somebody
from tools.governance.explanations import explain
from tools.models import Tool


async def explained(name: str, role: str) -> str:
    tool = await Tool.objects.select_related("current_version").aget(name=name)
    return (await sync_to_async(explain)(tool, role)).reason_code


async def act() -> str:
    return ""


async def test_the_console_gives_the_reason_that_the_door_records(door: Door, make_tool: ToolMaker):
    for options in ({}, {"required_role": "admin"}, {"required_role": "user"}, {"enabled": False}):
        name = await make_tool(act, **options)
        for role in ("user", "admin", "unheard-of"):
            await door.call(name, actor=somebody(role))
            decision = next(entry for entry in reversed(door.recorder.entries) if entry.action in DECISIONS)
            assert await explained(name, role) == envelope(decision)["reason"]


async def test_a_deny_rule_is_given_as_the_reason(door: Door, make_tool: ToolMaker):
    name = await make_tool(act)
    await make_tool.deny(name, role="user")

    assert await explained(name, "user") == "deny_rule"
    assert await explained(name, "admin") == "any_role"


DECISIONS = ("tool.allowed", "tool.denied")
