"""The registry as runs see it: what is offered to whom, and how soon a change is seen."""

import asyncio
from typing import Any

import psycopg
import pytest
from django.conf import settings

from agentbackend.foundation.database import Database
from tests.tools.support import Door, ToolMaker, somebody
from tools.calls import SideEffects, ToolOutcome
from tools.models import ArgumentRule, CallerRole, Tool, ToolVersion
from tools.registry import ToolRegistry


async def greet(name: str) -> str:
    return f"Hello {name}"


async def names_offered(registry: ToolRegistry, role: str, allowed: frozenset[str] | None = None) -> set[str]:
    return {tool.name for tool in await registry.offered_tools(somebody(role), allowed)}


async def test_a_fresh_database_offers_the_example_tools(tool_registry: ToolRegistry):
    examples = {"get_weather_tool", "calculator_tool", "add_note_tool", "get_note_tool"}

    assert examples <= await names_offered(tool_registry, "user")
    assert "admin_debug_tool" not in await names_offered(tool_registry, "user")
    assert examples | {"admin_debug_tool"} <= await names_offered(tool_registry, "admin")


async def test_what_is_offered_is_what_the_pinned_version_says(tool_registry: ToolRegistry, make_tool: ToolMaker):
    name = await make_tool(greet, title="Greeting", description="Greets.", side_effects=SideEffects.IDEMPOTENT)

    [tool] = await tool_registry.offered_tools(somebody(), frozenset({name}))

    assert (tool.name, tool.title, tool.description, tool.version) == (name, "Greeting", "Greets.", 1)
    assert tool.input_schema == {
        "type": "object",
        "properties": {"name": {"type": "string"}},
        "required": ["name"],
        "additionalProperties": False,
    }
    assert len(tool.digest) == 64


async def test_tools_are_offered_in_one_order(tool_registry: ToolRegistry):
    names = [tool.name for tool in await tool_registry.offered_tools(somebody("admin"))]

    assert names == sorted(names)


async def test_an_agent_is_offered_its_own_tools_only(tool_registry: ToolRegistry, make_tool: ToolMaker):
    name = await make_tool(greet)

    assert await names_offered(tool_registry, "admin", frozenset({name, "unheard_of"})) == {name}
    assert await names_offered(tool_registry, "admin", frozenset()) == set()


async def test_a_tool_that_is_off_is_not_offered(tool_registry: ToolRegistry, make_tool: ToolMaker):
    name = await make_tool(greet, enabled=False)

    assert name not in await names_offered(tool_registry, "admin")


async def test_roles_and_what_they_inherit_decide_what_is_offered(tool_registry: ToolRegistry, make_tool: ToolMaker):
    name = await make_tool(greet, required_role=f"r-{somebody().id[:8]}")
    required = (await Tool.objects.select_related("current_version").aget(name=name)).current_version.required_role
    lower = await CallerRole.objects.acreate(name=required)
    upper = await CallerRole.objects.acreate(name=f"{required}-upper")
    await upper.inherits.aadd(lower)
    try:
        assert name in await names_offered(tool_registry, required)
        assert name in await names_offered(tool_registry, upper.name)
        assert name not in await names_offered(tool_registry, "user")
        await upper.inherits.aremove(lower)
        assert name not in await names_offered(tool_registry, upper.name)
    finally:
        await upper.adelete()
        await lower.adelete()


async def test_a_deny_rule_takes_a_tool_out_of_the_offer(tool_registry: ToolRegistry, make_tool: ToolMaker):
    name = await make_tool(greet)
    await make_tool.deny(name, role="user")

    assert name not in await names_offered(tool_registry, "user")
    assert name in await names_offered(tool_registry, "admin")


async def test_a_change_is_seen_by_every_process_within_a_second(database_pool: Database, make_tool: ToolMaker):
    now = [1000.0]
    registries = [ToolRegistry(database_pool, clock=lambda: now[0]) for _ in range(2)]
    name = await make_tool(greet)
    for registry in registries:
        assert name in await names_offered(registry, "user")

    await Tool.objects.filter(name=name).aupdate(enabled=False)
    now[0] += 1.0

    for registry in registries:
        assert name not in await names_offered(registry, "user")


