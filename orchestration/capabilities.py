"""What the model is told that it can do in a run: the system prompt and the tools, the same in each of its turns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from a2a.delegation import directory
from orchestration import history
from orchestration.plans import definition as plans
from orchestration.plans.definition import MAKE_PLAN
from orchestration.run_task import RunTask
from tools.calls import SideEffects
from tools.registry import offered_tools


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The system prompt, the tools in the form of the chat-completions API (ours first, delegations among them), which of them are
    the client's, what an interrupted call of ours means, and the tools that plans may call, with their schemas (none: no plans)."""

    system: str
    tools: list[dict[str, Any]]
    frontend: frozenset[str]
    side_effects: dict[str, SideEffects]
    plannable: dict[str, bytes] = field(default_factory=dict)


async def capabilities_of(task: RunTask) -> Capabilities:
    """What this run's caller may use now."""
    delegates = await directory.offered(task.actor, task.agent.tools)
    backend_tools = [
        *await offered_tools(task.actor, task.agent.tools),
        *(agent.as_tool() for agent in delegates),
    ]
    plannable = {tool.name: orjson.dumps(tool.input_schema) for tool in backend_tools} if task.agent.planning else {}
    names = {tool.name for tool in backend_tools} | ({MAKE_PLAN} if plannable else set())
    frontend = [tool for tool in task.run_input.tools if tool.name not in names]
    wire = [_wire_tool(tool.name, tool.description, tool.input_schema) for tool in backend_tools]
    if plannable:
        wire.append(_wire_tool(MAKE_PLAN, plans.DESCRIPTION, plans.SCHEMA))
    wire += [_wire_tool(tool.name, tool.description, tool.parameters) for tool in frontend]
    return Capabilities(
        system=history.system_prompt(task.agent.instructions, task.run_input.context),
        tools=wire,
        frontend=frozenset(tool.name for tool in frontend),
        side_effects={tool.name: tool.side_effects for tool in backend_tools},
        plannable=plannable,
    )


def _wire_tool(name: str, description: str, schema: Any) -> dict[str, Any]:
    parameters = schema or {"type": "object", "properties": {}}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}
