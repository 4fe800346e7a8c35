"""Agents in the console: exactly one answers by default, and their tools come from the registry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from audit.models import AuditEvent
from orchestration.models import Agent
from tests.console.support import member_of, text_of

AGENTS = "/admin/orchestration/agent/"


def form(**changes: Any) -> dict[str, Any]:
    """What the page of an agent posts; None leaves a field out, as a browser does with a box that is not ticked."""
    name = f"Agent {uuid4().hex[:8]}"
    values = {
        "name": name, "slug": name.lower().replace(" ", "-"), "description": "", "instructions": "Be brief.",
        "enabled": "on", "history_token_budget": "4000", "tools": ["calculator_tool"],
    }  # fmt: skip
    return {key: value for key, value in {**values, **changes}.items() if value is not None}


def page_of(agent: Agent) -> str:
    return f"{AGENTS}{agent.pk}/change/"


def added(**changes: Any) -> Agent:
    values = form(**changes)
    response = member_of("Administrators").post(f"{AGENTS}add/", values)
    assert response.status_code == 302, text_of(response)
    return Agent.objects.get(slug=values["slug"])


@pytest.fixture
def seeded_default() -> Iterator[Agent]:
    """The default agent that everybody else relies on; it is the default again afterwards."""
    agent = Agent.objects.get(is_default=True)
    yield agent
    Agent.objects.exclude(pk=agent.pk).update(is_default=False)
    Agent.objects.filter(pk=agent.pk).update(is_default=True)


def test_an_agent_is_made_with_tools_of_the_registry():
    agent = added()
    assert agent.tools == ["calculator_tool"]
    assert agent.enabled
    assert not agent.is_default


def test_a_tool_that_is_not_there_cannot_be_chosen():
    values = form(tools=["no_such_tool"])
    response = member_of("Administrators").post(f"{AGENTS}add/", values)
    assert "no_such_tool is not one of the available choices" in text_of(response)
    assert not Agent.objects.filter(slug=values["slug"]).exists()


def test_a_chosen_tool_that_has_gone_is_still_shown_so_that_a_person_can_remove_it():
    agent = added()
    Agent.objects.filter(pk=agent.pk).update(tools=["a_tool_of_yesterday"])
    page = text_of(member_of("Administrators").get(page_of(agent)))
    assert "a_tool_of_yesterday (not in the registry)" in page


def test_a_new_default_agent_takes_the_place_of_the_one_before(seeded_default: Agent):
    agent = added()
    client = member_of("Administrators")
    response = client.post(page_of(agent), form(name=agent.name, is_default="on"))
    assert response.status_code == 302, text_of(response)
    assert [found.pk for found in Agent.objects.filter(is_default=True)] == [agent.pk]
    recorded = AuditEvent.objects.filter(action="agent.changed", target_kind="orchestration.agent")
    assert {str(agent.pk), str(seeded_default.pk)} <= set(recorded.values_list("target_id", flat=True))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"is_default": None, "enabled": "on"}, "Make another agent the default one instead."),
        ({"is_default": "on", "enabled": None}, "The default agent must be enabled."),
    ],
)
def test_there_is_always_an_enabled_default_agent(seeded_default: Agent, changes: dict[str, Any], told: str):
    response = member_of("Administrators").post(page_of(seeded_default), form(name=seeded_default.name, **changes))
    assert told in text_of(response)
    seeded_default.refresh_from_db()
    assert seeded_default.is_default
    assert seeded_default.enabled


def test_the_default_agent_cannot_be_deleted(seeded_default: Agent):
    assert member_of("Administrators").get(f"{AGENTS}{seeded_default.pk}/delete/").status_code == 403


def test_operators_read_agents_and_change_nothing():
    agent = added()
    client = member_of("Operators")
    assert "Be brief." in text_of(client.get(page_of(agent)))
    assert client.post(page_of(agent), form(instructions="Be rude.")).status_code == 403
