"""`manage.py registry`: what is exported can be applied, applied is all or nothing, and nothing unchecked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.conf import settings as service_settings
from django.core.management import CommandError, call_command

from audit.actor import Actor
from audit.models import AuditEvent, AuditPayload
from orchestration.models import Agent
from tools.changes import approve
from tools.configuration import applying
from tools.configuration.applying import PlanChangedError, apply_documents
from tools.configuration.reading import read_files
from tools.models import ArgumentRule, CallerRole, ChangeRequest, DenyRule, RegistryRevision, RemoteServer, Tool
from tools.python_functions import tool_function, unregister
from tools.seed import seed_tools
from tools.versions import Definition, publish_version, switch_tool

SOMEBODY_ELSE = Actor(id="console:7", kind="console")


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended."""

    code: int
    output: str
    errors: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.output)

    @property
    def states(self) -> dict[str, str]:
        return {change["name"]: change["state"] for change in self.json["changes"]}


def registry(*arguments: str) -> Result:
    """Run the command, as from a shell."""
    output, errors = StringIO(), StringIO()
    try:
        call_command("registry", *arguments, stdout=output, stderr=errors, no_color=True)
    except SystemExit as end:
        return Result(int(end.code or 0), output.getvalue(), errors.getvalue())
    except CommandError as error:
        return Result(error.returncode, output.getvalue(), f"{errors.getvalue()}{error}")
    return Result(0, output.getvalue(), errors.getvalue())


def revision() -> int:
    return RegistryRevision.objects.get(pk=1).revision


class Files:
    """Documents of this test in a folder, under names that nothing else has; what they made is gone afterwards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = f"t{uuid4().hex[:10]}"

    def named(self, name: str) -> str:
        return f"{self.mark}-{name}"

    def write(self, text: str, name: str = "all.yaml") -> str:
        """Write a file: NAME- becomes this test's own mark. Returns the folder."""
        documents = text.replace("NAME-", f"{self.mark}-").split("---\n")
        self.folder.joinpath(name).write_text(
            "---\n".join(f"apiVersion: agentbackend/v1\n{body}" for body in documents)
        )
        return str(self.folder)

    def apply(self, text: str, *arguments: str) -> Result:
        return registry("apply", self.write(text), "--yes", *arguments)

    def remove_what_was_made(self) -> None:
        mine = f"{self.mark}-"
        Agent.objects.filter(slug__startswith=mine).delete()
        ArgumentRule.objects.filter(tool__name__startswith=mine).delete()
        DenyRule.objects.filter(role__startswith=mine).delete()
        ChangeRequest.objects.filter(name__startswith=mine).delete()
        Tool.objects.filter(name__startswith=mine).delete()
        RemoteServer.objects.filter(name__startswith=mine).delete()
        CallerRole.objects.filter(name__startswith=mine).delete()


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    folder = tmp_path / "registry"
    folder.mkdir()
    made = Files(folder)
    yield made
    made.remove_what_was_made()


@pytest.fixture
def code() -> Iterator[Callable[[], str]]:
    """Makes functions of the service, with their tools."""
    names: list[str] = []

    def make() -> str:
        name = f"test_{uuid4().hex[:12]}"
        names.append(name)

        @tool_function(name, title="In code", description="For a test.", timeout_seconds=7)
        async def function(word: str) -> str:
            return word

        seed_tools()
        return name

    yield make
    for name in names:
        unregister(name)
        Tool.objects.filter(name=name).delete()


@pytest.fixture
def seeded_default() -> Iterator[Agent]:
    """The default agent that everybody else relies on; it is the default again afterwards."""
    agent = Agent.objects.get(is_default=True)
    yield agent
    Agent.objects.exclude(pk=agent.pk).update(is_default=False)
    Agent.objects.filter(pk=agent.pk).update(is_default=True)


