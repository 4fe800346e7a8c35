"""What the model is told that it can do in a run: the system prompt and the tools, the same in each of its turns."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from psycopg import Error as DatabaseError

from a2a.delegation import RemoteAgent, directory
from orchestration.answer_forms import PROMPTED_JSON
from orchestration.plans import definition as plans
from orchestration.plans.definition import MAKE_PLAN
from orchestration.prompting import Delegate, Prompt, PromptTool, Skill, in_order, system_prompt, wire_tools
from orchestration.run_task import RunLimits, RunTask
from tools.calls import SideEffects
from tools.governance.budget_ledger import left_for
from tools.registry import offered_tools

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The system prompt, the tools in the form of the chat-completions API (ours first, delegations among them), which of them are
    the client's, what an interrupted call of ours means, and the tools that plans may call, with their schemas (none: no plans)."""

    system: str
    tools: list[dict[str, Any]]
    frontend: frozenset[str]
    side_effects: dict[str, SideEffects]
    plannable: dict[str, bytes] = field(default_factory=dict)


async def capabilities_of(task: RunTask, limits: Sequence[str] = ()) -> Capabilities:
    """What this run's caller may use now. `limits`: what is left to it, a sentence each."""
    delegates = await directory.offered(task.actor, task.agent.tools)
    backend_tools = [
        # A call of a remote agent's name is a delegation, whatever else has that name.
        *(tool for tool in await offered_tools(task.actor, task.agent.tools) if tool.name not in directory.peers),
        *(agent.as_tool() for agent in delegates),
    ]
    plannable = {tool.name: orjson.dumps(tool.input_schema) for tool in backend_tools} if task.agent.planning else {}
    names = {tool.name for tool in backend_tools} | ({MAKE_PLAN} if plannable else set())
    frontend = [tool for tool in task.run_input.tools if tool.name not in names]
    ours = [PromptTool(tool.name, tool.description, tool.input_schema) for tool in backend_tools]
    if plannable:
        ours.append(PromptTool(MAKE_PLAN, plans.DESCRIPTION, plans.SCHEMA))
    tools = in_order(ours)
    tools += in_order([PromptTool(tool.name, tool.description, tool.parameters) for tool in frontend])
    prompt = Prompt(
        instructions=task.agent.instructions,
        tools=tools,
        delegates=[_delegate(agent) for agent in delegates],
        prompted_json=task.agent.prompting == PROMPTED_JSON,
        output_schema=task.agent.output_schema,
        limits=limits,
        context=task.run_input.context,
    )
    return Capabilities(
        system=system_prompt(prompt),
        tools=wire_tools(tools),
        frontend=frozenset(tool.name for tool in frontend),
        side_effects={tool.name: tool.side_effects for tool in backend_tools},
        plannable=plannable,
    )


async def limits_told(task: RunTask, limits: RunLimits) -> list[str]:
    """What one answer may take, and what budgets leave to the caller, as the model is told."""
    turns = f"At most {limits.max_iterations} of your turns for one answer; a turn may make several calls."
    try:
        left = await left_for(task.agent.slug, task.actor)
    except (DatabaseError, OSError, TimeoutError):  # no reason to fail: what is used is counted all the same
        logger.warning("what is left of budgets cannot be told to the model")
        left = []
    return [turns, *(_left(budget) for budget in left)]


def _left(budget: dict[str, Any]) -> str:
    renewal = f" until {budget['renewsAt']}" if budget.get("renewsAt") else ""
    return f"Budget for {str(budget['what']).replace('_', ' ')}: {budget['left']} left{renewal}."


def _delegate(agent: RemoteAgent) -> Delegate:
    return Delegate(agent.tool_name, agent.title, tuple(Skill(skill) for skill in agent.skills))
