"""Peers as they are: quick, slow, silent, endless, wrong, gone. Whatever they do, the model is told something that it can use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from a2a import loading
from a2a.circuit import Circuit
from a2a.delegation import Handover
from a2a.hops import METADATA_KEY, handed_on, own_name, read_hops
from agentbackend.foundation.database import Database
from agentbackend.foundation.identifiers import uuid7
from agentbackend.foundation.outbound import OutboundPolicy
from tests.a2a_client.support import (
    TASK,
    Delegations,
    answer,
    answering,
    artifact,
    events,
    peer_card,
    registered,
    status,
    task,
)
from tests.running_service import free_port
from tests.tools.remote_mcp import Asked, RemoteMcp, Reply, as_json, remote_mcp
from tests.tools.support import envelope, somebody
from tools import process
from tools.calls import ToolOutcome

SECRET = "the-peers-own-secret"


@pytest.fixture(autouse=True)
async def ready(monkeypatch: pytest.MonkeyPatch, database_pool: Database) -> AsyncIterator[None]:
    policy = OutboundPolicy(allowed_hosts=["127.0.0.1"])
    monkeypatch.setattr(process, "outbound_policy", lambda: policy)
    yield
    await loading.close_connections()


@pytest.fixture
def remote() -> Iterator[RemoteMcp]:
    with remote_mcp() as found:
        yield found


def delegations(
    remote: RemoteMcp, *, streaming: bool = True, circuit: Circuit | None = None, **fields: Any
) -> Delegations:
    return Delegations(registered(peer_card(remote, streaming=streaming), **fields), circuit)


# --- answers


async def test_an_answer_comes_piece_by_piece_and_is_the_whole_in_the_end(remote: RemoteMcp) -> None:
    answering(
        remote,
        SendStreamingMessage=lambda asked: events(
            asked,
            {"task": task("submitted")},
            status("working", "I am looking."),
            artifact({"text": "One "}),
            artifact({"text": "two."}, append=True),
            artifact({"text": "Another."}, name="b"),
            status("completed"),
        ),
    )
    door = delegations(remote)

    result = await door.ask("count")

    assert (result.outcome, result.content) == (ToolOutcome.OK, "One two.\n\nAnother.")
    assert (len(door.told.pieces) > 1, "".join(door.told.pieces)) == (True, result.content)
    assert door.told.tasks == [TASK]
    allowed = envelope(door.recorder.entries[0])
    assert allowed["policy_version"] == f"{door.peer.agent.name}:{door.peer.agent.digest[:12]}"
    assert remote.asked[0].headers["a2a-version"] == "1.0"
    message = remote.asked[0].params["message"]
    assert (message["parts"], message["role"]) == ([{"text": "count"}], "ROLE_USER")


async def test_a_message_without_a_task_is_the_answer(remote: RemoteMcp) -> None:
    said = {"message": {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": "At once."}]}}
    answering(remote, SendStreamingMessage=lambda asked: events(asked, said))
    assert (await delegations(remote).ask()).content == "At once."


async def test_a_task_that_is_being_worked_on_is_asked_for_until_it_ends(remote: RemoteMcp) -> None:
    polled = iter(["working", "working", "completed"])
    answering(
        remote,
        SendMessage=lambda asked: answer(asked, {"task": task("submitted")}),
        GetTask=lambda asked: answer(asked, task(next(polled), artifacts={"a": "Done."})),
    )
    result = await delegations(remote, streaming=False).ask()
    assert result.content == "Done."
    assert remote.calls == ["SendMessage", "GetTask", "GetTask", "GetTask"]
    assert remote.asked[0].params["configuration"]["returnImmediately"] is True


async def test_a_stream_that_breaks_off_is_followed_again_and_nothing_is_said_twice(remote: RemoteMcp) -> None:
    answering(
        remote,
        SendStreamingMessage=lambda asked: events(asked, {"task": task("working")}, artifact({"text": "One "})),
        SubscribeToTask=lambda asked: events(
            asked,
            {"task": task("working", artifacts={"a": "One two "})},
            artifact({"text": "three."}, append=True),
            status("completed"),
        ),
    )
    door = delegations(remote)
    assert (await door.ask()).content == "One two three."
    assert "".join(door.told.pieces) == "One two three."
    assert remote.asked[1].params["id"] == TASK


async def test_files_are_named_and_data_is_written_out(remote: RemoteMcp) -> None:
    parts = (
        {"text": "See:\u0007 "},
        {"url": "http://10.0.0.1/secret.pdf", "filename": "report.pdf", "mediaType": "application/pdf"},
        {"raw": "AAAA", "mediaType": "image/png"},
        {"data": {"total": 3}},
    )
    answering(remote, SendStreamingMessage=lambda asked: events(asked, artifact(*parts), status("completed")))
    content = (await delegations(remote).ask()).content
    assert "[file: report.pdf, application/pdf]" in content
    assert "[file: without a name, image/png, 3 bytes]" in content
    assert '{"total": 3' in content
    assert "10.0.0.1" not in content
    assert "\u0007" not in content
    assert len(remote.asked) == 1  # nothing was fetched


# --- what goes wrong


@pytest.mark.parametrize(
    ("reply", "told", "retryable"),
    [
        (Reply(200, b"<html>", {"content-type": "text/html"}), "not A2A as it should be", False),
        (Reply(200, b"\0\1", {"content-type": "application/octet-stream"}), "not A2A as it should be", False),
        (as_json([1, 2]), "not A2A as it should be", False),
        (as_json({"jsonrpc": "2.0", "id": 1, "result": {"task": 7}}), "not A2A as it should be", False),
        (
            as_json({"jsonrpc": "2.0", "id": 1, "error": {"code": -32602, "message": "no such skill"}}),
            "no such skill",
            False,
        ),
        (Reply(401), "refuses the credential", False),
        (Reply(307, headers={"location": "http://169.254.169.254/"}), "sends to another address", False),
        (Reply(429), "wants fewer tasks", True),
        (Reply(503), "in trouble (HTTP 503)", True),
        (Reply(200, b"{", {"content-type": "application/json"}, declared=99), "broke off the connection", True),
        (Reply(200, b"data: ", {"content-type": "text/event-stream"}, then="flood"), "more than may be read", False),
    ],
)
@pytest.mark.parametrize("streaming", [True, False])
async def test_what_is_no_answer_is_told_as_such(
    remote: RemoteMcp, reply: Reply, told: str, retryable: bool, streaming: bool
) -> None:
    answering(remote, SendStreamingMessage=reply, SendMessage=reply)
    door = delegations(remote, streaming=streaming)

    result = await door.ask()

    assert result.outcome is ToolOutcome.FAILED
    assert told in result.content
    assert result.retryable is retryable
    assert door.recorder.actions == ["delegation.allowed", "delegation.failed"]
    assert len(remote.asked) == 1  # whether it took effect is not known: it is not sent again


async def test_an_agent_that_may_be_asked_twice_is_with_the_same_message(remote: RemoteMcp) -> None:
    replies = iter([Reply(503), Reply(503)])
    done = {"task": task("completed", artifacts={"a": "Done."})}
    answering(remote, SendMessage=lambda asked: next(replies, None) or answer(asked, done))

    result = await delegations(remote, streaming=False, side_effects="keyed").ask()

    assert result.content == "Done."
    assert len({asked.params["message"]["messageId"] for asked in remote.asked}) == 1
    assert len(remote.asked) == 3


async def test_a_call_that_is_carried_out_again_sends_the_same_message(remote: RemoteMcp) -> None:
    answering(remote, SendMessage=lambda asked: answer(asked, {"task": task("completed", words="Done.")}))
    door = delegations(remote, streaming=False)
    await door.ask()
    await door.ask()
    await door.ask(call_id="call-2")
    first, again, other = (asked.params["message"]["messageId"] for asked in remote.asked)
    assert first == again != other


async def test_a_private_address_is_refused_wherever_the_card_leads(
    remote: RemoteMcp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "outbound_policy", lambda: OutboundPolicy())
    await loading.close_connections()
    result = await delegations(remote).ask()
    assert "may not be reached from here" in result.content
    assert remote.asked == []


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("failed", "could not do it: no sources"),
        ("rejected", "does not take the task: no sources"),
        ("canceled", "given the task up"),
    ],
)
async def test_a_task_that_was_not_done_is_no_answer(remote: RemoteMcp, state: str, told: str) -> None:
    answering(remote, SendStreamingMessage=lambda asked: events(asked, {"task": task(state, words="no sources")}))
    result = await delegations(remote).ask()
    assert (result.outcome, result.retryable) == (ToolOutcome.FAILED, False)
    assert told in result.content


async def test_a_silent_peer_is_given_up_after_its_time_and_told_so(remote: RemoteMcp) -> None:
    cancelled = asyncio.Event()
    loop = asyncio.get_running_loop()

    def note(asked: Asked) -> Reply:
        loop.call_soon_threadsafe(cancelled.set)
        return answer(asked, task("canceled"))

    answering(
        remote,
        SendStreamingMessage=lambda asked: events(asked, {"task": task("working")}, then="hang"),
        CancelTask=note,
    )
    result = await delegations(remote, timeout_seconds=0.5).ask()
    assert result.outcome is ToolOutcome.TIMED_OUT
    assert "did not answer within 0.5 seconds" in result.content
    assert cancelled.is_set()
    assert remote.asked[-1].params["id"] == TASK


async def test_an_endless_answer_is_cut_and_the_task_cancelled(remote: RemoteMcp) -> None:
    word = artifact({"text": "word " * 4000}, append=True)
    answering(
        remote,
        SendStreamingMessage=lambda asked: events(asked, {"task": task("working")}, *[word] * 10, then="hang"),
        CancelTask=lambda asked: answer(asked, task("canceled")),
    )
    result = await delegations(remote).ask()
    assert len(result.content) == 64_000
    assert remote.calls[-1] == "CancelTask"


async def test_a_credential_goes_with_each_request_and_comes_back_to_nobody(
    remote: RemoteMcp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEER_TOKEN", SECRET)
    answering(
        remote,
        SendStreamingMessage=lambda asked: events(asked, {"task": task("working")}),
        SubscribeToTask=lambda asked: events(asked, artifact({"text": f"You are {SECRET}."}), status("failed", SECRET)),
    )
    door = delegations(remote, credential="PEER_TOKEN")
    result = await door.ask()
    assert [asked.headers["authorization"] for asked in remote.asked] == [f"Bearer {SECRET}"] * 2
    assert SECRET not in result.content + "".join(door.told.pieces)
    assert "[redacted]" in result.content


async def test_a_missing_credential_is_for_an_operator(remote: RemoteMcp) -> None:
    result = await delegations(remote, credential="NO_SUCH_TOKEN").ask()
    assert "an operator can do that" in result.content
    assert remote.asked == []


# --- questions


async def test_a_question_is_passed_up_and_its_answer_goes_on_with_the_task(remote: RemoteMcp) -> None:
    answering(
        remote,
        SendStreamingMessage=lambda asked: events(
            asked,
            {"task": task("completed", words="Ordered.")}
            if asked.params["message"].get("taskId")
            else status("input_required", "How many?"),
        ),
    )
    door, actor = delegations(remote), somebody()

    asked = await door.ask("tea", actor=actor)
    key = asked.content.rpartition(" ")[2]
    at_once = await door.ask("one", actor=actor, continues=key)
    door.run_id = uuid7()  # a next one: the user has said something
    answered = await door.ask("three", actor=actor, continues=key)
    stranger = await door.ask("three", actor=somebody(), continues=key)

    assert asked.outcome is ToolOutcome.FAILED
    assert door.told.failures[0][0] == "input_required"
    assert "It asks: How many?" in asked.content
    assert "The user has not answered the question yet" in at_once.content
    assert answered.content == "Ordered."
    message = remote.asked[1].params["message"]
    assert (message["taskId"], message["contextId"]) == (TASK, "context")
    assert "`continues` is not what came with a question" in stranger.content
    assert len(remote.asked) == 2


# --- a peer that is gone


async def test_a_peer_that_keeps_failing_is_left_alone_for_a_while_and_tried_once() -> None:
    now = [0.0]
    circuit = Circuit(open_seconds=30.0, clock=lambda: now[0])
    with remote_mcp() as remote:
        card = peer_card(remote, streaming=True)
        card["supportedInterfaces"] = [{**card["supportedInterfaces"][0], "url": f"http://127.0.0.1:{free_port()}/"}]
        gone = Delegations(registered(card), circuit)
        told = [(await gone.ask()).content for _ in range(3)]
        assert all("could not be reached" in text for text in told)

        left_alone = await gone.ask()
        assert "kept failing" in left_alone.content
        assert (left_alone.retryable, left_alone.retry_after_seconds) == (True, 30.0)

        now[0] = 31.0
        answering(remote, SendStreamingMessage=lambda asked: events(asked, {"task": task("completed", words="Back.")}))
        back = delegations(remote, circuit=circuit)
        assert (await back.ask()).content == "Back."
        assert (await back.ask()).content == "Back."


async def test_answers_that_are_only_wrong_open_no_circuit(remote: RemoteMcp) -> None:
    answering(
        remote, SendStreamingMessage=as_json({"jsonrpc": "2.0", "id": 1, "error": {"code": -32602, "message": "no"}})
    )
    door = delegations(remote)
    assert ["refused: no" in (await door.ask()).content for _ in range(5)] == [True] * 5


# --- circles


async def test_who_handed_the_task_on_goes_along_up_to_a_limit(remote: RemoteMcp) -> None:
    answering(remote, SendStreamingMessage=lambda asked: events(asked, {"task": task("completed", words="Done.")}))
    door = delegations(remote)
    before = ("elsewhere/one", "elsewhere/two")

    await door.ask(handover=Handover("assistant", before))
    assert read_hops(remote.asked[0].params["message"]["metadata"]) == (*before, own_name("assistant"))

    too_many = await door.ask(handover=Handover("assistant", tuple(f"elsewhere/{n}" for n in range(5))))
    in_a_circle = await door.ask(handover=Handover("assistant", handed_on(before, "assistant")))
    assert (too_many.outcome, in_a_circle.outcome) == (ToolOutcome.DENIED, ToolOutcome.DENIED)
    assert "handed on 5 times" in too_many.content
    assert "in a circle" in in_a_circle.content
    assert envelope(door.recorder.entries[-1])["reason"] == "too_many_hops"
    assert len(remote.asked) == 1


@pytest.mark.parametrize("metadata", [None, [], {METADATA_KEY: "x"}, {METADATA_KEY: {"a": 1}}, {}])
def test_metadata_that_names_nobody_begins_a_chain(metadata: object) -> None:
    assert read_hops(metadata) == ()


# --- a successor


async def test_a_successor_asks_for_the_task_instead_of_handing_it_over_again(remote: RemoteMcp) -> None:
    answering(
        remote,
        SubscribeToTask=as_json({"jsonrpc": "2.0", "id": 1, "error": {"code": -32004, "message": "it has ended"}}),
        GetTask=lambda asked: answer(asked, task("completed", artifacts={"a": "Done meanwhile."})),
    )
    result = await delegations(remote).ask(handover=Handover(attach=TASK))
    assert result.content == "Done meanwhile."
    assert remote.calls == ["SubscribeToTask", "GetTask"]


@pytest.mark.parametrize(("goes_on", "calls"), [(lambda: False, ["CancelTask"]), (lambda: True, [])])
async def test_a_cancelled_run_cancels_the_task_unless_it_goes_on_elsewhere(
    remote: RemoteMcp, goes_on: Callable[[], bool], calls: list[str]
) -> None:
    answering(
        remote,
        SendStreamingMessage=lambda asked: events(
            asked, {"task": task("working")}, artifact({"text": "I"}), then="hang"
        ),
        CancelTask=lambda asked: answer(asked, task("canceled")),
    )
    door = delegations(remote)
    began = asyncio.Event()
    door.told.accepted = lambda task_id: began.set()  # type: ignore[method-assign]
    asking = asyncio.create_task(door.ask(handover=Handover(goes_on=goes_on)))
    await asyncio.wait_for(began.wait(), 10)

    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    assert remote.calls == ["SendStreamingMessage", *calls]