async def test_within_that_second_the_database_is_left_alone(database_pool: Database, make_tool: ToolMaker):
    registry = ToolRegistry(database_pool, clock=lambda: 1000.0)
    before = await registry.snapshot()
    await make_tool(greet)

    assert await registry.snapshot() is before
    registry.expire()
    assert (await registry.snapshot()).revision > before.revision


async def test_a_snapshot_that_is_still_true_is_not_read_again(tool_registry: ToolRegistry):
    assert await tool_registry.snapshot() is await tool_registry.snapshot()


async def test_many_who_ask_at_once_share_one_look(database_pool: Database):
    asked = database_pool.pool.get_stats().get("requests_num", 0)
    registry = ToolRegistry(database_pool)

    snapshots = await asyncio.gather(*(registry.snapshot() for _ in range(50)))

    assert all(snapshot is snapshots[0] for snapshot in snapshots)
    assert database_pool.pool.get_stats()["requests_num"] - asked == 1


async def test_somebody_who_gives_up_does_not_spoil_the_look_of_others(database_pool: Database):
    registry = ToolRegistry(database_pool)
    first, second = asyncio.ensure_future(registry.snapshot()), asyncio.ensure_future(registry.snapshot())
    await asyncio.sleep(0)
    first.cancel()

    assert (await asyncio.wait_for(second, 10)).tools
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_killed_tool_stops_being_callable(door: Door, make_tool: ToolMaker):
    name = await make_tool(greet)
    assert (await door.call(name, {"name": "x"})).ok

    await Tool.objects.filter(name=name).aupdate(enabled=False)

    assert (await door.call(name, {"name": "x"})).outcome is ToolOutcome.DISABLED


async def test_while_the_database_is_away_the_last_snapshot_is_used(superuser_connection: psycopg.Connection):
    plan = settings.DATABASE_PLAN
    database = Database()
    await database.open(plan.runtime_conninfo, session_statements=plan.session_statements, min_size=1, max_size=1)
    registry = ToolRegistry(database, max_age_seconds=0)
    try:
        before = await registry.snapshot()
        row = await database.fetch_one("SELECT pg_backend_pid()")
        assert row is not None
        superuser_connection.execute("SELECT pg_terminate_backend(%s, 5000)", row)

        assert await registry.snapshot() is before
        assert (await registry.snapshot()).tools.keys() == before.tools.keys()
    finally:
        await database.close()


async def test_without_any_snapshot_the_databases_error_is_raised():
    database = Database()
    with pytest.raises(Exception, match="not open"):
        await ToolRegistry(database).snapshot()


async def test_one_tool_that_cannot_be_read_leaves_the_others_alone(door: Door, make_tool: ToolMaker):
    name, other = await make_tool(greet), await make_tool(greet)
    version = await ToolVersion.objects.aget(tool__name=name)
    changed = ToolVersion(
        **{**_values(version), "number": 2, "input_schema": {"type": "object", "maxProperties": 1e30}}
    )
    await changed.asave(force_insert=True)
    await Tool.objects.filter(name=name).aupdate(current_version=changed)

    assert (await door.call(other, {"name": "Ada"})).ok
    assert (await door.call(name, {"name": "Ada"})).outcome is ToolOutcome.UNKNOWN_TOOL


async def test_a_rule_on_arguments_that_cannot_be_read_refuses_all(door: Door, make_tool: ToolMaker):
    name, other = await make_tool(greet), await make_tool(greet)
    tool = await Tool.objects.aget(name=name)
    await ArgumentRule.objects.acreate(tool=tool, schema={"maxProperties": 1e30}, reason="because")

    assert (await door.call(other, {"name": "Ada"})).ok
    assert (await door.call(name, {"name": "Ada"})).outcome is ToolOutcome.DENIED


def _values(version: ToolVersion) -> dict[str, Any]:
    left_out = {"id", "created_at"}
    return {
        field.attname: getattr(version, field.attname) for field in version._meta.fields if field.name not in left_out
    }