EVERYTHING = """\
kind: Agent
name: NAME-agent
spec:
  title: Helper
  instructions: |
    Be brief.

    Be right.
  temperature: 0.5
  tools: [NAME-tool, calculator_tool]
---
kind: ArgumentRule
name: NAME-tool/NAME-lead
spec:
  reason: Small numbers only.
  schema: {type: object, properties: {expression: {type: string, maxLength: 10}}}
---
kind: DenyRule
name: NAME-tool/*
spec: {reason: For nobody yet.}
---
kind: DenyRule
name: NAME-tool/NAME-lead
spec: {reason: Nor for leads.}
---
kind: Tool
name: NAME-tool
spec:
  enabled: true
  owner: Somebody
  tags: [one, two]
  title: Own tool
  description: Calculates.
  input_schema:
    type: object
    properties: {expression: {type: string, minLength: 1, default: "yes"}}
    required: [expression]
  output_schema: {type: number}
  side_effects: idempotent
  handler: {function: calculator_tool}
  required_credentials: [SOME_TOOL_KEY]
  required_role: NAME-lead
  timeout_seconds: 2.5
  rate_limit: 30/minute
  cache_seconds: 60
  cache_scope: role
---
kind: RemoteServer
name: NAME-server
spec:
  url: https://mcp.example.com/mcp
  credential: SOME_TOOL_KEY
  enabled: false
---
kind: Role
name: NAME-lead
spec: {description: "Leads: people", inherits: [NAME-analyst, user]}
---
kind: Role
name: NAME-analyst
"""


def test_files_make_things_of_all_kinds_whatever_their_order(files: Files):
    result = files.apply(EVERYTHING)

    assert (result.code, result.errors) == (0, "")
    assert result.output.splitlines()[-1] == "8 created; 0 unchanged."
    tool = Tool.objects.select_related("current_version").get(name=files.named("tool"))
    assert (tool.enabled, tool.owner, tool.tags) == (True, "Somebody", ["one", "two"])
    assert (tool.current_version.timeout_seconds, tool.current_version.required_role) == (2.5, files.named("lead"))
    lead = CallerRole.objects.get(name=files.named("lead"))
    assert {role.name for role in lead.inherits.all()} == {files.named("analyst"), "user"}
    assert DenyRule.objects.filter(tool=tool).count() == 2
    assert ArgumentRule.objects.get(tool=tool).role == files.named("lead")
    assert RemoteServer.objects.get(name=files.named("server")).credential == "SOME_TOOL_KEY"
    agent = Agent.objects.get(slug=files.named("agent"))
    assert (agent.name, agent.instructions) == ("Helper", "Be brief.\n\nBe right.\n")
    assert agent.tools == ["calculator_tool", files.named("tool")]


@pytest.mark.parametrize("more", [[], ["--full"]])
@pytest.mark.parametrize("target", ["out.yaml", "out"])
def test_what_is_exported_changes_nothing_when_it_is_applied(
    files: Files, tmp_path: Path, target: str, more: list[str]
):
    files.apply(EVERYTHING)
    before = revision()

    assert registry("export", "-o", str(tmp_path / target), *more).code == 0
    result = registry("apply", str(tmp_path / target), "--yes", "--exit-code")

    assert result.code == 0, result.errors
    about_ours = [line for line in result.errors.splitlines() if files.named("") in line]
    assert about_ours == [], "others may have left tools behind that are worth a warning"
    assert result.output.startswith("No changes: ")
    assert revision() == before


def test_what_was_removed_comes_back_from_its_export_as_it_was(files: Files, tmp_path: Path):
    files.apply(EVERYTHING)
    names = [files.named(name) for name in ("lead", "analyst", "server", "agent")]
    names += [f"{files.named('tool')}/{role}" for role in ("*", files.named("lead"))]
    arguments = [part for name in names for part in ("--name", name)]
    exported = registry("export", *arguments)
    (tmp_path / "again.yaml").write_text(exported.output)
    for rows in (Agent.objects.filter(slug=names[3]), RemoteServer.objects.filter(name=names[2])):
        rows.delete()
    DenyRule.objects.filter(tool__name=files.named("tool")).delete()
    ArgumentRule.objects.filter(tool__name=files.named("tool")).delete()
    CallerRole.objects.filter(name__in=names).delete()

    assert registry("apply", str(tmp_path / "again.yaml"), "--yes").code == 0
    assert registry("export", *arguments).output == exported.output


