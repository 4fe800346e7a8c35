"""The registry's things as documents: what is accepted, what is refused and at which field, and that all of it comes back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.core.exceptions import ValidationError
from django.db import transaction

from audit.actor import SYSTEM
from audit.models import AuditEvent
from tools.changes import submit
from tools.documents import Document, Spec, UnknownKindError, differences, fingerprint, kind_named, registered_kinds
from tools.documents.fields import completed
from tools.documents.kinds import definition_of
from tools.models import CallerRole, DenyRule, RemoteServer, Tool
from tools.schemas import DIALECT
from tools.versions import publish_version

FIELDS: dict[str, tuple[type, Any]] = {
    "text": (str, "none"), "number": (float, 1.0), "count": (int, 0), "on": (bool, False), "names": (list, []),
    "settings": (dict, ...),
}  # fmt: skip
DEFINITION = {
    "title": "A tool",
    "description": "Does it.",
    "input_schema": {"type": "object"},
    "handler": {"function": "calculator_tool"},
}


def deep(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


def problems_of(kind: str, name: str, spec: Spec) -> dict[str, list[str]]:
    """What is told at which field; under `""` what is about the whole."""
    found = kind_named(kind)
    try:
        found.check(name, found.complete(spec))
    except ValidationError as error:
        return error.message_dict if hasattr(error, "error_dict") else {"": error.messages}
    return {}


@pytest.fixture
def tool() -> Iterator[str]:
    name = f"test_{uuid4().hex[:12]}"
    submit(Document("Tool", name, DEFINITION), by=SYSTEM)
    yield name
    Tool.objects.filter(name=name).delete()


@pytest.fixture
def role() -> Iterator[str]:
    name = f"role-{uuid4().hex[:12]}"
    yield name
    CallerRole.objects.filter(name__startswith=name).delete()


# --- the form of a spec


def test_true_is_not_one():
    assert differences({"a": {"b": [True]}}, {"a": {"b": [1]}}) != {}


def test_what_is_not_said_gets_its_default():
    assert completed({"settings": {}}, FIELDS) == {
        "text": "none", "number": 1.0, "count": 0, "on": False, "names": [], "settings": {},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "field", "told"),
    [
        ({}, "settings", "required"),
        ({"colour": "red"}, "colour", "There is no field 'colour'; the fields are text,"),
        ({"text": 1}, "text", "Expected a text."),
        ({"text": None}, "text", "Expected a text."),
        ({"number": True}, "number", "Expected a number."),
        ({"number": float("nan")}, "number", "a number out of range"),
        ({"number": float("inf")}, "number", "a number out of range"),
        ({"count": 1.5}, "count", "Expected a whole number."),
        ({"count": True}, "count", "Expected a whole number."),
        ({"on": 1}, "on", "Expected true or false."),
        ({"names": "a"}, "names", "Expected a list."),
        ({"names": [1]}, "names", "Expected a list."),
        ({"settings": []}, "settings", "Expected an object."),
        ({"settings": {"a": ["x\0"]}}, "settings", "NUL"),
        ({"settings": {"a": "\ud800"}}, "settings", "half a character"),
        ({"settings": {"a": float("nan")}}, "settings", "a number out of range"),
        ({"text": "x\0"}, "text", "NUL"),
        ({"settings": {"x\0": 1}}, "settings", "NUL"),
        ({"settings": {"a": 1e300}}, "settings", "a number out of range"),
        ({"settings": {"a": 2**63}}, "settings", "a number out of range"),
        ({"settings": {"a": deep(200)}}, "settings", "too many levels"),
        ({"settings": {"a": object()}}, "settings", "cannot be kept"),
    ],
)
def test_what_does_not_fit_is_told_at_its_field(said: Spec, field: str, told: str):
    with pytest.raises(ValidationError) as refused:
        completed({"settings": {}, **said} if field != "settings" else said, FIELDS)
    assert list(refused.value.message_dict) == [field]
    assert told in refused.value.message_dict[field][0]


def test_a_text_that_only_writes_of_nul_is_kept():
    assert completed({"settings": {"pattern": r"[^\u0000]"}}, FIELDS)["settings"] == {"pattern": r"[^\u0000]"}


def test_differences_tell_nothing_from_absent():
    assert differences({"a": None, "b": 1}, {"b": 1}) == {"a": {"before": None, "after": None}}
    assert differences(None, {"a": 1}) == {"a": {"before": None, "after": 1}}


def test_a_fingerprint_depends_on_what_is_said_alone():
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint({"b": {"d": 3, "c": 2}, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint(None) == ""


# --- the kinds


def test_what_others_refer_to_stands_first():
    names = [kind.name for kind in registered_kinds()]
    assert names.index("Role") < names.index("Tool") < names.index("DenyRule") < names.index("ArgumentRule")
    with pytest.raises(UnknownKindError, match="There is no kind 'Tol'; the kinds are "):
        kind_named("Tol")


def test_what_is_written_is_read_again(tool: str, role: str):
    server = f"server-{uuid4().hex[:8]}"
    schema = {"$schema": DIALECT, "type": "object", "properties": {"n": {"maximum": 1.5}}}
    for kind_name, name, spec in (
        ("Role", role, {"description": "Reads.", "inherits": ["user"]}),
        (
            "Tool",
            tool,
            {**DEFINITION, "enabled": True, "tags": ["a"], "timeout_seconds": 5, "output_schema": {"type": "string"}},
        ),
        ("DenyRule", f"{tool}/{role}", {"reason": "on hold"}),
        ("DenyRule", f"{tool}/*", {"reason": "on hold"}),
        ("ArgumentRule", f"{tool}/{role}", {"schema": schema, "reason": "small ones only"}),
        ("RemoteServer", server, {"url": "https://mcp.example.org/mcp", "enabled": False}),
    ):
        kind = kind_named(kind_name)
        submit(Document(kind_name, name, spec), by=SYSTEM)
        assert kind.read(name) == kind.complete(spec)
        assert name in kind.names()
    RemoteServer.objects.filter(name=server).delete()


def test_a_rule_for_all_tools_has_a_star(role: str):
    submit(Document("DenyRule", f"*/{role}", {"reason": "gone"}), by=SYSTEM)
    assert DenyRule.objects.get(role=role).tool is None
    submit(Document("DenyRule", f"*/{role}", None), by=SYSTEM)
    assert kind_named("DenyRule").read(f"*/{role}") is None


@pytest.mark.parametrize("kind", ["DenyRule", "ArgumentRule"])
@pytest.mark.parametrize("name", ["{tool}", "{tool}/", "/user"])
def test_a_rule_has_one_name_only(tool: str, kind: str, name: str):
    spec = {"reason": "r"} if kind == "DenyRule" else {"reason": "r", "schema": {"type": "object"}}
    submit(Document(kind, f"{tool}/*", spec), by=SYSTEM)
    written = name.format(tool=tool)
    assert kind_named(kind).read(written) is None
    assert "expected tool/role" in problems_of(kind, written, spec)[""][0]


@pytest.mark.parametrize(
    ("kind", "name", "spec", "field", "told"),
    [
        ("Role", "no blanks", {}, "name", ""),
        ("Role", "new-role", {"inherits": ["nobody-has-this"]}, "inherits", "There is no role 'nobody-has-this'."),
        ("Role", "new-role", {"inherits": ["new-role"]}, "inherits", "would inherit itself"),
        ("DenyRule", "no_such_tool/user", {"reason": "r"}, "", "There is no tool 'no_such_tool'."),
        ("DenyRule", "*/no blanks", {"reason": "r"}, "role", ""),
        ("DenyRule", "*/user", {"reason": ""}, "reason", "blank"),
        ("DenyRule", "*/user", {"reason": "x" * 301}, "reason", "at most 300"),
        ("ArgumentRule", "*/user", {"schema": {"type": "object"}, "reason": "r"}, "", "needs a tool"),
        ("ArgumentRule", "{tool}/user", {"schema": {"type": "array"}, "reason": "r"}, "schema", '"type": "object"'),
        (
            "ArgumentRule",
            "{tool}/user",
            {"schema": {"type": "object", "required": 1}, "reason": "r"},
            "schema",
            "required",
        ),
        ("ArgumentRule", "{tool}/user", {"schema": {}, "reason": "r"}, "schema", "blank"),
        ("RemoteServer", "here", {"url": "http://"}, "url", "http:// or https://"),
        ("RemoteServer", "here", {"url": "https://u:p@example.org"}, "url", "without a login"),
        ("RemoteServer", "here", {"url": "http://169.254.169.254/mcp"}, "url", "not a public one"),
        ("RemoteServer", "here", {"url": "http://[::ffff:10.0.0.1]/"}, "url", "not a public one"),
        ("RemoteServer", "here", {"url": "http://0x0a.1/"}, "url", "not a public one"),
        ("RemoteServer", "here", {"url": "https://example.org/mcp?api_key=1"}, "url", "make it a credential"),
        ("RemoteServer", "here", {"url": "https://example.org/mcp#x"}, "url", "no fragment"),
        ("RemoteServer", "here", {"url": "https://example.org", "timeout_seconds": 0}, "timeout_seconds", "0.1"),
        ("Tool", "a_tool", {**DEFINITION, "input_schema": {"type": "array"}}, "input_schema", '"type": "object"'),
        ("Tool", "a_tool", {**DEFINITION, "handler": {"function": "none_such"}}, "handler", "none_such"),
        ("Tool", "a_tool", {**DEFINITION, "title": ""}, "title", "blank"),
        ("Tool", "a tool", DEFINITION, "name", ""),
    ],
)
def test_what_cannot_be_written_is_refused_at_its_field(
    tool: str, kind: str, name: str, spec: Spec, field: str, told: str
):
    found = problems_of(kind, name.format(tool=tool), spec)
    assert list(found) == [field]
    assert told in " ".join(found[field])


def test_a_circle_of_roles_is_refused(role: str):
    upper = f"{role}-upper"
    submit(Document("Role", role, {}), by=SYSTEM)
    submit(Document("Role", upper, {"inherits": [role]}), by=SYSTEM)
    assert (
        f"The role {role!r} would inherit itself through {upper!r}."
        in problems_of("Role", role, {"inherits": [upper]})["inherits"]
    )


@pytest.mark.parametrize("name", ["user", "admin"])
def test_the_roles_that_the_rules_know_stay(name: str):
    with pytest.raises(ValidationError, match="part of the rules"):
        submit(Document("Role", name, None), by=SYSTEM)


def test_removing_a_role_records_what_those_lose_that_inherit_it(role: str):
    upper = f"{role}-upper"
    submit(Document("Role", role, {}), by=SYSTEM)
    submit(Document("Role", upper, {"inherits": ["user", role]}), by=SYSTEM)
    heir = CallerRole.objects.get(name=upper)
    submit(Document("Role", role, None), by=SYSTEM)
    assert kind_named("Role").read(upper) == {"description": "", "inherits": ["user"]}
    assert AuditEvent.objects.filter(action="role.changed", target_id=str(heir.pk)).count() == 2


def test_a_tool_is_never_removed_only_switched_off(tool: str):
    submit(Document("Tool", tool, {**DEFINITION, "enabled": True}), by=SYSTEM)
    submit(Document("Tool", tool, None), by=SYSTEM)
    assert not Tool.objects.get(name=tool).enabled


def test_saying_the_same_of_a_tool_makes_no_version(tool: str):
    submit(Document("Tool", tool, {**DEFINITION, "owner": "somebody", "enabled": True}), by=SYSTEM)
    version = Tool.objects.get(name=tool).current_version
    assert version is not None
    assert version.number == 1


def test_what_the_registry_cannot_write_leaves_nothing_half_written(tool: str):
    kind = kind_named("Tool")
    spec = kind.complete({**DEFINITION, "owner": "another"})
    with pytest.raises(ValidationError), transaction.atomic():
        kind.write(tool, {**spec, "handler": {"function": "none_such"}}, by=SYSTEM, note="")
    assert Tool.objects.get(name=tool).owner == ""
    publish_version(Tool.objects.get(name=tool), definition_of(spec), by=SYSTEM)
