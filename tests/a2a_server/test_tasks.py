"""The official client gives our agents tasks, from a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from audit.actor import SYSTEM
from orchestration.models import Agent
from tests.a2a_server.support import Receiver, SdkClient, SdkError, said, state
from tests.running_service import Caller, RunningService
from tests.runs.support import Stored, eventually
from tools.models import Tool
from tools.versions import Definition, publish_version, switch_tool


@pytest.fixture
def stored(superuser_connection) -> Stored:
    return Stored(superuser_connection)


def text(words: str) -> list[dict[str, str]]:
    return [{"text": words}]


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
def test_a_message_is_answered_by_a_task_that_is_a_run(
    sdk: SdkClient, signing: RunningService, agent: str, stored: Stored, binding: str
) -> None:
    caller = Caller()
    options = {"binding": binding, "streaming": False}
    [answer] = sdk.ask(signing, agent, caller, "send", parts=text("What is 6*7?"), **options)
    task = answer["task"]
    assert (state(task), "42" in said([task])) == ("COMPLETED", True)
    run = stored.run(task["id"])
    assert (run["status"], run["owner_id"]) == ("finished", caller.id)
    assert {"request.opened", "run.started", "run.finished"} <= set(stored.audit(task["id"]))
    [again] = sdk.ask(signing, agent, caller, "get", task=task["id"], binding=binding)
    assert again == task
    [listed] = sdk.ask(signing, agent, caller, "list", binding=binding)
    assert [found["id"] for found in listed["tasks"]] == [task["id"]]


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
def test_a_stream_tells_the_task_its_text_as_it_comes_and_its_end(
    sdk: SdkClient, signing: RunningService, agent: str, binding: str
) -> None:
    caller = Caller()
    events = sdk.ask(signing, agent, caller, "send", parts=text("What is 6*7?"), binding=binding)
    assert (state(events[0]), state(events[-1])) == ("WORKING", "COMPLETED")
    assert sum("artifactUpdate" in event for event in events) > 3
    [task] = sdk.ask(signing, agent, caller, "get", task=events[0]["task"]["id"])
    assert said(events) == said([task]) != ""


def test_a_second_message_of_a_context_goes_on_with_its_conversation(
    sdk: SdkClient, signing: RunningService, agent: str, stored: Stored
) -> None:
    caller = Caller()
    [first] = sdk.ask(signing, agent, caller, "send", parts=text("What is 6*7?"), streaming=False)
    context = first["task"]["contextId"]
    [second] = sdk.ask(
        signing, agent, caller, "send", parts=text("And 2+2?"), streaming=False, message={"contextId": context}
    )
    assert second["task"]["contextId"] == context
    assert second["task"]["id"] != first["task"]["id"]
    assert stored.rows_of(caller) == (1, 2, 2)


def test_a_client_whose_connection_dropped_subscribes_again_and_misses_nothing(
    sdk: SdkClient, signing: RunningService, agent: str
) -> None:
    caller = Caller()
    seen = sdk.ask(signing, agent, caller, "send", parts=text("demo: slow 30"), leave_after=5)
    task = seen[0]["task"]["id"]
    again = sdk.ask(signing, agent, caller, "subscribe", task=task)
    assert (state(again[0]), state(again[-1])) == ("WORKING", "COMPLETED")
    [whole] = sdk.ask(signing, agent, caller, "get", task=task)
    assert said(again) == said([whole])
    with pytest.raises(SdkError, match="has ended"):
        sdk.ask(signing, agent, caller, "subscribe", task=task)


def test_a_message_that_is_sent_again_is_the_task_that_it_began(
    sdk: SdkClient, signing: RunningService, agent: str
) -> None:
    caller, message = Caller(), {"messageId": str(uuid4())}

    def sent(words: str, by: Caller = caller, **options) -> dict:
        return sdk.ask(signing, agent, by, "send", parts=text(words), message=message, **options)[0]["task"]

    first = sent("What is 6*7?", streaming=False)
    assert sent("What is 6*7?", streaming=False) == first
    assert sent("What is 6*7?") == first
    others = [sent("What is 6*8?", streaming=False), sent("What is 6*7?", Caller(), streaming=False)]
    assert len({first["id"], *(task["id"] for task in others)}) == 3


def test_of_messages_that_come_at_once_and_are_the_same_one_begins_a_task(signing: RunningService, agent: str) -> None:
    message = {"messageId": str(uuid4()), "role": "ROLE_USER", "parts": text("What is 6*7?")}
    caller = Caller()

    def send(_: int) -> str:
        with signing.client(caller) as client:
            headers = {"A2A-Version": "1.0"}
            answer = client.post(f"/a2a/{agent}/message:send", headers=headers, json={"message": message})
        return str(answer.json()["task"]["id"])

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(send, range(4)))) == 1


def test_a_task_is_canceled_and_then_cannot_be_again(
    sdk: SdkClient, signing: RunningService, agent: str, stored: Stored
) -> None:
    caller = Caller()
    [started] = sdk.ask(
        signing, agent, caller, "send", parts=text("demo: slow 500"), streaming=False,
        configuration={"returnImmediately": True},
    )  # fmt: skip
    task = started["task"]["id"]
    assert state(started) == "WORKING"
    with pytest.raises(SdkError, match="being worked on"):
        sdk.ask(signing, agent, caller, "send", parts=text("More"), message={"taskId": task})
    [canceled] = sdk.ask(signing, agent, caller, "cancel", task=task)
    assert (state(canceled), stored.run(task)["status"]) == ("CANCELED", "cancelled")
    with pytest.raises(SdkError) as refused:
        sdk.ask(signing, agent, caller, "cancel", task=task)
    assert refused.value.name == "TaskNotCancelableError"


def test_another_callers_task_is_not_found_nor_listed(sdk: SdkClient, signing: RunningService, agent: str) -> None:
    [answer] = sdk.ask(signing, agent, Caller(), "send", parts=text("What is 6*7?"), streaming=False)
    task, stranger = answer["task"]["id"], Caller()
    for do in ("get", "cancel", "subscribe"):
        with pytest.raises(SdkError) as refused:
            sdk.ask(signing, agent, stranger, do, task=task)
        assert refused.value.name == "TaskNotFoundError"
    assert sdk.ask(signing, agent, stranger, "list")[0].get("tasks", []) == []
    with pytest.raises(SdkError, match="no such context"):
        context = answer["task"]["contextId"]
        sdk.ask(signing, agent, stranger, "send", parts=text("Hello"), message={"contextId": context})


def test_a_state_that_does_not_exist_is_refused_instead_of_listing_all(signing: RunningService, agent: str) -> None:
    with signing.client(Caller()) as client:
        headers, codes = {"A2A-Version": "1.0"}, []
        for name in ("WORKING", "TASK_STATE_WORKING"):
            call = {"jsonrpc": "2.0", "id": 1, "method": "ListTasks", "params": {"status": name}}
            codes.append(client.post(f"/a2a/{agent}", headers=headers, json=call).status_code)
            codes.append(client.get(f"/a2a/{agent}/tasks", headers=headers, params={"status": name}).status_code)
    assert codes == [422, 422, 200, 200]


def test_a_body_that_is_nested_without_end_is_refused(signing: RunningService, agent: str) -> None:
    with signing.client(Caller()) as client:
        headers = {"A2A-Version": "1.0", "Content-Type": "application/json"}
        for address in ("", "/message:send"):
            refused = client.post(f"/a2a/{agent}{address}", headers=headers, content=b"[" * 100_000)
            assert refused.status_code < 500
            assert "recursion" not in refused.text


def test_a_thread_that_its_owner_deletes_takes_its_tasks_along(
    sdk: SdkClient, signing: RunningService, agent: str, receiver: Receiver
) -> None:
    caller = Caller()
    [answer] = sdk.ask(
        signing, agent, caller, "send", parts=text("What is 6*7?"), streaming=False,
        configuration={"taskPushNotificationConfig": {"url": receiver.url}},
    )  # fmt: skip
    assert receiver.next()
    with signing.client(caller) as client:
        assert client.delete(f"/ag-ui/threads/{answer['task']['contextId']}").status_code in (200, 204)
    with pytest.raises(SdkError) as refused:
        sdk.ask(signing, agent, caller, "get", task=answer["task"]["id"])
    assert refused.value.name == "TaskNotFoundError"


def test_a_message_that_cannot_be_taken_says_what_is_wrong(sdk: SdkClient, signing: RunningService, agent: str) -> None:
    caller = Caller()
    with pytest.raises(SdkError, match=r"parts\[1\].*raw.*not taken") as refused:
        sdk.ask(signing, agent, caller, "send", parts=[{"text": "Look:"}, {"raw": "dGNr", "mediaType": "image/png"}])
    assert refused.value.name == "ContentTypeNotSupportedError"
    with pytest.raises(SdkError, match="at most 100000 characters"):
        sdk.ask(signing, agent, caller, "send", parts=text("x" * 100_001))
    with pytest.raises(SdkError, match="1 to 50 parts"):
        sdk.ask(signing, agent, caller, "send", parts=text("x") * 51)


# --- questions


@pytest.fixture(scope="module")
def guarded(signing: RunningService) -> Iterator[str]:
    """A tool whose calls need a person's word."""
    tool = Tool.objects.create(name=f"guarded_{uuid4().hex[:12]}")
    schema = {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}
    definition = Definition(
        title="Guarded", description="Calculates.", input_schema=schema, side_effects="idempotent",
        handler={"function": "calculator_tool"}, approval_required=True,
    )  # fmt: skip
    publish_version(tool, definition, by=SYSTEM)
    switch_tool(tool, enabled=True, by=SYSTEM)
    yield tool.name
    tool.delete()


