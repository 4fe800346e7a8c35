"""The resume client: its own promises under Node, and under the real AG-UI clients against the service on a network that fails."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.cutting_proxy import Break, CuttingProxy
from tests.node_packages import executable, installed
from tests.running_service import Caller, RunningService
from tests.runs.support import Stored, eventually, text, types

pytestmark = pytest.mark.node

SOURCES = Path(__file__).resolve().parent.parent / "node"
CLIENTS = ["client-1.0", "client-0.0"]
ANSWER_LOST = Break(after=0)

Drive = Callable[..., dict[str, Any]]


@pytest.fixture
def stored(superuser_connection: psycopg.Connection) -> Stored:
    """What the database holds."""
    return Stored(superuser_connection)


@pytest.fixture(scope="session")
def installed_clients() -> Path:
    """A folder with both clients."""
    return installed(SOURCES)


@pytest.fixture
def drive(installed_clients: Path, service: RunningService, project_root: Path) -> Iterator[Drive]:
    """Play a scenario of resume.mjs over connections that break so; what the application saw."""
    script = Path(shutil.copy(SOURCES / "resume.mjs", installed_clients))
    module = project_root / "clients" / "agui-resume" / "src" / "index.js"

    def play(client: str, scenario: str, caller: Caller, breaks: Iterator[Break]) -> dict[str, Any]:
        with CuttingProxy(service.port, breaks) as proxy:
            command = [executable("node"), str(script), client, scenario, f"{proxy.url}/ag-ui", caller.id, str(module)]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert ended.returncode == 0, ended.stderr
            seen: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
            return {**seen, "cuts": proxy.cuts}

    yield play


def test_the_promises_of_the_package(project_root: Path):
    folder = project_root / "clients" / "agui-resume"
    command = [executable("node"), "--test", "--test-reporter=dot", "test/resuming.test.mjs"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stdout[-4000:]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_run_whose_every_connection_breaks_arrives_whole(service: RunningService, drive: Drive, client: str):
    caller = Caller()
    seen = drive(client, "long", caller, itertools.repeat(Break(after=2500)))
    log = service.stream(caller, "GET", f"/ag-ui/runs/{seen['runId']}/events")
    assert seen["cuts"] > 2
    assert seen["reconnected"] >= seen["cuts"]
    assert seen["runs"] == [{"ok": True}]
    assert seen["events"] == types(log)
    assert seen["text"] == text(log) == seen["messages"][-1]["content"]


@pytest.mark.parametrize("client", CLIENTS)
def test_tool_calls_survive_breaks_and_the_next_turn_fits(drive: Drive, stored: Stored, client: str):
    caller = Caller()
    seen = drive(client, "tools", caller, iter([Break(1200), Break(900), Break(1500)]))
    assert seen["cuts"] == 3
    assert seen["runs"] == [{"ok": True}, {"ok": True}]
    assert [message["role"] for message in seen["messages"]] == [
        "user", "assistant", "tool", "tool", "tool", "assistant", "user", "assistant",
    ]  # fmt: skip
    assert "MESSAGES_SNAPSHOT" not in seen["events"], "client and server hold the same messages"
    assert stored.rows_of(caller) == (1, 2, 2)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_lost_answer_starts_no_second_run(drive: Drive, stored: Stored, client: str):
    caller = Caller()
    seen = drive(client, "long", caller, iter([ANSWER_LOST, ANSWER_LOST, Break(700)]))
    assert seen["runs"] == [{"ok": True}]
    assert seen["events"].count("RUN_STARTED") == 1
    assert stored.rows_of(caller) == (1, 1, 1)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_connection_that_falls_silent_is_left(drive: Drive, client: str):
    seen = drive(client, "silence", Caller(), iter([Break(1200, silently=True)]))
    assert (seen["cuts"], seen["reconnected"]) == (1, 1)
    assert seen["text"] == " ".join(f"word{number}" for number in range(1, 21))


@pytest.mark.parametrize("client", CLIENTS)
def test_a_run_that_is_stopped_while_the_client_reconnects_ends_in_the_clients_own_words(drive: Drive, client: str):
    seen = drive(client, "cancelledFromElsewhere", Caller(), iter([Break(900)]))
    assert seen["reconnected"] == 1
    if client == "client-1.0":
        assert (seen["events"][-1], seen["errors"]) == ("RUN_FINISHED", [])
    else:
        assert [error["code"] for error in seen["errors"]] == ["cancelled"]


@pytest.mark.parametrize("client", CLIENTS)
def test_an_abort_stops_the_run_when_it_is_meant_to(drive: Drive, stored: Stored, client: str):
    seen = drive(client, "aborted", Caller(), iter([]))
    assert "word9" not in seen["text"]
    eventually(lambda: stored.run(seen["runId"])["status"] == "cancelled", "the run is stopped")


@pytest.mark.parametrize("client", CLIENTS)
def test_a_refusal_says_its_code_and_is_not_repeated(drive: Drive, client: str):
    seen = drive(client, "refused", Caller(), iter([]))
    [refused] = seen["runs"]
    assert (refused["name"], refused["code"], refused["status"]) == ("RefusedError", "invalid_input", 422)
    assert refused["message"]
    assert seen["reconnecting"] == 0


def test_a_run_is_followed_from_a_number_over_breaks(service: RunningService, drive: Drive):
    caller = Caller()
    seen = drive("client-1.0", "followed", caller, iter([Break(100_000), Break(900), Break(900)]))
    log = service.stream(caller, "GET", f"/ag-ui/runs/{seen['runId']}/events")
    assert [event["id"] for event in seen["followed"]] == [frame.id for frame in log[2:]]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_thread_is_joined_over_breaks(drive: Drive, client: str):
    breaks = iter([Break(100_000), Break(1700), Break(700), Break(900)])  # the first connection is the run's own
    seen = drive(client, "joined", Caller(), breaks)
    assert seen["cuts"] == 3
    assert seen["followed"][0] == {"type": "RUN_STARTED"}
    assert seen["followed"][-1] == {"type": "RUN_FINISHED"}
    assert [message["content"] for message in seen["joinedMessages"]] == [
        "demo: slow 200",
        " ".join(f"word{number}" for number in range(1, 21)),
    ]
    assert seen["joinedMessages"] == seen["messages"]


def test_a_thread_in_which_nothing_goes_on_gives_its_history(drive: Drive):
    seen = drive("client-1.0", "joinedAfterwards", Caller(), iter([]))
    assert [event["type"] for event in seen["followed"]] == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "RUN_FINISHED"]
