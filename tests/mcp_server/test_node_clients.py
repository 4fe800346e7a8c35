"""The official conformance suite and the MCP inspector's command line, against the running service."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node_packages import executable, installed
from tests.running_service import Caller, RunningService, ServiceFactory

pytestmark = pytest.mark.node

SOURCES = Path(__file__).resolve().parent.parent / "node_mcp_clients"
REVISIONS = ("2025-11-25", "2026-07-28")

# They want an answer of the client within a request; a server that keeps nothing between requests has nowhere to take it.
NOT_FOR_A_STATELESS_SERVER = {
    "2025-11-25": {
        "tools-call-sampling", "tools-call-elicitation", "elicitation-sep1034-defaults", "elicitation-sep1330-enums",
    },
    "2026-07-28": set(),
}  # fmt: skip
SCORED = {"2025-11-25": 30, "2026-07-28": 37}
# What the service shows without fixtures, and the checks within that need one.
OF_THE_PRODUCT = {
    "2025-11-25": {"server-initialize", "ping", "tools-list", "dns-rebinding-protection"},
    "2026-07-28": {
        "server-stateless", "tools-list", "dns-rebinding-protection", "http-header-validation", "caching",
        "input-required-result-unsupported-methods",
    },
}  # fmt: skip
NEED_FIXTURES = {
    "sep-2575-server-rejects-undeclared-capability",
    "sep-2575-missing-capability-http-400",
    "sep-2575-http-server-no-independent-requests-on-stream",
    "sep-2575-server-no-log-without-loglevel",
    "sep-2549-prompts-list-caching-hints",
    "sep-2549-resources-list-caching-hints",
    "sep-2549-resources-templates-list-caching-hints",
}


@pytest.fixture(scope="module")
def packages() -> Path:
    folder = installed(SOURCES)
    shutil.copy(SOURCES / "as_caller.mjs", folder)
    return folder


@pytest.fixture(scope="module")
def service_with_fixtures(service_factory: ServiceFactory) -> Iterator[RunningService]:
    started = service_factory.start(MCP_CONFORMANCE_FIXTURES="tests.mcp_server.conformance_fixtures.add_to")
    yield started
    started.stop(signal.SIGKILL)


def run_suite(packages: Path, service: RunningService, revision: str, results: Path) -> str:
    """Run all scenarios of a revision; what the suite prints."""
    cli = packages / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    command = [
        executable("node"), "--import", str(packages / "as_caller.mjs"), str(cli), "server",
        "--url", f"http://localhost:{service.port}/mcp", "--requirements", revision, "-o", str(results),
    ]  # fmt: skip
    environment = {**os.environ, "CALLER": json.dumps(Caller().headers), "NO_COLOR": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    return re.sub(r"\x1b\[[0-9;]*m", "", ended.stdout + ended.stderr)


def scenarios(printed: str) -> dict[str, bool]:
    """The scored scenarios, and whether each passed."""
    every = {name: mark == "✓" for mark, name in re.findall(r"^([✓✗]) ([a-z0-9-]+): \d+ passed", printed, re.MULTILINE)}
    [unscored] = re.findall(r"Not scored for \S+: (\d+) scenario", printed)
    return dict(list(every.items())[: len(every) - int(unscored)])


@pytest.mark.parametrize("revision", REVISIONS)
def test_with_fixtures_every_scored_scenario_passes_that_a_stateless_server_can_pass(
    packages: Path, service_with_fixtures: RunningService, tmp_path: Path, revision: str
):
    found = scenarios(run_suite(packages, service_with_fixtures, revision, tmp_path))
    assert len(found) == SCORED[revision]
    assert {name for name, passed in found.items() if not passed} == NOT_FOR_A_STATELESS_SERVER[revision]


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_service_itself_passes_every_check_that_needs_no_fixture(
    packages: Path, service: RunningService, tmp_path: Path, revision: str
):
    printed = run_suite(packages, service, revision, tmp_path)
    failed: set[str] = set()
    for name in OF_THE_PRODUCT[revision]:
        [folder] = [path for path in tmp_path.iterdir() if re.match(rf"server-{name}-\d{{4}}-", path.name)]
        checks: list[dict[str, Any]] = json.loads((folder / "checks.json").read_text())
        assert any(check["status"] == "SUCCESS" for check in checks), printed
        failed |= {check["id"] for check in checks if check["status"] in ("FAILURE", "WARNING")}
    assert failed == (NEED_FIXTURES if revision == "2026-07-28" else set())


def test_the_inspector_lists_and_calls_with_two_roles(packages: Path, service: RunningService, tmp_path: Path):
    def inspect(caller: Caller, *options: str) -> dict[str, Any]:
        headers = [part for name, value in caller.headers.items() for part in ("--header", f"{name}: {value}")]
        command = [executable("node"), str(packages / "node_modules" / ".bin" / "mcp-inspector"), "--cli"]
        ended = subprocess.run(
            [*command, f"{service.url}/mcp", "--transport", "http", *options, *headers],
            env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        document: dict[str, Any] = json.loads(ended.stdout or ended.stderr.splitlines()[-1])
        return document

    admin, user = Caller(role="admin"), Caller()
    of_admin, of_user = (
        {tool["name"] for tool in inspect(caller, "--method", "tools/list")["tools"]} for caller in (admin, user)
    )
    assert "admin_debug_tool" in of_admin - of_user
    assert of_user <= of_admin
    call = ("--method", "tools/call", "--tool-name")
    found = inspect(user, *call, "calculator_tool", "--tool-arg", "expression=6*7")
    assert found == {"content": [{"type": "text", "text": "42"}], "isError": False}
    assert "versions" in inspect(admin, *call, "admin_debug_tool")["content"][0]["text"]
    assert "error" in inspect(user, *call, "admin_debug_tool")