def test_a_tool_of_a_remote_server_stands_in_files_as_it_is_pinned(files: Files):
    pinned = "ab" * 32
    text = (
        "kind: Tool\nname: NAME-remote\nspec:\n  title: Search\n  description: Searches.\n  input_schema: {type: object}\n"
        f"  handler_type: mcp_tool\n  handler: {{server: NAME-server, tool: search, pinned: {pinned}}}\n---\n"
        "kind: RemoteServer\nname: NAME-server\nspec: {url: 'https://mcp.example.com/mcp'}"
    )
    assert files.apply(text).code == 0

    exported = registry("export", "--kind", "Tool", "--name", files.named("remote")).output
    assert exported.splitlines()[-5:] == [
        "  handler_type: mcp_tool",
        "  handler:",
        f"    pinned: {pinned}",
        f"    server: {files.named('server')}",
        "    tool: search",
    ]
    assert files.apply(text, "--check").code == 0


def test_an_export_leaves_out_what_is_understood(files: Files):
    files.apply(EVERYTHING)

    assert registry("export", "--kind", "RemoteServer", "--name", files.named("server")).output.splitlines() == [
        "apiVersion: agentbackend/v1",
        "kind: RemoteServer",
        f"name: {files.named('server')}",
        "spec:",
        "  url: https://mcp.example.com/mcp",
        "  credential: SOME_TOOL_KEY",
        "  enabled: false",
    ]


def test_a_second_export_into_a_folder_names_files_of_what_is_gone(files: Files, tmp_path: Path):
    files.apply("kind: Role\nname: NAME-gone")
    registry("export", "-o", str(tmp_path / "out"))
    CallerRole.objects.filter(name=files.named("gone")).delete()

    result = registry("export", "-o", str(tmp_path / "out"))

    assert f"roles/{files.named('gone')}.yaml" in result.errors
    assert (tmp_path / "out" / "roles" / f"{files.named('gone')}.yaml").exists()


def test_names_that_differ_only_in_case_get_files_of_their_own(files: Files, tmp_path: Path):
    files.apply("kind: Role\nname: NAME-a\n---\nkind: Role\nname: NAME-A")

    registry("export", "-o", str(tmp_path / "out"), "--name", files.named("a"), "--name", files.named("A"))

    assert sorted(path.name for path in (tmp_path / "out" / "roles").iterdir()) == sorted(
        [f"{files.named('A')}.yaml", f"{files.named('a')}-2.yaml"]
    )


def test_a_thing_that_holds_the_value_of_a_credential_is_neither_exported_nor_applied(
    files: Files, monkeypatch: pytest.MonkeyPatch
):
    files.apply(EVERYTHING)
    value = f"value-{uuid4().hex}"
    monkeypatch.setenv("SOME_TOOL_KEY", value)

    refused = files.apply(f"kind: Role\nname: NAME-analyst\nspec: {{description: is {value}}}")
    assert (refused.code, "It holds the value of a credential" in refused.errors) == (1, True)
    assert value not in refused.errors

    CallerRole.objects.filter(name=files.named("analyst")).update(description=value)
    result = registry("export", "--kind", "Role", "--name", files.named("analyst"))
    assert (result.code, result.output) == (1, "")
    assert f"Role {files.named('analyst')} holds the value of a credential" in result.errors
    assert value not in result.errors


# --- the plan


def test_a_dry_run_shows_each_field_and_writes_nothing(files: Files):
    files.apply(EVERYTHING)
    changed = EVERYTHING.replace("Be right.", "Be kind.").replace("timeout_seconds: 2.5", "timeout_seconds: 9")
    changed = changed.replace("minLength: 1", "minLength: 2").replace("NAME-analyst, user", "user")
    everything_before, before = registry("export", "--full").output, revision()

    result = registry("apply", files.write(changed), "--dry-run", "--exit-code")

    assert result.code == 2
    assert result.output.replace(files.mark, "M").splitlines() == [
        "~ Role M-lead",
        "    inherits: [M-analyst, user] -> [user]",
        "~ Tool M-tool",
        "    input_schema:",
        "           type: string",
        "           default: 'yes'",
        "      -    minLength: 1",
        "      +    minLength: 2",
        "       required:",
        "         - expression",
        "    timeout_seconds: 2.5 -> 9.0",
        "~ Agent M-agent",
        "    instructions:",
        "       Be brief.",
        "       ",
        "      -Be right.",
        "      +Be kind.",
        "3 to change; 5 unchanged.",
        "Nothing was written: this was a dry run.",
    ]
    assert (registry("export", "--full").output, revision()) == (everything_before, before)


