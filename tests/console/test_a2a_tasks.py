"""What the console shows of A2A: an agent's exposure and skills, and tasks without what was said."""

from __future__ import annotations

from uuid import uuid4

import pytest

from a2a.models import Task
from orchestration.models import Agent
from tests.console.support import client_of, console_user, member_of, text_of
from tests.console.test_agents import added, form


def test_an_agent_is_exposed_with_skills_only_when_somebody_says_so():
    assert not added().exposed_over_a2a
    skills = '{"sums": {"name": "Sums", "description": "Adds."}}'
    agent = added(exposed_over_a2a="on", skills=skills)
    assert (agent.exposed_over_a2a, list(agent.skills)) == (True, ["sums"])


def test_skills_that_no_card_could_show_are_refused_by_name():
    values = form(skills='{"sums": {"name": "Sums"}}')
    response = member_of("Administrators").post("/admin/orchestration/agent/add/", values)
    assert "sums: description must be a text" in text_of(response)
    assert not Agent.objects.filter(slug=values["slug"]).exists()


@pytest.fixture
def task():
    said = {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": f"said-{uuid4().hex}"}]}
    made = Task.objects.create(
        public_id=str(uuid4()), context_id=str(uuid4()), owner_id=str(uuid4()), agent="assistant", history=[said]
    )
    yield made
    made.delete()


@pytest.mark.parametrize("group", ["Administrators", "Compliance", "Operators"])
def test_tasks_are_listed_and_shown_without_what_was_said(task: Task, group: str):
    client = member_of(group)
    listed = client.get(f"/admin/a2a/task/?q={task.public_id}")
    page = client.get(f"/admin/a2a/task/{task.pk}/change/")
    for response in (listed, page):
        assert response.status_code == 200
        assert task.public_id in text_of(response)
        assert task.history[0]["parts"][0]["text"] not in text_of(response)
    assert client.post(f"/admin/a2a/task/{task.pk}/delete/", {"post": "yes"}).status_code == 403


def test_tasks_are_for_those_who_may_see_them(task: Task):
    assert client_of(console_user()).get("/admin/a2a/task/").status_code == 403
