"""Agents in the console: exactly one answers by default, and their tools come from the registry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from audit.actor import Actor
from audit.models import AuditEvent
from orchestration.models import Agent
from tests.console.support import client_of, console_user, member_of, text_of
from tools.changes import approve
from tools.models import ChangeRequest

AGENTS = "/admin/orchestration/agent/"


def form(**changes: Any) -> dict[str, Any]:
    """What the page of an agent posts; None leaves a field out, as a browser does with a box that is not ticked."""
    name = f"Agent {uuid4().hex[:8]}"
    values = {
        "name": name, "slug": name.lower().replace(" ", "-"), "description": "", "instructions": "Be brief.",
        "enabled": "on", "history_token_budget": "4000", "prompting": "native", "planning": "on", "summarise_history": "on",
        "tools": ["calculator_tool"],
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


def test_an_output_schema_that_cannot_be_used_is_refused():
    for schema, told in (
        ('{"type": "nothing"}', "is not valid"),
        ('{"$ref": "https://example.org/x"}', "are not followed"),
    ):
        values = form(output_schema=schema)
        assert told in text_of(member_of("Administrators").post(f"{AGENTS}add/", values))
        assert not Agent.objects.filter(slug=values["slug"]).exists()
    assert added(output_schema='{"type": "object"}').output_schema == {"type": "object"}


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


def test_what_is_changed_is_recorded_once_with_who_and_why():
    agent = added()
    user = console_user("Administrators")

    changed = form(name=agent.name, instructions="Be long.", change_note="They asked for it.")
    assert client_of(user).post(page_of(agent), changed).status_code == 302

    recorded = AuditEvent.objects.filter(actor_id=f"console:{user.pk}", target_id=str(agent.pk))
    assert [event.action for event in recorded] == ["agent.changed"]
    details = recorded[0].payload.unpacked().body.decode()
    assert "They asked for it." in details
    assert '"instructions":{"after":"Be long.","before":"Be brief."}' in details


def test_saving_what_is_there_already_changes_nothing():
    agent = added()
    user = console_user("Administrators")

    assert client_of(user).post(page_of(agent), form(name=agent.name)).status_code == 302

    assert not AuditEvent.objects.filter(actor_id=f"console:{user.pk}", action="agent.changed").exists()


def test_lines_are_kept_as_files_end_them_not_as_browsers_do():
    assert added(instructions="One.\r\nTwo.").instructions == "One.\nTwo."


def test_each_problem_stands_at_its_field():
    values = form(temperature="9", name="")
    page = text_of(member_of("Administrators").post(f"{AGENTS}add/", values))
    assert "less than or equal to 2" in page
    assert "This field is required." in page
    assert not Agent.objects.filter(slug=values["slug"]).exists()


def test_an_agent_without_threads_can_be_deleted():
    agent = added()
    user = console_user("Administrators")

    response = client_of(user).post(f"{AGENTS}{agent.pk}/delete/", {"post": "yes"}, follow=True)

    assert "was deleted successfully" in text_of(response)
    assert not Agent.objects.filter(pk=agent.pk).exists()
    recorded = AuditEvent.objects.filter(actor_id=f"console:{user.pk}", action="agent.changed", target_id=str(agent.pk))
    assert recorded.count() == 1


@pytest.fixture
def agents_need_two(settings: Any) -> None:
    settings.FOUR_EYES = ["agents"]


def proposal_about(slug: str) -> ChangeRequest:
    return ChangeRequest.objects.get(kind="Agent", name=slug, status="pending")


def test_a_change_that_needs_a_second_person_is_proposed_and_not_saved(agents_need_two: None):
    agent = Agent.objects.create(slug=f"a-{uuid4().hex[:8]}", name="An agent", instructions="Be brief.")
    user = console_user("Administrators")

    response = client_of(user).post(
        page_of(agent), form(name="Another", instructions="Be long.", change_note="Better."), follow=True
    )

    page = text_of(response)
    assert f"The change of {agent.slug} is proposed: a second person must approve it." in page
    assert "was changed successfully" not in page
    agent.refresh_from_db()
    assert (agent.name, agent.instructions) == ("An agent", "Be brief.")
    proposal = proposal_about(agent.slug)
    assert (proposal.proposed_by, proposal.reason) == (f"console:{user.pk}", "Better.")
    assert not AuditEvent.objects.filter(actor_id=f"console:{user.pk}", action="agent.changed").exists()

    assert approve(proposal, by=Actor(id="console:0", kind="console"))
    agent.refresh_from_db()
    assert (agent.name, agent.instructions) == ("Another", "Be long.")


def test_a_new_agent_that_needs_a_second_person_is_proposed(agents_need_two: None):
    values = form()

    response = member_of("Administrators").post(f"{AGENTS}add/", values, follow=True)

    assert "is proposed: a second person must approve it." in text_of(response)
    assert not Agent.objects.filter(slug=values["slug"]).exists()
    assert proposal_about(values["slug"]).after["tools"] == ["calculator_tool"]


def test_a_second_proposal_about_the_same_agent_is_refused(agents_need_two: None):
    agent = Agent.objects.create(slug=f"a-{uuid4().hex[:8]}", name="An agent")
    client = member_of("Administrators")
    client.post(page_of(agent), form(name="One"))

    page = text_of(client.post(page_of(agent), form(name="Two"), follow=True))

    assert f"Nothing was saved: Another change of {agent.slug} waits for a decision already." in page
    assert proposal_about(agent.slug).after["title"] == "One"


def test_a_deletion_that_needs_a_second_person_is_proposed(agents_need_two: None):
    agent = Agent.objects.create(slug=f"a-{uuid4().hex[:8]}", name="An agent")

    response = member_of("Administrators").post(f"{AGENTS}{agent.pk}/delete/", {"post": "yes"}, follow=True)

    page = text_of(response)
    assert "is proposed: a second person must approve it." in page
    assert "was deleted successfully" not in page
    assert Agent.objects.filter(pk=agent.pk).exists()
    assert proposal_about(agent.slug).after is None


def test_an_agent_is_switched_off_at_once_by_one_person(agents_need_two: None):
    agent = Agent.objects.create(slug=f"a-{uuid4().hex[:8]}", name="An agent", history_token_budget=4000)

    member_of("Administrators").post(
        page_of(agent), form(name=agent.name, instructions="", tools=None, enabled=None), follow=True
    )

    agent.refresh_from_db()
    assert not agent.enabled
