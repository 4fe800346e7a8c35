"""What the AG-UI endpoint accepts as a RunAgentInput, and how it says what is wrong."""

import json
from typing import Any

import pytest

from agentbackend.foundation.problems import Problem
from orchestration.run_input import parse_run_input

USER_MESSAGE = {"id": "m1", "role": "user", "content": "Hello"}


def body(**changes: Any) -> bytes:
    document = {"threadId": "t1", "runId": "r1", "messages": [USER_MESSAGE], **changes}
    return json.dumps({key: value for key, value in document.items() if value is not ...}).encode()


def refused(raw: bytes) -> Problem:
    with pytest.raises(Problem) as caught:
        parse_run_input(raw)
    return caught.value


def test_a_minimal_input_is_taken() -> None:
    given = parse_run_input(body())
    assert (given.thread_id, given.run_id, given.messages) == ("t1", "r1", [USER_MESSAGE])
    assert given.protocol_version is None


@pytest.mark.parametrize(
    ("raw", "code", "field"),
    [
        (b"{", "invalid_json", "(body)"),
        (b"\xff\xfe", "invalid_json", "(body)"),
        (b"[]", "invalid_input", "(body)"),
        (body(threadId=...), "invalid_input", "threadId"),
        (body(runId=7), "invalid_input", "runId"),
        (body(runId="with space"), "invalid_input", "runId"),
        (body(threadId="x" * 129), "invalid_input", "threadId"),
        (body(messages="no"), "invalid_input", "messages"),
        (body(messages=[{"id": "m", "role": "king", "content": ""}]), "invalid_input", "messages[0].role"),
        (body(messages=[USER_MESSAGE, {"role": "user", "content": "x"}]), "invalid_input", "messages[1].id"),
        (body(messages=[{"id": "m", "role": "user"}]), "invalid_input", "messages[0].content"),
        (body(messages=[{"id": "m", "role": "tool", "content": "x"}]), "invalid_input", "messages[0].toolCallId"),
        (body(messages=[{"id": "m", "role": "user", "content": [{"text": "x"}]}]), "invalid_input", "messages[0].content[0].type"),
        (body(messages=[{"id": "m", "role": "user", "content": "a\x00b"}]), "invalid_input", "messages[0].content"),
        (body(messages=[{"id": "m", "role": "user", "content": "a\ud800b"}]), "invalid_input", "messages[0].content"),
        (body(state={"k\x00": 1}), "invalid_input", "state"),
        (body(tools=[{"name": "", "description": ""}]), "invalid_input", "tools[0].name"),
        (body(tools=[{"name": "x", "parameters": []}]), "invalid_input", "tools[0].parameters"),
        (body(resume=[{"interruptId": "i", "status": "maybe"}]), "invalid_input", "resume[0].status"),
    ],
)  # fmt: skip
def test_unusable_input_is_refused_with_the_name_of_the_field(raw: bytes, code: str, field: str) -> None:
    problem = refused(raw)
    assert (problem.code, problem.field) == (code, field)


def test_deep_nesting_is_refused_and_not_a_crash() -> None:
    assert refused(b'{"state":' + b"[" * 100_000).code == "invalid_input"
    nested: list[Any] = []
    for _ in range(100):
        nested = [nested]
    assert refused(body(state={"deep": nested})).field == "state"


def test_a_backslash_before_u0000_is_text_and_not_a_nul() -> None:
    given = parse_run_input(body(messages=[{"id": "m", "role": "user", "content": "write \\u0000 in C"}]))
    assert given.messages[0]["content"] == "write \\u0000 in C"


def test_emoji_written_as_surrogate_pairs_are_text() -> None:
    raw = b'{"threadId":"t","runId":"r","messages":[{"id":"m","role":"user","content":"\\ud83d\\ude00"}]}'
    assert parse_run_input(raw).messages[0]["content"] == "\U0001f600"


def test_the_legacy_binary_part_becomes_the_part_of_its_media_type() -> None:
    part = {"type": "binary", "mimeType": "image/png", "data": "aGk="}
    given = parse_run_input(body(messages=[{"id": "m", "role": "user", "content": [part]}]))
    assert given.messages[0]["content"] == [
        {"type": "image", "source": {"type": "data", "value": "aGk=", "mimeType": "image/png"}}
    ]