def test_a_dry_run_ends_with_0_unless_the_exit_code_is_asked_for(files: Files):
    folder = files.write("kind: Role\nname: NAME-new")

    assert registry("apply", folder, "--dry-run").code == 0
    assert registry("apply", folder, "--check").code == 2
    registry("apply", folder, "--yes")
    assert registry("apply", folder, "--check").code == 0


def test_without_a_terminal_nothing_is_written_unless_yes_is_said(files: Files):
    result = registry("apply", files.write("kind: Role\nname: NAME-new"))

    assert (result.code, "say --yes" in result.errors) == (1, True)
    assert not CallerRole.objects.filter(name=files.named("new")).exists()


def test_machines_read_json(files: Files):
    result = files.apply("kind: Role\nname: NAME-new\nspec: {description: New}", "--format", "json")

    assert result.json == {
        "dryRun": False,
        "written": True,
        "changes": [
            {
                "action": "create",
                "kind": "Role",
                "name": files.named("new"),
                "state": "live",
                "note": "",
                "fields": {
                    "description": {"before": None, "after": "New"},
                    "inherits": {"before": None, "after": []},
                },
            }
        ],
        "unchanged": 0,
        "problems": [],
        "warnings": [],
    }


def test_a_plan_that_somebody_has_agreed_to_is_not_written_when_it_would_be_another_by_now(files: Files):
    files.apply("kind: Role\nname: NAME-role")
    documents, _ = read_files([files.write("kind: Role\nname: NAME-role\nspec: {description: Mine}")])
    plan = apply_documents(documents, by=SOMEBODY_ELSE, dry_run=True)
    CallerRole.objects.filter(name=files.named("role")).update(description="Theirs")

    with pytest.raises(PlanChangedError):
        apply_documents(documents, by=SOMEBODY_ELSE, expected=plan.changes)

    assert CallerRole.objects.get(name=files.named("role")).description == "Theirs"


