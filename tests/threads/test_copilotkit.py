"""CopilotKit's browser client, with no runtime between it and the service: run, reload, reconnect in the middle, stop."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.node_packages import executable, installed
from tests.running_service import Caller, RunningService
from tests.runs.support import Stored, eventually

pytestmark = pytest.mark.node

SOURCES = Path(__file__).resolve().parent.parent / "node_copilotkit"

Drive = Callable[[str], dict[str, Any]]


@pytest.fixture
def caller() -> Caller:
    return Caller()


@pytest.fixture
def drive(service: RunningService, caller: Caller) -> Drive:
    """Play a scenario of drive.mjs; what the application saw."""
    folder = installed(SOURCES)
    script = Path(shutil.copy(SOURCES / "drive.mjs", folder))

    def play(scenario: str) -> dict[str, Any]:
        command = [executable("node"), str(script), scenario, service.url, caller.id]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 0, ended.stderr
        seen: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        return seen

    return play


def test_a_run_with_a_tool_call(drive: Drive) -> None:
    shown = drive("run")["shown"]
    assert [role for role, _ in shown] == ["user", "assistant", "tool", "assistant"]
    assert "London" in shown[-1][1]


def test_a_reloaded_page_shows_the_history(drive: Drive) -> None:
    seen = drive("reload")
    assert len(seen["before"]) == 2
    assert seen["after"] == seen["before"]


def test_a_page_that_is_reloaded_in_the_middle_of_an_answer_shows_all_of_it(drive: Drive) -> None:
    seen = drive("reconnect")
    assert seen["before"][-1][1].endswith("word20")
    assert seen["after"] == seen["before"]


def test_stop_ends_the_run(drive: Drive, caller: Caller, superuser_connection: psycopg.Connection) -> None:
    seen = drive("stop")
    assert seen["shown"][0] == ["user", "demo: slow 2000"]
    stored = Stored(superuser_connection)
    query = "SELECT status FROM orchestration_run WHERE owner_id = %s"
    eventually(lambda: stored.values(query, caller.id) == ["cancelled"], "the run is cancelled")
