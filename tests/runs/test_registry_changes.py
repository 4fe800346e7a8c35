"""Changes of the registry reach every process, and runs that are going on."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from audit.actor import SYSTEM
from tests.running_service import Caller, RunningService, ServiceFactory, run_input
from tests.runs.support import Reader, Stored, assert_well_formed, events, eventually
from tests.runs.upstream import Upstream
from tools.models import Tool
from tools.versions import Definition, publish_version, switch_tool


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.close()


@pytest.fixture(scope="module")
def processes(service_factory: ServiceFactory, upstream: Upstream) -> list[RunningService]:
    return [service_factory.start(OPENAI_BASE_URL=upstream.url, OPENAI_MODEL="upstream") for _ in range(2)]


@pytest.fixture
def tool() -> Iterator[Tool]:
    """The calculator under a name of its own, switched on; without arguments it answers what it wants."""
    made = Tool.objects.create(name=f"changing_{uuid4().hex[:12]}")
    publish_version(made, definition("Calculates."), by=SYSTEM)
    switch_tool(made, enabled=True, by=SYSTEM)
    yield made
    made.delete()


def definition(description: str) -> Definition:
    return Definition(
        title="Changing", description=description, input_schema={"type": "object"}, side_effects="idempotent",
        handler={"function": "admin_debug_tool"},
    )  # fmt: skip


def told_of(upstream: Upstream, service: RunningService, name: str) -> str:
    """How the model of a new run is told of the tool."""
    upstream.requests.clear()
    service.post_run(Caller(), "hello")
    offered = {offer["function"]["name"]: offer["function"] for offer in upstream.requests[0]["tools"]}
    return str(offered[name]["description"]) if name in offered else ""


def test_a_new_version_is_offered_by_every_process(
    processes: list[RunningService], upstream: Upstream, tool: Tool
) -> None:
    for service in processes:
        eventually(lambda service=service: told_of(upstream, service, tool.name) == "Calculates.", "it is offered")
    publish_version(tool, definition("Calculates better."), by=SYSTEM)
    for service in processes:
        eventually(
            lambda service=service: told_of(upstream, service, tool.name) == "Calculates better.", "so is its change"
        )


def test_a_tool_that_is_switched_off_is_not_called_again_by_runs_that_are_going_on(
    processes: list[RunningService], upstream: Upstream, tool: Tool, stored: Stored
) -> None:
    service, caller = processes[0], Caller()
    eventually(lambda: told_of(upstream, service, tool.name), "it is offered")
    upstream.may_answer_after_tools.clear()
    wish = run_input(f"call {tool.name} twice")
    try:
        with service.open_stream(caller, "POST", "/ag-ui/events", json=wish) as (_, frames):
            reader = Reader(frames)
            eventually(lambda: events(reader.frames, "TOOL_CALL_RESULT"), "it was called once")
            switch_tool(tool, enabled=False, by=SYSTEM)
            eventually(lambda: not told_of(upstream, service, tool.name), "the process has seen that it is off")
            upstream.may_answer_after_tools.set()
            seen = reader.whole()
    finally:
        upstream.may_answer_after_tools.set()
    assert_well_formed(seen, wish["runId"])
    first, second = events(seen, "TOOL_CALL_RESULT")
    assert "metadata" not in first
    assert second["metadata"]["error"]["code"] == "disabled"
    assert "switched off" in second["content"]
    assert stored.audit(wish["runId"]).count("tool.denied") == 1