def test_an_apply_gives_up_when_somebody_else_holds_the_registry(
    files: Files, superuser_connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(applying, "LOCK_SECONDS", 0.1)
    with superuser_connection.transaction():
        superuser_connection.execute("UPDATE tools_registryrevision SET revision = revision + 1")
        result = files.apply("kind: Role\nname: NAME-role")

    assert (result.code, "Nothing was written; try again" in result.errors) == (1, True)
    assert files.apply("kind: Role\nname: NAME-role").code == 0


def test_every_change_is_recorded_with_who_did_it_and_why(files: Files):
    files.apply("kind: Role\nname: NAME-role", "--as", f"ci-{files.mark}", "--reason", "Ticket 12")

    recorded = AuditEvent.objects.filter(actor_id=f"command:ci-{files.mark}").order_by("id")
    assert [event.action for event in recorded] == ["role.changed", "configuration.applied"]
    details = json.loads(AuditPayload.objects.get(event_id=recorded[1].id).unpacked().body)
    assert details["changes"] == [f"create Role {files.named('role')}: live"]
    assert (details["reason"], details["files"]) == ("Ticket 12", [f"{files.folder}/all.yaml"])
    assert details["operating_system_user"]


# --- what is refused


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "kind: Role\nname: NAME-a\nspec: {inherits: [NAME-nobody]}",
            "all.yaml:4: document 1, Role M-a, inherits: There is no role 'M-nobody'.",
        ),
        (
            "kind: Role\nname: NAME-a\nspec: {inherits: [NAME-b]}\n---\nkind: Role\nname: NAME-b\nspec: {inherits: [NAME-a]}",
            "all.yaml:9: document 2, Role M-b, inherits: The role 'M-b' would inherit itself through 'M-a'.",
        ),
        (
            "kind: Role\nname: NAME-a\nspec: {inherits: [NAME-a]}",
            "all.yaml:4: document 1, Role M-a, inherits: The role 'M-a' would inherit itself through 'M-a'.",
        ),
        (
            "kind: DenyRule\nname: NAME-none/user\nspec: {reason: because}",
            "all.yaml:1: document 1, DenyRule M-none/user: There is no tool 'M-none'.",
        ),
        (
            "kind: DenyRule\nname: calculator_tool\nspec: {reason: because}",
            "'calculator_tool' is not the name of a rule: expected tool/role, with * for all.",
        ),
        (
            "kind: ArgumentRule\nname: calculator_tool/NAME-a\nspec: {reason: because, schema: {type: array}}",
            'schema: The schema of arguments must say "type": "object".',
        ),
        (
            "kind: RemoteServer\nname: NAME-a\nspec: {url: 'https://me:secret@example.com'}",
            "url: An address with http:// or https:// and a host, without a login in it.",
        ),
        (
            "kind: Tool\nname: NAME-a\nspec: {title: A, description: A, input_schema: {type: object}, handler: {function: no}}",
            "handler: There is no registered function 'no'.",
        ),
        (
            "kind: Tool\nname: calculator_tool\nspec:\n  timeout_seconds: 6000",
            "all.yaml:5: document 1, Tool calculator_tool, timeout_seconds: Ensure this value is less than or equal to 600",
        ),
        (
            "kind: Tool\nname: calculator_tool\nspec:\n  input_schema: {type: object}",
            "all.yaml:5: document 1, Tool calculator_tool, input_schema: It follows the code of the function",
        ),
        ("kind: Agent\nname: NAME-a\nspec: {title: A, tools: [NAME-none]}", "tools: There is no tool 'M-none'."),
        ("kind: Agent\nname: a b\nspec: {title: A}", "all.yaml:3: document 1, Agent a b, name: Enter a valid"),
        (
            "kind: Agent\nname: NAME-a\nspec: {title: A, is_default: true, enabled: false}",
            "enabled: The default agent must be enabled.",
        ),
        (
            "kind: Agent\nname: NAME-a\nspec: {title: A, is_default: true}\n---\n"
            "kind: Agent\nname: NAME-b\nspec: {title: B, is_default: true}",
            "Agent M-a: When all is done it says something else",
        ),
    ],
)
def test_what_the_forms_refuse_is_refused_and_nothing_else_is_written(
    files: Files, seeded_default: Agent, text: str, told: str
):
    before = revision()

    result = files.apply(f"{text}\n---\nkind: Role\nname: NAME-innocent")

    assert (result.code, told in result.errors.replace(files.mark, "M")) == (1, True), result.errors
    assert "nothing was written." in result.errors
    assert revision() == before
    assert not CallerRole.objects.filter(name=files.named("innocent")).exists()
    seeded_default.refresh_from_db()
    assert seeded_default.is_default


def test_problems_of_all_documents_are_told_at_once(files: Files):
    result = files.apply(
        "kind: Role\nname: NAME-a\nspec: {inherits: [NAME-b]}\n---\n"
        "kind: DenyRule\nname: NAME-none/user\nspec: {reason: because}\n---\n"
        "kind: Agent\nname: NAME-a\nspec: {title: A, temperature: 9}"
    )

    assert result.errors.splitlines()[-1] == "3 problems: nothing was written."


def test_former_inheritance_does_not_get_in_the_way_of_what_will_hold(files: Files):
    """Before: outside inherits z, z inherits a. After: a inherits outside, z nothing: no circle, in the right order."""
    files.apply(
        "kind: Role\nname: NAME-outside\nspec: {inherits: [NAME-z]}\n---\n"
        "kind: Role\nname: NAME-z\nspec: {inherits: [NAME-a]}\n---\nkind: Role\nname: NAME-a"
    )

    result = files.apply("kind: Role\nname: NAME-a\nspec: {inherits: [NAME-outside]}\n---\nkind: Role\nname: NAME-z")

    assert (result.code, result.errors) == (0, "")


