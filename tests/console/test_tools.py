"""Tools in the console: a change is a version, a switch is a POST in a dialog, and both need the permission."""

from __future__ import annotations

import json
import re
from typing import Any
from uuid import uuid4

import pytest

from audit.actor import SYSTEM
from audit.admin import linked
from audit.models import AuditEvent
from tests.console.support import client_of, console_user, member_of, text_of
from tools.models import Note, Tool, ToolVersion
from tools.versions import Definition, publish_version

TOOLS = "/admin/tools/tool/"
NO_VERSIONS = {"versions-TOTAL_FORMS": "0", "versions-INITIAL_FORMS": "0"}


@pytest.fixture
def tool() -> Tool:
    """A tool of its own with one version, switched off."""
    made = Tool.objects.create(name=f"console_{uuid4().hex[:12]}")
    definition = Definition(
        title="Calculator",
        description="Calculates.",
        input_schema={"type": "object", "properties": {}},
        handler={"function": "calculator_tool"},
    )
    publish_version(made, definition, by=SYSTEM)
    return made


def form(tool: Tool, **changes: Any) -> dict[str, Any]:
    served = tool.current_version
    assert served is not None
    values = {
        **Definition.of(served).as_dict(), "owner": "Team A", "tags": "sums, maths", "change_note": "clearer words",
        "base_version": served.number, "required_credentials": "", "output_schema": "",
    }  # fmt: skip
    values |= {name: json.dumps(values[name]) for name in ("input_schema", "handler")}
    return {**values, **NO_VERSIONS, **changes}


def page_of(tool: Tool) -> str:
    return f"{TOOLS}{tool.pk}/change/"


def action(tool: Tool, name: str) -> str:
    return f"{TOOLS}{tool.pk}/{name}/"


def test_a_change_publishes_a_version_in_the_name_of_who_made_it(tool: Tool):
    user = console_user("Administrators")
    response = client_of(user).post(page_of(tool), form(tool, description="Adds and divides."))
    assert response.status_code == 302, text_of(response)
    tool.refresh_from_db()
    assert tool.current_version is not None
    assert (tool.current_version.number, tool.current_version.description) == (2, "Adds and divides.")
    assert (tool.current_version.created_by, tool.current_version.change_note) == (
        f"console:{user.pk}",
        "clearer words",
    )
    assert (tool.owner, tool.tags) == ("Team A", ["sums", "maths"])
    published = AuditEvent.objects.get(action="tool.published", target_id=tool.name, actor_id=f"console:{user.pk}")
    assert published.outcome == "success"


def test_what_is_not_the_definition_makes_no_version(tool: Tool):
    client_of(console_user("Administrators")).post(page_of(tool), form(tool))
    tool.refresh_from_db()
    assert tool.owner == "Team A"
    assert ToolVersion.objects.filter(tool=tool).count() == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"input_schema": '{"type": "no such type"}'}, "no such type"),
        ({"input_schema": "{"}, "Enter a valid JSON."),
        ({"handler": '{"function": "no_such_function"}'}, "no_such_function"),
        ({"timeout_seconds": "0"}, "greater than or equal to 0.05"),
        ({"side_effects": "unsafe", "max_retries": "2"}, "never repeated"),
        ({"required_role": "two words"}, "two words"),
    ],
)
def test_a_definition_that_could_not_be_called_is_refused_at_its_field(tool: Tool, changes: dict[str, str], told: str):
    response = member_of("Administrators").post(page_of(tool), form(tool, **changes))
    assert response.status_code == 200
    assert told in text_of(response)
    assert ToolVersion.objects.filter(tool=tool).count() == 1


def test_a_change_made_on_an_older_page_does_not_undo_a_newer_version(tool: Tool):
    client = member_of("Administrators")
    older = form(tool, title="From the older page")
    client.post(page_of(tool), form(tool, title="From the newer page"))
    response = client.post(page_of(tool), older)
    assert "Somebody has published another version meanwhile." in text_of(response)
    tool.refresh_from_db()
    assert tool.current_version is not None
    assert tool.current_version.title == "From the newer page"


