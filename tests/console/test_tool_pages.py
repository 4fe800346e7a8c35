"""The pages about one tool, and switching several: what they show, what they change, and who may do which."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

import audit
from audit.actor import SYSTEM, Actor
from audit.entry import Outcome, Target
from audit.models import AuditEvent
from tests.console.support import client_of, console_user, member_of, superuser, text_of
from tools.call_history import history_of
from tools.line_differences import field_differences
from tools.models import (
    ArgumentRule,
    CallerRole,
    ChangeRequest,
    DenyRule,
    RemoteServer,
    RemoteServerHealth,
    RemoteTool,
    Tool,
    ToolVersion,
)
from tools.versions import Definition, publish_version, switch_tool

TOOLS = "/admin/tools/tool/"
CALCULATOR = Definition(
    title="Calculator",
    description="Calculates.",
    input_schema={"type": "object", "properties": {}},
    handler={"function": "calculator_tool"},
    side_effects="idempotent",
)


def make_tool(**changes: Any) -> Tool:
    """A tool of its own with one version, switched off."""
    tool = Tool.objects.create(name=f"page_{uuid4().hex[:12]}", tags=changes.pop("tags", []))
    publish_version(tool, Definition(**{**CALCULATOR.as_dict(), **changes}), by=SYSTEM)
    return tool


@pytest.fixture
def tool() -> Tool:
    return make_tool()


@pytest.fixture
def four_eyes(settings: Any) -> None:
    settings.FOUR_EYES = ["tools"]


def page(tool: Tool, name: str) -> str:
    return f"{TOOLS}{tool.pk}/{name}/"


def form(definition: Definition = CALCULATOR, **changes: Any) -> dict[str, Any]:
    values = {**definition.as_dict(), "owner": "", "tags": "", "change_note": "", "base_version": 1}
    values |= {"required_credentials": ", ".join(definition.required_credentials), "output_schema": ""}
    values |= {name: json.dumps(values[name]) for name in ("input_schema", "handler")}
    return {name: value for name, value in {**values, **changes}.items() if value is not False}


def proposals_about(name: str) -> list[ChangeRequest]:
    return list(ChangeRequest.objects.filter(kind="Tool", name=name))


# --- saving


def test_a_new_tool_is_made_switched_off_with_its_first_version():
    name = f"page_{uuid4().hex[:12]}"
    response = member_of("Administrators").post(f"{TOOLS}add/", form(name=name, base_version=0, tags="sums"))
    made = Tool.objects.get(name=name)
    assert response.status_code == 302, text_of(response)
    assert (made.enabled, made.tags, made.current_version.number) == (False, ["sums"], 1)


def test_a_change_is_recorded_once_by_the_registry_with_what_changed_and_why(tool: Tool):
    user = console_user("Administrators")
    client_of(user).post(page(tool, "change"), form(owner="Team A", title="Sums", change_note="shorter"))
    recorded = AuditEvent.objects.filter(actor_id=f"console:{user.pk}", target_id__in=[tool.name, str(tool.pk)])
    assert {event.action for event in recorded} == {"tool.described", "tool.published"}
    assert recorded.count() == 2


@pytest.mark.usefixtures("four_eyes")
def test_a_change_that_needs_a_second_person_changes_nothing_and_leads_to_the_proposal(tool: Tool):
    client = member_of("Administrators")
    shown = text_of(client.post(page(tool, "change"), form(title="Sums", change_note="shorter"), follow=True))
    tool.refresh_from_db()
    (proposal,) = proposals_about(tool.name)
    assert "a second person must approve it" in shown
    assert tool.current_version.title == "Calculator"
    assert (proposal.after["title"], proposal.reason, proposal.status) == ("Sums", "shorter", "pending")
    assert "change waits" in text_of(client.get(TOOLS, {"q": tool.name}))


@pytest.mark.usefixtures("four_eyes")
def test_a_second_proposal_about_the_same_tool_is_refused_on_the_form(tool: Tool):
    client = member_of("Administrators")
    client.post(page(tool, "change"), form(title="Sums"))
    shown = text_of(client.post(page(tool, "change"), form(title="Other sums")))
    assert "Another change of this tool waits for a second person." in shown
    assert len(proposals_about(tool.name)) == 1


@pytest.mark.usefixtures("four_eyes")
def test_a_new_tool_that_needs_a_second_person_is_not_made():
    name = f"page_{uuid4().hex[:12]}"
    response = member_of("Administrators").post(f"{TOOLS}add/", form(name=name, base_version=0))
    assert response["Location"] == TOOLS
    assert not Tool.objects.filter(name=name).exists()
    assert len(proposals_about(name)) == 1


@pytest.mark.usefixtures("four_eyes")
def test_switching_on_waits_for_a_second_person_and_switching_off_does_not(tool: Tool):
    client = member_of("Administrators")
    client.post(page(tool, "switch-on"), {"_form_submitted": "on", "reason": "ready"})
    tool.refresh_from_db()
    assert not tool.enabled
    assert proposals_about(tool.name)[0].after["enabled"] is True

    switch_tool(tool, enabled=True, by=SYSTEM)
    client.post(page(tool, "switch-off"), {"_form_submitted": "on", "reason": "harm"})
    tool.refresh_from_db()
    assert not tool.enabled


def test_json_that_ends_early_is_shown_with_where_it_ends(tool: Tool):
    shown = text_of(member_of("Administrators").post(page(tool, "change"), form(input_schema='{\n "type": ')))
    assert "Line 2, column 10: Expecting value." in shown


def test_a_reader_sees_the_definition_and_no_form(tool: Tool):
    response = member_of("Operators").get(page(tool, "change"))
    shown = text_of(response)
    assert "Calculates." in shown
    assert "calculator_tool" in shown
    assert 'name="input_schema"' not in response.content.decode()


def test_the_form_says_which_credentials_are_missing_and_never_their_values(settings: Any):
    value = f"value-{uuid4()}"
    settings.TOOL_CREDENTIALS_FROM_ENVIRONMENT = {"PAGE_TOOL_API_KEY": value}
    tool = make_tool(required_credentials=["PAGE_TOOL_API_KEY", "OTHER_TOOL_API_KEY"])
    response = member_of("Administrators").get(page(tool, "change"))
    shown = text_of(response)
    assert re.search(r"PAGE_TOOL_API_KEY\s+in the environment", shown)
    assert re.search(r"OTHER_TOOL_API_KEY\s+missing", shown)
    assert value not in response.content.decode()


# --- versions


def two_versions() -> Tool:
    tool = make_tool()
    schema = {"type": "object", "properties": {"expression": {"type": "string"}}}
    changed = {**CALCULATOR.as_dict(), "input_schema": schema, "timeout_seconds": 3.0}
    publish_version(tool, Definition(**changed), by=SYSTEM, note="with an expression")
    return tool


def test_two_versions_are_compared_field_by_field():
    tool = two_versions()
    response = member_of("Operators").get(page(tool, "versions/compare"), {"a": "2", "b": "1"})
    shown = text_of(response)
    assert '+ "expression"' in shown
    assert re.search(r"timeout_seconds\s+30.0 .* 3.0", shown)
    assert "required_role" not in shown


@pytest.mark.parametrize("asked", [{"a": "7"}, {"a": "x"}, {"a": "1", "b": "99999999999"}])
def test_a_version_that_is_not_there_is_not_found(asked: dict[str, str]):
    assert superuser().get(page(two_versions(), "versions/compare"), asked).status_code == 404


def test_an_older_version_is_served_again_from_the_comparison_and_the_tool_stays_on():
    tool = two_versions()
    switch_tool(tool, enabled=True, by=SYSTEM)
    user = console_user("Administrators")
    address = page(tool, "versions/compare") + "?a=1&b=2"
    client_of(user).post(address, {"number": "1", "note": "was better"})
    tool.refresh_from_db()
    assert (tool.current_version.number, tool.current_version.timeout_seconds, tool.enabled) == (3, 30.0, True)
    assert tool.current_version.change_note == "Back to version 1. was better"
    assert tool.current_version.created_by == f"console:{user.pk}"


@pytest.mark.usefixtures("four_eyes")
def test_going_back_waits_for_a_second_person():
    tool = two_versions()
    member_of("Administrators").post(page(tool, "versions/compare") + "?a=1&b=2", {"number": "1"})
    assert ToolVersion.objects.filter(tool=tool).count() == 2
    assert proposals_about(tool.name)[0].reason == "Back to version 1."


def test_the_versions_page_lists_all_with_who_made_them_and_why():
    shown = text_of(member_of("Compliance").get(page(two_versions(), "versions")))
    assert "with an expression" in shown
    assert "served" in shown


def test_a_difference_of_texts_is_told_by_lines_and_one_of_numbers_by_values():
    found = field_differences({"a": "one\ntwo", "b": 1, "c": []}, {"a": "one\nthree", "b": 2, "c": []})
    assert [difference.name for difference in found] == ["a", "b"]
    assert [(line.kind, line.text) for line in found[0].lines] == [
        ("same", " one"),
        ("removed", "-two"),
        ("added", "+three"),
    ]
    assert (found[1].before, found[1].after, found[1].lines) == ("1", "2", [])


# --- who may call it


def rows_of(response: Any) -> dict[str, str]:
    """The table of answers: text by role."""
    tables = re.findall(r"(?s)<tr><th scope=\"row\">(.*?)</tr>", response.content.decode())
    texts = [re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", row)).strip() for row in tables]
    return {text.split()[0]: text for text in texts}


def test_every_described_role_is_answered_with_the_reason():
    role = f"analyst-{uuid4().hex[:8]}"
    CallerRole.objects.create(name=role)
    answers = rows_of(member_of("Operators").get(page(make_tool(required_role=role), "access")))
    assert " yes " in answers[role]
    assert "same_role" in answers[role]
    assert " no " in answers["user"]
    assert "role_required" in answers["user"]
    assert "passes" in answers["admin"]


def test_a_role_is_asked_about_with_arguments_and_told_which_rule_forbids_them():
    schema = {"type": "object", "properties": {"amount": {"type": "integer"}}}
    tool = make_tool(input_schema=schema)
    rule = {"type": "object", "properties": {"amount": {"maximum": 10}}}
    ArgumentRule.objects.create(tool=tool, role="user", schema=rule, reason="small amounts only")
    client = member_of("Operators")

    def asked(arguments: str) -> str:
        response = client.get(page(tool, "access"), {"role": "somebody-new", "arguments": arguments})
        return rows_of(response)["somebody-new"]

    assert "argument_rule" in asked('{"amount": 11}')
    assert "small amounts only" in asked('{"amount": 11}')
    assert "invalid_arguments" in asked('{"amount": "many"}')
    assert " yes " in asked('{"amount": 9}')
    assert "must be a JSON object" in text_of(client.get(page(tool, "access"), {"arguments": "[1]"}))


def test_deny_rules_are_listed_and_decide(tool: Tool):
    rule = DenyRule.objects.create(tool=tool, role="user", reason="not for users")
    response = member_of("Operators").get(page(tool, "access"))
    assert "deny_rule" in rows_of(response)["user"]
    assert f"/admin/tools/denyrule/{rule.pk}/change/" in response.content.decode()


def test_that_a_credential_is_missing_is_said_where_one_asks_who_may_call():
    tool = make_tool(required_credentials=["ABSENT_TOOL_API_KEY"])
    assert "no value is set for ABSENT_TOOL_API_KEY" in text_of(member_of("Operators").get(page(tool, "access")))


# --- calls


def record_call(tool: Tool, action: str, *, actor: str = "", reason: str = "", **details: Any) -> None:
    outcome = {"tool.denied": Outcome.DENIED, "tool.failed": Outcome.FAILURE}.get(action, Outcome.SUCCESS)
    with transaction.atomic():
        audit.record(
            action,
            actor=Actor(id=actor or str(uuid4()), role="user"),
            target=Target("tool", tool.name),
            outcome=outcome,
            reason=reason,
            policy_version=f"{tool.name}:1:abc",
            details={"origin": "run", **details},
        )


def test_figures_are_those_of_the_calls_and_leave_tests_of_the_console_out(tool: Tool):
    for milliseconds in (10, 20, 30, 400):
        record_call(tool, "tool.called", duration_ms=milliseconds, result="x")
    record_call(tool, "tool.failed", duration_ms=50, message="broken")
    record_call(tool, "tool.denied", reason="role_required")
    record_call(tool, "tool.failed", actor="console:1", origin="test", duration_ms=9000)
    record_call(tool, "tool.allowed")

    history = history_of(tool.name, with_details=False)
    figures = history.last_day
    assert (figures.calls, figures.failed, figures.denied, figures.error_percent) == (6, 1, 1, 20.0)
    assert (figures.p50_ms, figures.p95_ms, figures.limited) == (30, 400, False)
    assert (history.by_day.days[0].calls, len(history.by_day.days)) == (6, 7)
    assert len(history.last) == 7

    later = history_of(tool.name, with_details=False, now=timezone.now() + timedelta(days=2))
    assert (later.last_day.calls, later.last_week.calls, later.by_day.days[2].called) == (0, 6, 4)


def test_figures_say_when_they_are_of_the_last_calls_only(tool: Tool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tools.call_history.MOST_FIGURED", 3)
    monkeypatch.setattr("tools.call_history.MOST_COUNTED", 3)
    for _ in range(5):
        record_call(tool, "tool.called", duration_ms=1)
    history = history_of(tool.name, with_details=False)
    assert (history.last_week.calls, history.last_week.limited, history.by_day.limited) == (3, True, True)


@pytest.mark.parametrize(
    ("group", "sees_message"), [("Administrators", False), ("Operators", False), ("Compliance", True)]
)
def test_what_was_said_in_a_call_is_for_those_who_may_read_payloads(tool: Tool, group: str, sees_message: bool):
    record_call(tool, "tool.failed", reason="failed", duration_ms=12, message="the-secret-plan")
    user = console_user(group)
    shown = text_of(client_of(user).get(page(tool, "calls")))
    assert ("the-secret-plan" in shown) is sees_message
    assert "12 ms" in shown
    viewed = AuditEvent.objects.get(actor_id=f"console:{user.pk}", action="console.viewed", target_id=tool.name)
    assert viewed.reason == ("with_payload" if sees_message else "without_payload")


def test_calls_are_for_those_who_may_read_the_audit_trail(tool: Tool):
    user = console_user(permissions=("view_tool",))
    assert client_of(user).get(page(tool, "versions")).status_code == 200
    assert client_of(user).get(page(tool, "calls")).status_code == 403


def test_calls_are_read_from_an_index_with_few_queries(tool: Tool):
    client = superuser()
    client.get(page(tool, "calls"))
    with CaptureQueriesContext(connection) as captured:
        assert client.get(page(tool, "calls")).status_code == 200
    statements = [query["sql"] for query in captured if query["sql"].lstrip().startswith(("SELECT", "INSERT"))]
    reads = [sql for sql in statements if "FROM audit_events" in sql]
    assert len(reads) == 3
    assert len(statements) <= 9  # with the session, the user, the tool, and the record that somebody looked
    with transaction.atomic(using="owner"), connections["owner"].cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")  # empty partitions would be read whole otherwise, rightly
        for sql in reads:
            cursor.execute(f"EXPLAIN {sql}")
            plan = "\n".join(line for (line,) in cursor.fetchall())
            assert "Seq Scan" not in plan
            assert re.search(r"Index Cond: .*target_id", plan), plan


def test_a_tool_that_was_never_called_says_so(tool: Tool):
    assert "It was never called." in text_of(member_of("Operators").get(page(tool, "calls")))


# --- testing


TRICKY = {
    "type": "object",
    "properties": {
        "place": {"type": "string", "description": '<div x-init="alert(1)">Where</div>', "maxLength": 80},
        "unit": {"enum": ["C", "F"]},
        "days": {"type": "integer", "default": 3},
        "exact": {"type": "boolean"},
        "near": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["place"],
}


def test_the_test_form_has_a_field_for_each_property_and_writes_no_markup_of_a_schema():
    page_text = member_of("Administrators").get(page(make_tool(input_schema=TRICKY), "test")).content.decode()
    for name in TRICKY["properties"]:
        assert f'name="argument-{name}"' in page_text
    assert "<div x-init" not in page_text
    assert "&lt;div x-init" in page_text


def test_a_schema_that_is_no_flat_object_is_filled_in_as_json():
    schema = {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}
    page_text = member_of("Administrators").get(page(make_tool(input_schema=schema), "test")).content.decode()
    assert 'name="arguments"' in page_text


def test_arguments_that_the_form_can_judge_are_refused_at_their_field():
    tool = make_tool(input_schema=TRICKY)
    response = member_of("Administrators").post(page(tool, "test"), {"argument-days": "many", "role": "user"})
    assert "This field is required." in text_of(response)
    assert "Enter a whole number." in text_of(response)


def test_a_test_of_unsafe_effects_asks_whether_one_means_it():
    tool = make_tool(side_effects="unsafe")
    client = member_of("Administrators")
    assert "what it does may not be undone" in text_of(client.get(page(tool, "test")))
    assert "This field is required." in text_of(client.post(page(tool, "test"), {"role": "user"}))


def test_a_process_that_does_not_serve_says_that_it_calls_no_tools(tool: Tool):
    shown = text_of(member_of("Administrators").post(page(tool, "test"), {"role": "user"}))
    assert "This process does not serve, so it calls no tools." in shown


# --- who may do what


@pytest.mark.parametrize("group", ["Operators", "Compliance"])
def test_readers_open_the_pages_of_a_tool_but_do_not_test_or_change_it(tool: Tool, group: str):
    client = member_of(group)
    for name in ("change", "versions", "versions/compare", "access", "calls"):
        response = client.get(page(tool, name))
        assert response.status_code == 200, name
        assert page(tool, "test") not in response.content.decode()
    assert client.get(page(tool, "test")).status_code == 403
    assert client.post(page(tool, "test"), {"role": "user"}).status_code == 403
    assert client.post(page(tool, "versions/compare") + "?a=1&b=1", {"number": "1"}).status_code == 403
    assert client.post(page(tool, "change"), form(title="Taken over")).status_code == 403
    tool.refresh_from_db()
    assert tool.current_version.title == "Calculator"


def test_a_console_user_without_permissions_opens_none_of_them(tool: Tool):
    client = client_of(console_user())
    for name in ("test", "versions", "versions/compare", "access", "calls"):
        assert client.get(page(tool, name)).status_code == 403


# --- the list


@pytest.mark.parametrize(
    ("parameters", "shown"),
    [
        ({"type": "python_function"}, True),
        ({"type": "mcp_tool"}, False),
        ({"role": "filter-role"}, True),
        ({"role": "*"}, False),
        ({"tag": "filter-tag"}, True),
        ({"tag": "another"}, False),
    ],
)
def test_the_list_is_filtered(parameters: dict[str, str], shown: bool):
    tool = make_tool(required_role="filter-role", tags=["filter-tag"])
    response = member_of("Operators").get(TOOLS, {**parameters, "q": tool.name})
    assert (page(tool, "change") in response.content.decode()) is shown


def test_the_list_shows_how_the_server_of_a_remote_tool_is(tool: Tool):
    server = RemoteServer.objects.create(name=f"s{uuid4().hex[:12]}", url="https://mcp.example.org/")
    RemoteServerHealth.objects.create(server=server, failures_in_a_row=3, last_failure="no answer")
    remote = RemoteTool.objects.create(server=server, remote_name="x", tool=tool, state="imported", digest="0" * 64)
    client = member_of("Operators")
    assert "failing" in text_of(client.get(TOOLS, {"q": tool.name}))
    RemoteTool.objects.filter(pk=remote.pk).update(state="changed")
    assert "changed" in text_of(client.get(TOOLS, {"q": tool.name})).split("Changed (UTC)")[1]


def test_the_list_takes_the_same_queries_however_many_tools_there_are():
    client = superuser()
    client.get(TOOLS)
    counts = []
    for _ in range(2):
        with CaptureQueriesContext(connection) as captured:
            client.get(TOOLS)
        counts.append(len(captured))
        make_tool()
    assert counts[0] == counts[1]
    assert counts[0] <= 10


def chosen(action: str, *tools: Tool, **more: str) -> dict[str, Any]:
    return {"action": action, "_selected_action": [str(tool.pk) for tool in tools], **more}


def test_several_tools_are_switched_after_a_question_and_the_summary_names_them():
    user = console_user("Administrators")
    client = client_of(user)
    first, second = make_tool(), make_tool()
    switch_tool(second, enabled=True, by=SYSTEM)

    asked = client.post(TOOLS, chosen("switch_chosen_on", first, second))
    assert "Switch on 2 tools?" in text_of(asked)
    assert not Tool.objects.get(pk=first.pk).enabled

    confirmed = chosen("switch_chosen_on", first, second, confirmed="1", reason="all ready")
    shown = text_of(client.post(TOOLS, confirmed, follow=True))
    assert Tool.objects.get(pk=first.pk).enabled
    assert f"Switched on: {first.name}." in shown
    assert f"Already on: {second.name}." in shown
    assert AuditEvent.objects.filter(
        action="tool.enabled", actor_id=f"console:{user.pk}", target_id=first.name
    ).exists()


@pytest.mark.usefixtures("four_eyes")
def test_of_several_tools_each_is_proposed_by_itself():
    first, second = make_tool(), make_tool()
    client = member_of("Administrators")
    client.post(TOOLS, chosen("switch_chosen_on", first))  # only the question
    client.post(TOOLS, chosen("switch_chosen_on", first, confirmed="1"))
    shown = text_of(client.post(TOOLS, chosen("switch_chosen_on", first, second, confirmed="1"), follow=True))
    assert f"a second person must approve it: {second.name}." in shown
    assert f"Not switched on: {first.name}: Another change of {first.name} waits" in shown


@pytest.mark.parametrize("group", ["Operators", "Compliance"])
def test_readers_switch_no_tools_on_the_list(tool: Tool, group: str):
    client = member_of(group)
    assert "switch_chosen_on" not in client.get(TOOLS).content.decode()
    client.post(TOOLS, chosen("switch_chosen_on", tool, confirmed="1"))
    tool.refresh_from_db()
    assert not tool.enabled