def asking(sdk: SdkClient, signing: RunningService, agent: str, caller: Caller, guarded: str) -> dict:
    """A task that asks whether the tool may be called."""
    wish = text(f'demo: call {guarded} {{"expression": "6*7"}}')

    def asked() -> dict | None:
        [found] = sdk.ask(signing, agent, caller, "send", parts=wish, streaming=False)
        return found["task"] if state(found) == "INPUT_REQUIRED" else None

    return eventually(asked, "the service has seen the tool and asks")


@pytest.mark.parametrize(
    ("answer", "made"), [([{"data": {"approved": True}}], True), (text("Yes."), True), (text("no"), False)]
)
def test_a_task_that_asks_goes_on_as_the_same_task_with_the_answer(
    sdk: SdkClient, signing: RunningService, agent: str, guarded: str, answer: list, made: bool
) -> None:
    caller = Caller()
    task = asking(sdk, signing, agent, caller, guarded)
    question, details = task["status"]["message"]["parts"]
    assert guarded in question["text"]
    assert details["data"]["interrupts"][0]["metadata"]["toolName"] == guarded
    events = sdk.ask(signing, agent, caller, "send", parts=answer, message={"taskId": task["id"]})
    assert {state(event) for event in events if state(event)} == {"WORKING", "COMPLETED"}
    assert events[0]["task"]["id"] == task["id"]
    assert ("answered: 42" in said(events)) is made
    [whole] = sdk.ask(signing, agent, caller, "get", task=task["id"])
    assert [message["role"] for message in whole["history"]] == ["ROLE_USER", "ROLE_AGENT", "ROLE_USER"]