def test_saving_the_page_does_not_switch_the_tool(tool: Tool):
    client = member_of("Administrators")
    posted = form(tool, title="New title")
    Tool.objects.filter(pk=tool.pk).update(enabled=True)
    client.post(page_of(tool), posted)
    tool.refresh_from_db()
    assert tool.enabled


def test_a_tool_is_switched_by_a_post_only(tool: Tool):
    client = member_of("Administrators")
    assert client.get(action(tool, "switch-on")).status_code == 200
    tool.refresh_from_db()
    assert not tool.enabled
    response = client.post(action(tool, "switch-on"), {"_form_submitted": "on"})
    assert response["HX-Redirect"] == page_of(tool)
    tool.refresh_from_db()
    assert tool.enabled


@pytest.mark.parametrize("group", ["Operators", "Compliance"])
@pytest.mark.parametrize("name", ["switch-on", "go-back"])
def test_who_may_not_change_tools_may_not_switch_them(tool: Tool, group: str, name: str):
    response = member_of(group).post(action(tool, name), {"_form_submitted": "on", "number": "1"})
    assert response.status_code == 403
    tool.refresh_from_db()
    assert not tool.enabled


def test_an_older_version_is_served_again_as_a_new_one(tool: Tool):
    client = member_of("Administrators")
    client.post(page_of(tool), form(tool, title="Second"))
    response = client.post(action(tool, "go-back"), {"_form_submitted": "on", "number": "9"})
    assert "There is no version 9." in text_of(response)
    client.post(action(tool, "go-back"), {"_form_submitted": "on", "number": "1", "note": "was better"})
    tool.refresh_from_db()
    assert tool.current_version is not None
    assert (tool.current_version.number, tool.current_version.title) == (3, "Calculator")


def test_a_tool_is_found_by_its_name_as_the_audit_trail_writes_it(tool: Tool):
    Tool.objects.filter(pk=tool.pk).update(name=f"{tool.name}_40")  # the admin would read `_40` as `@`
    tool.refresh_from_db()
    found = re.search(r'href="([^"]+)"', linked("tool", tool.name, "the tool"))
    assert found is not None
    assert tool.name in text_of(member_of("Operators").get(found[1]))


def test_a_tool_is_never_deleted(tool: Tool):
    assert client_of(console_user(superuser=True)).get(f"{TOOLS}{tool.pk}/delete/").status_code == 403


@pytest.mark.parametrize("page", [TOOLS, f"{TOOLS}add/", "/admin/tools/callerrole/", "/admin/tools/callerrole/add/",
                                  "/admin/tools/denyrule/", "/admin/tools/denyrule/add/"])  # fmt: skip
def test_administrators_open_every_page_of_the_registry(page: str):
    assert member_of("Administrators").get(page).status_code == 200


def test_a_note_is_listed_without_what_stands_in_it():
    note = Note.objects.create(owner_id=str(uuid4()), title="Groceries", content="a very private matter")
    client = client_of(console_user(superuser=True))
    for page in (f"/admin/tools/note/?q={note.owner_id}", f"/admin/tools/note/{note.pk}/change/"):
        response = client.get(page)
        assert "Groceries" in text_of(response)
        assert "private matter" not in response.content.decode()


@pytest.mark.parametrize(
    "text", ["[" * 5000 + "]" * 5000, '{"a": "\\ud800"}', '{"a": "\\u0000"}', '{"a": 1' + "0" * 30 + "}"]
)
@pytest.mark.parametrize("field", ["input_schema", "handler"])
def test_json_that_cannot_be_kept_is_refused_at_its_field(tool: Tool, field: str, text: str):
    response = member_of("Administrators").post(page_of(tool), form(tool, **{field: text}))
    assert response.status_code == 200
    assert field in response.context["adminform"].form.errors


@pytest.mark.parametrize("address", ["/admin/tools/tool/?state=%00&tag=%00", "/admin/tools/changerequest/x/change/"])
def test_an_address_that_is_none_is_no_fault_of_the_service(address: str):
    assert member_of("Administrators").get(address).status_code in (200, 302, 404)
