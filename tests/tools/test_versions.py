"""Publishing versions, going back, switching tools on and off."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from django.core.exceptions import ValidationError
from django.db import DatabaseError, connection, connections, transaction

from audit.actor import Actor
from audit.models import AuditEvent, AuditPayload
from tools.models import Tool, ToolVersion
from tools.versions import Definition, differences, digest_of, publish_version, roll_back, switch_tool

ADMINISTRATOR = Actor(id="console:1", kind="console", authenticated_by="console_session")
DEFINITION = Definition(
    title="Calculator",
    description="Calculates.",
    input_schema={"type": "object", "properties": {"expression": {"type": "string"}}},
    handler={"function": "calculator_tool"},
)


@pytest.fixture
def tool() -> Iterator[Tool]:
    tool = Tool.objects.create(name=f"test_{uuid4().hex[:12]}")
    yield tool
    tool.delete()


def publish(tool: Tool, **changes: Any) -> ToolVersion:
    return publish_version(tool, replace(DEFINITION, **changes), by=ADMINISTRATOR, note="for a test")


def recorded(tool: Tool) -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(target_kind="tool", target_id=tool.name).order_by("id"))


def test_a_version_is_numbered_signed_and_served(tool: Tool):
    version = publish(tool)

    tool.refresh_from_db()
    assert tool.current_version == version
    assert (version.number, version.created_by, version.change_note) == (1, "console:1", "for a test")
    assert version.digest == digest_of(tool.name, DEFINITION)


def test_saving_without_a_change_makes_no_version(tool: Tool):
    assert publish(tool) == publish(tool)
    assert tool.versions.count() == 1


def test_true_is_not_taken_for_one(tool: Tool):
    for default in (1, True):
        schema = {"type": "object", "properties": {"x": {"default": default}}}
        publish(tool, input_schema=schema)
    assert tool.versions.count() == 2
    assert tool.current_version.input_schema["properties"]["x"]["default"] is True


def test_what_is_seen_moves_the_digest_and_how_it_is_governed_does_not(tool: Tool):
    first = publish(tool)
    governed = publish(tool, required_role="admin", timeout_seconds=5.0)
    described = publish(tool, description="Calculates exactly.")

    assert [version.number for version in (first, governed, described)] == [1, 2, 3]
    assert first.digest == governed.digest != described.digest


def test_the_order_of_keys_does_not_move_the_digest(tool: Tool):
    turned = {"properties": DEFINITION.input_schema["properties"], "type": "object"}

    assert digest_of("x", DEFINITION) == digest_of("x", replace(DEFINITION, input_schema=turned))
    assert digest_of("x", DEFINITION) != digest_of("y", DEFINITION)


def test_the_database_refuses_to_change_a_version(tool: Tool):
    version = publish(tool)

    with pytest.raises(DatabaseError, match="never change"):
        ToolVersion.objects.filter(pk=version.pk).update(title="another")
    with pytest.raises(DatabaseError, match="never change"), transaction.atomic(using="owner"):
        ToolVersion.objects.using("owner").filter(pk=version.pk).update(required_role="")


def test_a_publication_is_recorded_with_what_changed(tool: Tool):
    publish(tool)
    publish(tool, required_role="analyst")

    first, second = recorded(tool)
    assert first.action == second.action == "tool.published"
    assert second.actor_id == "console:1"
    assert second.fields()["policy_version"].startswith(f"{tool.name}:2:")
    details = AuditPayload.objects.get(event=second).body
    assert b'"changes":{"required_role":{"after":"analyst","before":""}}' in bytes(details)


def test_going_back_is_a_new_version_that_says_the_old(tool: Tool):
    first = publish(tool)
    publish(tool, title="Another")

    back = roll_back(tool, 1, by=ADMINISTRATOR, note="It was better.")

    assert (back.number, back.title, back.digest) == (3, "Calculator", first.digest)
    assert back.change_note == "Back to version 1. It was better."


def test_going_back_to_a_version_that_there_is_not_is_refused(tool: Tool):
    publish(tool)
    with pytest.raises(ToolVersion.DoesNotExist):
        roll_back(tool, 7, by=ADMINISTRATOR)


@pytest.mark.parametrize(
    ("changes", "field", "told"),
    [
        ({"input_schema": {"type": "strin"}}, "input_schema", "type"),
        ({"input_schema": {"type": "array"}}, "input_schema", '"type": "object"'),
        ({"input_schema": []}, "input_schema", "must be a JSON object"),
        ({"input_schema": {"type": "object", "maxProperties": 1e30}}, "input_schema", "out of range"),
        ({"input_schema": {"type": "object", "$ref": "http://127.0.0.1/x"}}, "input_schema", "127.0.0.1"),
        ({"input_schema": {"type": "object", "$ref": "file:///etc/passwd"}}, "input_schema", "not followed"),
        ({"input_schema": {"type": "object", "$ref": "#/nowhere"}}, "input_schema", "does not exist"),
        ({"input_schema": {"type": "object", "properties": {"a": {"pattern": "("}}}}, "input_schema", "regex"),
        ({"input_schema": {"type": "object", "description": "x" * 70_000}}, "input_schema", "larger than"),
        (
            {"input_schema": {"type": "object", "$schema": "http://json-schema.org/draft-07/schema#"}},
            "input_schema",
            "2020-12",
        ),
        ({"output_schema": {"type": "nothing"}}, "output_schema", "type"),
        ({"handler": {"function": "os.system"}}, "handler", "no registered function 'os.system'"),
        ({"handler": {}}, "handler", "no registered function"),
        ({"handler_type": "http_endpoint"}, "handler", "url"),
        ({"handler_type": "fax"}, "handler", "cannot be carried out"),
        ({"required_credentials": ["lower"]}, "required_credentials", "capitals"),
        ({"required_credentials": ["VAULT_KEYS"]}, "required_credentials", "a setting of the service itself"),
        ({"required_credentials": ["DJANGO_SECRET_KEY"]}, "required_credentials", "a setting of the service"),
        ({"required_credentials": ["PGPASSWORD"]}, "required_credentials", "a setting of the service"),
        ({"required_role": "two words"}, "required_role", "not the name of a role"),
        ({"max_retries": 2, "side_effects": "unsafe"}, "max_retries", "never repeated"),
        (
            {
                "handler": {"function": "get_note_tool"},
                "side_effects": "idempotent",
                "cache_seconds": 60,
                "cache_scope": "role",
            },
            "cache_seconds",
            "for that user only",
        ),
        ({"timeout_seconds": 100_000.0}, "timeout_seconds", "600"),
        ({"output_limit_bytes": 1}, "output_limit_bytes", "256"),
        ({"title": ""}, "title", "blank"),
        ({"side_effects": "harmless"}, "side_effects", "not a valid choice"),
    ],
)
def test_what_cannot_be_called_is_refused_field_by_field(tool: Tool, changes: dict[str, Any], field: str, told: str):
    with pytest.raises(ValidationError) as refused:
        publish(tool, **changes)

    assert told in " ".join(refused.value.message_dict[field])
    assert tool.versions.count() == 0


def test_publishing_at_once_gives_each_its_own_number(tool: Tool):
    def one(number: int) -> int:
        try:
            return publish(Tool.objects.get(pk=tool.pk), title=f"Title {number}").number
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(one, range(4))) == [1, 2, 3, 4]


def test_a_switch_is_recorded_once(tool: Tool):
    publish(tool)

    assert switch_tool(tool, enabled=True, by=ADMINISTRATOR)
    assert not switch_tool(tool, enabled=True, by=ADMINISTRATOR)
    assert switch_tool(tool, enabled=False, by=ADMINISTRATOR)

    assert [event.action for event in recorded(tool)] == ["tool.published", "tool.enabled", "tool.disabled"]
    assert not Tool.objects.get(pk=tool.pk).enabled


def test_a_tool_without_a_version_cannot_be_switched_on(tool: Tool):
    with pytest.raises(ValidationError, match="no version yet"):
        switch_tool(tool, enabled=True, by=ADMINISTRATOR)


def test_the_name_of_a_tool_has_its_form_in_the_database_too():
    with pytest.raises(DatabaseError, match="tool_name_form"), transaction.atomic():
        Tool.objects.create(name="no spaces allowed")


def test_every_change_moves_the_revision_when_it_is_committed_and_not_before(tool: Tool):
    def revision(using: str) -> int:
        with connections[using].cursor() as cursor:
            cursor.execute("SELECT revision FROM tools_registryrevision")
            return int(cursor.fetchone()[0])

    before = revision("owner")
    with transaction.atomic():
        publish(tool)
        assert revision("owner") == before
        assert connection.in_atomic_block
    assert revision("owner") > before


def test_differences_name_what_changed_with_before_and_after():
    assert differences(DEFINITION, replace(DEFINITION, title="X")) == {"title": {"before": "Calculator", "after": "X"}}
    assert set(differences(None, DEFINITION)) == set(DEFINITION.as_dict())