def test_an_answer_that_is_sent_again_is_told_how_the_task_stands(
    sdk: SdkClient, signing: RunningService, agent: str, guarded: str
) -> None:
    caller = Caller()
    task = asking(sdk, signing, agent, caller, guarded)
    answer = {"parts": text("yes"), "message": {"messageId": str(uuid4()), "taskId": task["id"]}, "streaming": False}
    [first] = sdk.ask(signing, agent, caller, "send", **answer)
    [again] = sdk.ask(signing, agent, caller, "send", **answer)
    assert (state(first), again) == ("COMPLETED", first)


def test_a_canceled_task_takes_its_question_back(
    sdk: SdkClient, signing: RunningService, agent: str, guarded: str, stored: Stored
) -> None:
    caller = Caller()
    task = asking(sdk, signing, agent, caller, guarded)
    question = task["status"]["message"]["parts"][1]["data"]["interrupts"][0]["id"]
    [canceled] = sdk.ask(signing, agent, caller, "cancel", task=task["id"])
    assert state(canceled) == "CANCELED"
    with signing.client(caller) as client:
        refused = client.post(f"/ag-ui/approvals/{question}", json={"decision": "approve"})
        assert (refused.status_code, refused.json()["code"]) == (409, "already_decided")
        assert client.get(f"/ag-ui/approvals/{question}").json()["status"] == "withdrawn"
    assert "approval.withdrawn" in stored.audit(task["id"])
    [after] = sdk.ask(
        signing, agent, caller, "send", parts=text("hello"), message={"contextId": task["contextId"]}, streaming=False
    )
    assert (state(after), "answered: 42" in said([after["task"]])) == ("COMPLETED", False)


# --- push notifications


@pytest.mark.parametrize("url", ["http://10.0.0.1/hook", "http://169.254.169.254/latest", "file:///etc/passwd"])
def test_states_are_not_announced_at_addresses_inside(
    sdk: SdkClient, signing: RunningService, agent: str, url: str
) -> None:
    caller = Caller()
    with pytest.raises(SdkError, match=r"pushNotificationConfig\.url"):
        sdk.ask(
            signing, agent, caller, "send", parts=text("What is 6*7?"), streaming=False,
            configuration={"taskPushNotificationConfig": {"url": url}},
        )  # fmt: skip
    assert sdk.ask(signing, agent, caller, "list")[0].get("tasks", []) == [], "nothing was begun"


# --- answers to a schema


@pytest.fixture(scope="module")
def structured(signing: RunningService) -> Iterator[str]:
    """An exposed agent whose answers have a schema."""
    slug = f"a2a-{uuid4().hex[:12]}"
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    Agent.objects.create(slug=slug, name="Structured", exposed_over_a2a=True, output_schema=schema)
    with signing.client() as client:
        address = f"/a2a/{slug}/.well-known/agent-card.json"
        eventually(lambda: client.get(address).status_code == 200, "the service knows the agent")
    yield slug
    Agent.objects.filter(slug=slug).update(exposed_over_a2a=False)


def test_an_answer_to_a_schema_is_a_data_artifact_in_streams_and_tasks(
    sdk: SdkClient, signing: RunningService, structured: str
) -> None:
    caller = Caller()
    events = sdk.ask(signing, structured, caller, "send", parts=text("Is it so?"))
    streamed = [event["artifactUpdate"]["artifact"] for event in events if "artifactUpdate" in event]
    [task] = sdk.ask(signing, structured, caller, "get", task=events[0]["task"]["id"])
    [kept] = [artifact for artifact in task["artifacts"] if artifact["artifactId"] == "result"]
    assert isinstance(kept["parts"][0]["data"]["ok"], bool)
    assert kept in streamed
