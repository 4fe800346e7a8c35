"""Tasks go on when their process does not: real processes, killed for real, on one PostgreSQL."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from uuid import uuid4

import orjson
import pytest

from agentbackend.development import KEYS
from agentbackend.embedded_postgres.cluster import Cluster
from tests.a2a_server.support import Receiver, SdkClient, said, state
from tests.running_service import Caller
from tests.separate_database import SeparateDatabase, separate_database

AGENT = "assistant"


@pytest.fixture(scope="module")
def services(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeparateDatabase]:
    """Services whose default agent is exposed, and whose leases are short."""
    settings = {
        "RUN_LEASE_SECONDS": "3",
        "RUN_HEARTBEAT_SECONDS": "0.5",
        "A2A_SIGNING_KEYS": KEYS["A2A_SIGNING_KEYS"](),
        "OUTBOUND_ALLOWED_HOSTS": "127.0.0.1",
    }
    with separate_database(cluster, tmp_path_factory.mktemp("services"), **settings) as made:
        made.connection.execute("UPDATE orchestration_agent SET exposed_over_a2a = true WHERE is_default")
        yield made


def test_a_subscriber_on_another_process_sees_a_task_finish_whose_process_was_killed(
    services: SeparateDatabase, sdk: SdkClient, receiver: Receiver
) -> None:
    doomed, successor, caller = services.start(), services.start(), Caller()
    [started] = sdk.ask(
        doomed, AGENT, caller, "send", parts=[{"text": "demo: slow 80"}], streaming=False,
        configuration={"returnImmediately": True, "taskPushNotificationConfig": {"url": receiver.url}},
    )  # fmt: skip
    task, events = started["task"]["id"], []
    for event in sdk.events(successor, AGENT, caller, "subscribe", task=task):
        events.append(event)
        if len(events) == 10:
            doomed.stop(signal.SIGKILL)
    assert len(events) > 10
    assert state(events[-1]) == "COMPLETED"
    [whole] = sdk.ask(successor, AGENT, caller, "get", task=task)
    assert said(events) == said([whole]) != ""
    announced = orjson.loads(receiver.next()[1])["task"]
    assert (announced["id"], state(announced)) == (task, "COMPLETED")


def test_a_message_that_is_sent_again_to_another_process_finds_its_task_whose_process_was_killed(
    services: SeparateDatabase, sdk: SdkClient
) -> None:
    doomed, successor, caller = services.start(), services.start(), Caller()
    message = {"parts": [{"text": "demo: slow 40"}], "message": {"messageId": str(uuid4())}}
    [started, *_] = sdk.ask(doomed, AGENT, caller, "send", leave_after=5, **message)
    doomed.stop(signal.SIGKILL)
    [*_, end] = again = sdk.ask(successor, AGENT, caller, "send", **message)
    assert (again[0]["task"]["id"], state(end)) == (started["task"]["id"], "COMPLETED")
    [listed] = sdk.ask(successor, AGENT, caller, "list")
    assert len(listed["tasks"]) == 1