def test_a_new_default_agent_may_stand_beside_the_former_one_that_steps_back(files: Files, seeded_default: Agent):
    former = registry("export", "--kind", "Agent", "--name", seeded_default.slug).output
    body = former.removeprefix("apiVersion: agentbackend/v1\n").replace("  is_default: true\n", "")

    result = files.apply(f"{body}---\nkind: Agent\nname: NAME-new\nspec: {{title: New, is_default: true}}")

    assert (result.code, result.errors) == (0, "")
    assert Agent.objects.get(is_default=True).slug == files.named("new")


def test_a_mistake_in_the_command_line_ends_with_1_because_2_means_changes():
    for arguments in (["apply", "x.yaml", "--chek"], ["aply"]):
        done = subprocess.run(
            [sys.executable, "manage.py", "registry", *arguments],
            cwd=service_settings.BASE_DIR, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, b"usage: manage.py registry" in done.stderr) == (1, True), arguments


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["export", "--kind", "Rule"], "--kind: There is no kind 'Rule'. Did you mean"),
        (["export", "--name", "calculator"], "There is nothing called 'calculator'. Did you mean 'calculator_tool'?"),
        (["apply", "x.yaml", "--prune"], "--prune: say of which kinds with --kind"),
        (["apply", "x.yaml", "--kind", "Role"], "--kind and --name belong to --prune"),
        (["apply", "x.yaml", "--as", "a b"], "--as: expected at most 64 letters"),
        (["apply", "no-such.yaml"], "no-such.yaml: There is no such file or folder."),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: list[str], told: str):
    result = registry(*arguments)

    assert (result.code, told in result.errors) == (1, True), result.errors


# --- tools that come from code


def test_a_function_as_it_comes_needs_no_words(code: Callable[[], str], files: Files):
    name = code()

    assert registry("export", "--name", name).output.endswith(f"name: {name}\nspec: {{}}\n")


def test_what_an_administrator_changed_of_a_function_is_exported_and_nothing_else(code: Callable[[], str]):
    name = code()
    tool = Tool.objects.select_related("current_version").get(name=name)
    assert tool.current_version is not None
    served = Definition.of(tool.current_version).as_dict()
    publish_version(tool, Definition(**{**served, "required_role": "analyst"}), by=SOMEBODY_ELSE)
    switch_tool(tool, enabled=False, by=SOMEBODY_ELSE)

    assert registry("export", "--name", name).output.endswith("spec:\n  enabled: false\n  required_role: analyst\n")


def test_what_a_file_leaves_out_of_a_function_is_as_in_its_code(code: Callable[[], str], files: Files):
    name = code()
    files.apply(f"kind: Tool\nname: {name}\nspec: {{required_role: analyst, timeout_seconds: 9, enabled: false}}")

    assert files.apply(f"kind: Tool\nname: {name}\nspec: {{required_role: analyst}}").code == 0

    tool = Tool.objects.select_related("current_version").get(name=name)
    assert tool.current_version is not None
    assert (tool.enabled, tool.current_version.timeout_seconds) == (True, 7)
    assert tool.current_version.required_role == "analyst"


def test_a_schema_that_is_not_the_codes_is_kept_with_a_warning_but_never_made(code: Callable[[], str], files: Files):
    name = code()
    tool = Tool.objects.select_related("current_version").get(name=name)
    assert tool.current_version is not None
    served = Definition.of(tool.current_version).as_dict()
    publish_version(tool, Definition(**{**served, "input_schema": {"type": "object"}}), by=SOMEBODY_ELSE)
    text = f"kind: Tool\nname: {name}\nspec: {{input_schema: {{type: object}}}}"

    kept = files.apply(text)
    assert (kept.code, "input_schema differs from the code" in kept.errors) == (0, True)
    assert "No changes" in kept.output

    assert files.apply(f"kind: Tool\nname: {name}\nspec: {{}}").code == 0
    assert files.apply(text).code == 1


