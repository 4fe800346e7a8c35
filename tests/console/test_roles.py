"""Roles and the rules about them in the console: saved as documents, each problem at its field, proposed where two must agree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from audit.actor import SYSTEM
from audit.models import AuditEvent
from tests.console.support import client_of, console_user, member_of, seen_on, text_of
from tools.changes import submit
from tools.documents import Document
from tools.documents.kinds import rule_name
from tools.models import ArgumentRule, CallerRole, ChangeRequest, DenyRule, Tool

ROLES = "/admin/tools/callerrole/"
DENIALS = "/admin/tools/denyrule/"
ARGUMENTS = "/admin/tools/argumentrule/"
SENT = {"_form_submitted": "on"}
SCHEMA = {"type": "object", "properties": {"amount": {"maximum": 100}}}


@pytest.fixture
def client() -> Client:
    return member_of("Administrators")


@pytest.fixture
def mark() -> Iterator[str]:
    """Begins the names of roles that are removed after the test."""
    found = f"r{uuid4().hex[:12]}"
    yield found
    CallerRole.objects.filter(name__startswith=found).delete()
    ChangeRequest.objects.filter(name__startswith=found).delete()


@pytest.fixture
def tool() -> Iterator[Tool]:
    name = f"test_{uuid4().hex[:12]}"
    spec = {
        "title": "T",
        "description": "D",
        "input_schema": {"type": "object"},
        "handler": {"function": "calculator_tool"},
    }
    submit(Document("Tool", name, spec), by=SYSTEM)
    yield Tool.objects.get(name=name)
    Tool.objects.filter(name=name).delete()
    ChangeRequest.objects.filter(name__startswith=f"{name}/").delete()


def page_of(obj: CallerRole | DenyRule | ArgumentRule) -> str:
    return f"/admin/tools/{obj._meta.model_name}/{obj.pk}/change/"


def remove(client: Client, obj: CallerRole | DenyRule | ArgumentRule) -> Any:
    return client.post(f"/admin/tools/{obj._meta.model_name}/{obj.pk}/remove/", {**SENT, "reason": "no longer needed"})


def described(name: str, **fields: Any) -> CallerRole:
    return CallerRole.objects.create(name=name, **fields)


def rule(tool: Tool, /, **changes: Any) -> dict[str, Any]:
    return {"tool": tool.pk, "role": "user", "schema": json.dumps(SCHEMA), "reason": "small ones only", **changes}


def actions_on(obj: Any) -> list[str]:
    return list(AuditEvent.objects.filter(target_id=str(obj.pk)).order_by("id").values_list("action", flat=True))


# --- roles


def test_a_role_is_made_changed_and_removed_and_each_is_recorded_once(mark: str):
    user = console_user("Administrators")
    client = client_of(user)
    lower = described(f"{mark}-lower")
    client.post(
        f"{ROLES}add/", {"name": mark, "description": "Reads", "inherits": [lower.pk], "change_reason": "new team"}
    )
    role = CallerRole.objects.get(name=mark)
    assert [other.name for other in role.inherits.all()] == [lower.name]

    page = page_of(role)
    client.post(page, {"name": "ignored", "description": "Reads all", "inherits": [], **seen_on(client, page)})
    role.refresh_from_db()
    assert (role.name, role.description, role.inherits.count()) == (mark, "Reads all", 0)

    assert remove(client, role)["HX-Redirect"] == ROLES
    assert not CallerRole.objects.filter(name=mark).exists()
    assert actions_on(role) == ["role.changed"] * 3
    assert AuditEvent.objects.filter(actor_id=f"console:{user.pk}", action__startswith="console.changed").count() == 0


def test_a_circle_of_roles_is_refused_at_its_field(client: Client, mark: str):
    lower = described(mark)
    upper = described(f"{mark}-upper")
    upper.inherits.add(lower)
    page = page_of(lower)
    response = client.post(page, {"description": "", "inherits": [upper.pk], **seen_on(client, page)})
    assert list(response.context["adminform"].form.errors) == ["inherits"]
    assert f"would inherit itself through '{upper.name}'." in text_of(response)
    assert lower.inherits.count() == 0


@pytest.mark.parametrize(("name", "field", "told"), [("no blanks", "name", ""), ("admin", "name", "already exists")])
def test_a_name_that_cannot_be_is_refused_at_its_field(client: Client, name: str, field: str, told: str):
    response = client.post(f"{ROLES}add/", {"name": name, "description": ""})
    assert list(response.context["adminform"].form.errors) == [field]
    assert told in text_of(response)


def test_a_page_that_was_opened_before_another_change_undoes_nothing(client: Client, mark: str):
    role = described(mark)
    page = page_of(role)
    older = seen_on(client, page)
    client.post(page, {"description": "from the newer page", **older})
    response = client.post(page, {"description": "from the older page", **older})
    assert "Somebody has changed this meanwhile." in text_of(response)
    assert "Somebody has changed this meanwhile." in text_of(client.post(page, {"description": "without saying"}))
    role.refresh_from_db()
    assert role.description == "from the newer page"


def test_the_roles_that_the_rules_know_stay(client: Client):
    role = CallerRole.objects.get(name="admin")
    assert remove(client, role)["HX-Redirect"] == page_of(role)
    assert "is part of the rules and cannot be removed" in text_of(client.get(page_of(role)))
    assert CallerRole.objects.filter(name="admin").exists()


# --- rules


def test_a_tool_is_forbidden_to_a_role_and_allowed_again(client: Client, tool: Tool):
    client.post(f"{DENIALS}add/", {"tool": tool.pk, "role": "user", "reason": "on hold"})
    found = DenyRule.objects.get(tool=tool)
    assert (rule_name(found), found.reason) == (f"{tool.name}/user", "on hold")
    assert "already exists" in text_of(
        client.post(f"{DENIALS}add/", {"tool": tool.pk, "role": "user", "reason": "again"})
    )
    page = page_of(found)
    client.post(page, {"reason": "still on hold", **seen_on(client, page)})
    found.refresh_from_db()
    assert (found.role, found.reason) == ("user", "still on hold")
    remove(client, found)
    assert not DenyRule.objects.filter(tool=tool).exists()
    assert actions_on(found) == ["rule.changed"] * 3


def test_a_rule_for_every_tool_and_everybody_needs_neither(client: Client, mark: str):
    client.post(f"{DENIALS}add/", {"tool": "", "role": mark, "reason": "gone"})
    found = DenyRule.objects.get(role=mark)
    assert found.tool is None
    listed = text_of(client.get(DENIALS, {"q": mark}))
    assert "every tool" in listed
    remove(client, found)
    assert not DenyRule.objects.filter(role=mark).exists()


def test_a_rule_on_arguments_is_made_and_changed(client: Client, tool: Tool):
    response = client.post(f"{ARGUMENTS}add/", rule(tool, role=""))
    assert response.status_code == 302, text_of(response)
    found = ArgumentRule.objects.get(tool=tool)
    assert (rule_name(found), found.schema) == (f"{tool.name}/*", SCHEMA)
    page = page_of(found)
    assert '"maximum": 100' in text_of(client.get(page))
    wider = {**SCHEMA, "properties": {}}
    client.post(page, {"schema": json.dumps(wider), "reason": "any", **seen_on(client, page)})
    found.refresh_from_db()
    assert (found.schema, found.reason) == (wider, "any")
    assert actions_on(found) == ["rule.changed"] * 2


@pytest.mark.parametrize(
    ("changes", "field", "told"),
    [
        ({"schema": "{"}, "schema", "valid JSON"),
        ({"schema": '{"type": "array"}'}, "schema", '"type": "object"'),
        ({"schema": '{"type": "object", "required": 1}'}, "schema", "required"),
        ({"schema": '{"type": "object", "title": "\\u0000"}'}, "schema", "cannot be kept"),
        ({"schema": '{"type": "object", "maximum": NaN}'}, "schema", "cannot be kept"),
        ({"tool": ""}, "tool", "required"),
        ({"role": "no blanks"}, "role", ""),
        ({"reason": ""}, "reason", "required"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_at_its_field(
    client: Client, tool: Tool, changes: dict[str, str], field: str, told: str
):
    response = client.post(f"{ARGUMENTS}add/", rule(tool, **changes))
    assert list(response.context["adminform"].form.errors) == [field]
    assert told in text_of(response)
    assert not ArgumentRule.objects.filter(tool=tool).exists()


# --- with four eyes


@pytest.fixture
def four_eyes(settings: Any) -> None:
    settings.FOUR_EYES = ["roles"]


@pytest.mark.usefixtures("four_eyes")
def test_with_four_eyes_nothing_changes_and_the_message_leads_to_the_proposal(client: Client, mark: str):
    role = described(mark, description="as it was")
    page = page_of(role)
    response = client.post(
        page, {"description": "new", "change_reason": "it is time", **seen_on(client, page)}, follow=True
    )
    proposal = ChangeRequest.objects.get(name=mark)
    assert "Nothing has changed yet: a second person must approve it." in text_of(response)
    assert f'href="/admin/tools/changerequest/{proposal.pk}/change/"' in response.content.decode()
    assert (proposal.reason, proposal.kind) == ("it is time", "Role")
    role.refresh_from_db()
    assert role.description == "as it was"
    assert actions_on(role) == []
    assert not LogEntry.objects.filter(object_id=str(role.pk)).exists()
    again = client.post(page, {"description": "newer", **seen_on(client, page)})
    assert f"Another change of {mark} waits for a decision already." in text_of(again)


@pytest.mark.usefixtures("four_eyes")
def test_with_four_eyes_additions_and_removals_are_proposed(client: Client, mark: str, tool: Tool):
    client.post(f"{ROLES}add/", {"name": f"{mark}-new", "description": ""})
    assert not CallerRole.objects.filter(name=f"{mark}-new").exists()
    client.post(f"{ARGUMENTS}add/", rule(tool))
    assert not ArgumentRule.objects.filter(tool=tool).exists()
    role = described(mark)
    assert remove(client, role)["HX-Redirect"] == ROLES
    assert CallerRole.objects.filter(name=mark).exists()
    proposed = ChangeRequest.objects.filter(name__in=[mark, f"{mark}-new", f"{tool.name}/user"])
    assert sorted(proposed.values_list("kind", "reason")) == [
        ("ArgumentRule", ""),
        ("Role", ""),
        ("Role", "no longer needed"),
    ]


# --- who may


@pytest.mark.parametrize("group", ["Operators", "Compliance"])
def test_who_may_only_look_changes_nothing(group: str, mark: str, tool: Tool):
    reader = member_of(group)
    role = described(mark)
    denial = DenyRule.objects.create(tool=tool, role="user", reason="on hold")
    arguments = ArgumentRule.objects.create(tool=tool, role="user", schema=SCHEMA, reason="small ones only")
    for obj in (role, denial, arguments):
        page = text_of(reader.get(page_of(obj)))
        assert "Why" not in page
        assert reader.post(page_of(obj), {"description": "x", "reason": "x"}).status_code == 403
        assert remove(reader, obj).status_code == 403
    for address in (ROLES, DENIALS, ARGUMENTS):
        assert reader.get(address).status_code == 200
        assert reader.get(f"{address}add/").status_code == 403


@pytest.mark.parametrize("address", [ROLES, DENIALS, ARGUMENTS])
def test_administrators_open_every_page(client: Client, address: str):
    assert client.get(address).status_code == 200
    assert client.get(f"{address}add/").status_code == 200


def test_nothing_is_removed_by_opening_a_page(client: Client, mark: str):
    role = described(mark)
    assert client.get(f"{ROLES}{role.pk}/remove/").status_code == 200
    assert client.get(f"{ROLES}{role.pk}/delete/").status_code == 403
    assert CallerRole.objects.filter(name=mark).exists()
