"""The page of addresses: its lines are run against the real service, in their order, in one shell."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.running_service import RunningService

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")


def _run(project_root: Path, service: RunningService) -> list[str]:
    """What each block of the page prints."""
    blocks = re.findall(r"```sh\n(.*?)```", (project_root / "docs" / "api.md").read_text(), re.DOTALL)
    script = "\necho ==next\n".join(blocks).replace("http://localhost:8000", service.url)
    script = "curl() { command curl --noproxy '*' --silent --show-error --fail-with-body \"$@\"; }\nset -e\n" + script
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=90)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.split("==next\n")


def test_every_line_of_the_page_works(project_root: Path, service: RunningService) -> None:
    weather, sum_, note, replay, cancelled, info, threads, operators = _run(project_root, service)
    assert re.findall(r'"event_type":"(\w+)"', weather) == ["TOOL_CALL_START", "TOOL_OUTPUT", "AGENT_RESPONSE"]
    assert "calculator_tool" in sum_ and "RUN_FINISHED" in sum_
    assert "add_note_tool" in note and "RUN_FINISHED" in note
    assert re.findall(r"^id: .*\.(\d+)$", replay, re.MULTILINE)[0] == "4"
    assert "RUN_FINISHED" in replay
    assert '"cancelling":false' in cancelled
    assert "assistant" in json.loads(info)["agents"]
    assert json.loads(threads)["threads"][0]["agentId"] == "assistant"
    assert '"status": "ok"' in operators and "agentbackend_runs_started_total" in operators