def test_arguments_that_the_function_behind_a_tool_does_not_know_are_warned_of(files: Files):
    result = files.apply(
        "kind: Tool\nname: NAME-t\nspec:\n  title: T\n  description: D\n  handler: {function: calculator_tool}\n"
        "  input_schema: {type: object, properties: {expression: {}, precision: {}}}",
        "--dry-run",
    )

    assert (result.code, "does not know the arguments precision." in result.errors) == (0, True)


# --- pruning


def test_what_is_in_no_file_stays_unless_it_is_pruned(files: Files):
    files.apply(EVERYTHING)
    fewer = EVERYTHING.split("---\n")[-1]

    assert files.apply(fewer).output == "No changes: 1 thing is as the files say.\n"


def test_pruning_removes_rules_roles_and_servers_and_switches_tools_off(files: Files):
    files.apply(EVERYTHING)
    names = [files.named(name) for name in ("agent", "tool", "server", "lead")]
    names += [f"{files.named('tool')}/{role}" for role in ("*", files.named("lead"))]
    kinds = ("Role", "RemoteServer", "Tool", "DenyRule", "ArgumentRule", "Agent")

    result = files.apply(
        EVERYTHING.split("---\n")[-1],
        "--prune", *(part for kind in kinds for part in ("--kind", kind)), *(part for name in names for part in ("--name", name)),
    )  # fmt: skip

    assert (result.code, result.errors) == (0, "")
    assert result.output.splitlines()[-1] == "1 changed, 6 removed; 1 unchanged."
    tool = Tool.objects.get(name=files.named("tool"))
    assert not tool.enabled
    assert not DenyRule.objects.filter(tool=tool).exists()
    assert not ArgumentRule.objects.filter(tool=tool).exists()
    assert not RemoteServer.objects.filter(name=files.named("server")).exists()
    assert not Agent.objects.filter(slug=files.named("agent")).exists()
    assert [role.name for role in CallerRole.objects.filter(name__startswith=files.mark)] == [files.named("analyst")]


def test_pruning_passes_over_what_the_service_needs(files: Files, code: Callable[[], str]):
    name = code()
    files.apply("kind: Role\nname: NAME-unwanted")
    folder = files.write(
        "kind: Role\nname: NAME-wanted\n---\nkind: Agent\nname: NAME-wanted\nspec: {title: W}\n---\n"
        "kind: Tool\nname: calculator_tool"
    )

    result = registry(
        "apply",
        folder,
        "--dry-run",
        "--format",
        "json",
        "--prune",
        "--kind",
        "Role",
        "--kind",
        "Tool",
        "--kind",
        "Agent",
    )

    assert result.code == 0, result.output
    pruned = {(change["kind"], change["name"]) for change in result.json["changes"] if change["action"] != "create"}
    assert ("Role", files.named("unwanted")) in pruned
    assert pruned.isdisjoint({("Role", "user"), ("Role", "admin"), ("Tool", name), ("Tool", "get_note_tool")})
    assert ("Agent", Agent.objects.get(is_default=True).slug) not in pruned


def test_a_tool_that_comes_from_code_is_pruned_when_it_is_named(files: Files, code: Callable[[], str]):
    name = code()

    result = files.apply("kind: Tool\nname: calculator_tool", "--prune", "--kind", "Tool", "--name", name)

    assert (result.code, result.errors) == (0, "")
    assert not Tool.objects.get(name=name).enabled


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["--kind", "Role", "--name", "user"],
            "Role user: The role 'user' is part of the rules and cannot be removed.",
        ),
        (["--kind", "Role", "--name", "usr"], "usr: Nothing of the kinds to prune is called so."),
        (["--kind", "DenyRule"], "DenyRule: No file has one, so --prune would remove all of them: name them."),
    ],
)
def test_pruning_that_cannot_be_meant_is_refused(files: Files, arguments: list[str], told: str):
    result = files.apply("kind: Role\nname: NAME-a", "--prune", *arguments)

    assert (result.code, told in result.errors) == (1, True), result.errors
    assert not CallerRole.objects.filter(name=files.named("a")).exists()


def test_a_role_that_a_document_needs_cannot_be_pruned(files: Files):
    files.apply("kind: Role\nname: NAME-below\n---\nkind: Role\nname: NAME-above\nspec: {inherits: [NAME-below]}")

    result = files.apply(
        "kind: Role\nname: NAME-above\nspec: {inherits: [NAME-below]}",
        "--prune", "--kind", "Role", "--name", files.named("below"),
    )  # fmt: skip

    assert (result.code, "When all is done it says something else" in result.errors) == (1, True)
    assert CallerRole.objects.filter(name=files.named("below")).exists()


# --- four eyes

WITH_A_NEW_TOOL = """\
kind: Tool
name: NAME-tool
spec: {title: T, description: D, input_schema: {type: object}, handler: {function: calculator_tool}, enabled: true}
---
kind: DenyRule
name: NAME-tool/*
spec: {reason: For nobody.}
---
kind: Role
name: NAME-role
"""


def test_what_needs_a_second_person_is_proposed_and_what_refers_to_it_held_back(files: Files, settings: Any):
    settings.FOUR_EYES = ["tools"]

    shown_first = registry("apply", files.write(WITH_A_NEW_TOOL), "--dry-run", "--format", "json")
    result = files.apply(WITH_A_NEW_TOOL, "--format", "json")

    expected = {
        files.named("role"): "live",
        files.named("tool"): "proposed",
        f"{files.named('tool')}/*": "held_back",
    }
    assert (shown_first.code, shown_first.states) == (0, expected)
    assert (result.code, result.states) == (3, expected)
    assert CallerRole.objects.filter(name=files.named("role")).exists()
    assert not Tool.objects.filter(name=files.named("tool")).exists()


def test_applying_again_proposes_nothing_twice_and_goes_on_after_the_approval(files: Files, settings: Any):
    settings.FOUR_EYES = ["tools"]
    files.apply(WITH_A_NEW_TOOL)

    again = files.apply(WITH_A_NEW_TOOL)
    assert (again.code, again.output.splitlines()[-1]) == (3, "1 waiting, 1 held back; 1 unchanged.")
    proposal = ChangeRequest.objects.get(kind="Tool", name=files.named("tool"))

    assert approve(proposal, by=SOMEBODY_ELSE)
    finished = files.apply(WITH_A_NEW_TOOL)
    assert (finished.code, finished.output.splitlines()[-1]) == (0, "1 created; 2 unchanged.")


def test_another_proposal_about_the_same_thing_is_a_problem(files: Files, settings: Any):
    settings.FOUR_EYES = ["tools"]
    files.apply(WITH_A_NEW_TOOL)

    result = files.apply(f"{WITH_A_NEW_TOOL.replace('title: T', 'title: U')}---\nkind: Role\nname: NAME-other\n")

    assert (result.code, "waits for a decision already." in result.errors) == (1, True)
    assert not CallerRole.objects.filter(name=files.named("other")).exists()


def test_problems_are_found_before_anything_is_proposed(files: Files, settings: Any):
    settings.FOUR_EYES = ["tools", "roles"]

    result = files.apply(WITH_A_NEW_TOOL.replace("function: calculator_tool", "function: none"))

    assert (result.code, "There is no registered function 'none'." in result.errors) == (1, True)
    assert not ChangeRequest.objects.filter(name__startswith=files.mark).exists()


def test_what_is_pruned_is_switched_off_without_a_second_person(files: Files, settings: Any):
    files.apply(WITH_A_NEW_TOOL)
    settings.FOUR_EYES = ["tools"]

    result = files.apply("kind: Role\nname: NAME-role", "--prune", "--kind", "Tool", "--name", files.named("tool"))

    assert result.code == 0
    assert not Tool.objects.get(name=files.named("tool")).enabled


# --- the examples


def test_the_examples_can_be_applied(project_root: Path):
    result = registry("apply", str(project_root / "examples/registry"), "--dry-run", "--format", "json")

    assert result.code == 0, result.output
    assert {change["kind"] for change in result.json["changes"]} == {
        "Role", "RemoteServer", "Tool", "DenyRule", "ArgumentRule", "Agent",
    }  # fmt: skip
    assert result.json["warnings"] == []
