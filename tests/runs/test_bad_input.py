"""What cannot be used is refused before a run begins, by field, and leaves nothing behind."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.running_service import Caller, RunningService, run_input
from tests.runs.support import Stored, eventually, user

JSON = {"Content-Type": "application/json"}
MESSAGE = {"id": "m", "role": "user", "content": "hello"}


def refused(service: RunningService, caller: Caller, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    """Post a body; the status and the problem document."""
    with service.client(caller) as client:
        answer = client.post("/ag-ui/events", content=body, headers={**JSON, **headers})
    assert answer.headers["content-type"] == "application/problem+json", answer.text[:300]
    document = answer.json()
    assert document["status"] == answer.status_code
    assert document["title"]
    assert document["request_id"]
    return answer.status_code, document


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"threadId": ...}, "threadId"),
        ({"runId": ...}, "runId"),
        ({"messages": ...}, "messages"),
        ({"threadId": 7}, "threadId"),
        ({"threadId": ""}, "threadId"),
        ({"threadId": "a b"}, "threadId"),
        ({"threadId": "t" * 129}, "threadId"),
        ({"runId": "r\n"}, "runId"),
        ({"runId": None}, "runId"),
        ({"parentRunId": "a b"}, "parentRunId"),
        ({"messages": {}}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [MESSAGE] * 2001}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"id": "m", "role": "user"}]}, "messages[0].content"),
        ({"messages": [{"id": "m", "role": "wizard", "content": ""}]}, "messages[0].role"),
        ({"messages": [{"id": "", "role": "user", "content": ""}]}, "messages[0].id"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages[0].id"),
        ({"messages": [{"id": "m", "role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"id": "m", "role": "user", "content": {"a": 1}}]}, "messages[0].content"),
        ({"messages": [user([{"text": "a"}])]}, "messages[0].content[0].type"),
        ({"messages": [user([{"type": "text"}])]}, "messages[0].content[0].text"),
        ({"messages": [user([{"type": "image"}])]}, "messages[0].content[0].source"),
        ({"messages": [{"id": "m", "role": "tool", "content": "x"}]}, "messages[0].toolCallId"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"name": "t"}] * 129}, "tools"),
        ({"tools": [{"description": "no name"}]}, "tools[0].name"),
        ({"tools": [{"name": ""}]}, "tools[0].name"),
        ({"tools": [{"name": "t", "parameters": 3}]}, "tools[0].parameters"),
        ({"context": [{"description": "d"}]}, "context[0].value"),
        ({"protocolVersion": 1}, "protocolVersion"),
        ({"resume": [{"interruptId": "i", "status": "resolved"}]}, "resume"),
        ({"resume": [{"interruptId": "i", "status": "maybe"}]}, "resume[0].status"),
        ({"state": json.loads("[" * 70 + "]" * 70)}, "state"),
        ({"state": {"a": [2**64]}}, "state.a[0]"),
        ({"forwardedProps": {"n": -(2**63) - 1}}, "forwardedProps.n"),
        ({"tools": [{"name": "t", "parameters": {"maximum": 10**30}}]}, "tools[0].parameters.maximum"),
        ({"messages": [user([{"type": "thing", "size": 10**30}])]}, "messages[0].content[0].size"),
        ({"messages": [user([{"type": "thing", "source": [1]}])]}, "messages[0].content[0].source"),
        ({"messages": [user([{"type": "text", "text": "a", "source": "b"}])]}, "messages[0].content[0].source"),
        ({"messages": [user([{"type": "thing", "text": 5}])]}, "messages[0].content[0].text"),
        (
            {"messages": [user([{"type": "audio", "source": {"type": "data", "value": "x", "mimeType": ["a"]}}])]},
            "messages[0].content[0].source.mimeType",
        ),
        ({"forwardedProps": json.loads('{"a":' * 70 + "1" + "}" * 70)}, "forwardedProps"),
    ],
    ids=lambda value: str(value)[:48] if isinstance(value, str) else "",
)
def test_a_field_of_the_wrong_form_is_named(
    service: RunningService, stored: Stored, changes: dict[str, Any], field: str
) -> None:
    caller = Caller()
    status, problem = refused(service, caller, json.dumps(run_input("hello", **changes)).encode())
    assert (status, problem["code"], problem["field"]) == (422, "invalid_input", field)
    assert stored.rows_of(caller) == (0, 0, 0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"{",
        b'{"threadId": }',
        b"\xff\xfe",
        b'{"a": "\xed\xa0\x80"}',
        b"[" * 100_000,
        b'{"a":NaN}',
        b"{}{}",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_not_json_is_refused(service: RunningService, stored: Stored, body: bytes) -> None:
    caller = Caller()
    status, problem = refused(service, caller, body)
    assert status in (400, 422)
    assert problem["code"] in ("invalid_json", "invalid_input")
    assert stored.rows_of(caller) == (0, 0, 0)


@pytest.mark.parametrize("body", [b"[]", b"null", b'"text"', b"7"])
def test_json_of_another_kind_is_refused(service: RunningService, stored: Stored, body: bytes) -> None:
    caller = Caller()
    status, problem = refused(service, caller, body)
    assert (status, problem["code"], problem["field"]) == (422, "invalid_input", "(body)")
    assert stored.rows_of(caller) == (0, 0, 0)


@pytest.mark.parametrize("escape", ["\\u0000", "\\ud800", "\\uDC00", "\\udbff\\u0041"])
@pytest.mark.parametrize("field", ["messages[0].content", "state.deep[0]", "context[0].value", "runId"])
def test_text_that_cannot_be_kept_is_refused_wherever_it_stands(
    service: RunningService, stored: Stored, escape: str, field: str
) -> None:
    changes: dict[str, Any] = {
        "messages[0].content": {"messages": [{**MESSAGE, "content": "a@b"}]},
        "state.deep[0]": {"state": {"deep": ["a@b"]}},
        "context[0].value": {"context": [{"description": "d", "value": "a@b"}]},
        "runId": {"runId": "a@b"},
    }[field]
    caller = Caller()
    body = json.dumps(run_input("hello", **changes)).replace("a@b", f"a{escape}b").encode()
    status, problem = refused(service, caller, body)
    assert (status, problem["field"]) == (422, field)
    assert stored.rows_of(caller) == (0, 0, 0)


def test_escapes_that_only_look_like_it_are_taken(service: RunningService) -> None:
    said = "a \\u0000 b \\ud800 c 🌍"
    assert json.dumps(said).count("\\\\u0000") == 1
    frames = service.post_run(Caller(), said)
    assert said in "".join(frame.event.get("delta", "") for frame in frames)


def test_a_body_over_one_megabyte_is_refused_and_one_below_is_taken(service: RunningService, stored: Stored) -> None:
    caller = Caller()
    status, problem = refused(service, caller, json.dumps(run_input("x" * 1024 * 1024)).encode())
    assert (status, problem["code"]) == (413, "body_too_large")
    assert stored.rows_of(caller) == (0, 0, 0)
    frames = service.post_run(caller, "x" * 1_000_000)
    assert frames[-1].event["type"] == "RUN_FINISHED"


@pytest.mark.parametrize("kind", ["text/plain", "", "application/jsonp", "application/x-www-form-urlencoded"])
def test_a_body_of_another_kind_is_refused(service: RunningService, stored: Stored, kind: str) -> None:
    caller = Caller()
    status, problem = refused(service, caller, json.dumps(run_input("hello")).encode(), **{"Content-Type": kind})
    assert (status, problem["code"]) == (415, "unsupported_media_type")
    assert stored.rows_of(caller) == (0, 0, 0)


def test_a_content_type_with_a_character_set_is_taken(service: RunningService) -> None:
    with service.client(Caller()) as client:
        answer = client.post(
            "/ag-ui/events",
            content=json.dumps(run_input("hello")),
            headers={"Content-Type": "Application/JSON; charset=utf-8"},
        )
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "user_id", [None, "", "me", "6F1C9A52-0C1E-4B5E-9A54-0D9C4B7F2A11", "{6f1c9a52-0c1e-4b5e-9a54-0d9c4b7f2a11}", "0"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_a_usable_user_id_nobody_is_served(service: RunningService, method: str, user_id: str | None) -> None:
    headers = {} if user_id is None else {"X-Supabase-User-ID": user_id}
    body = json.dumps(run_input("hello")) if method == "POST" else None
    with service.client() as client:
        answer = client.request(method, "/ag-ui/events", headers={**JSON, **headers}, content=body)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "invalid_user_id"


@pytest.mark.parametrize("session", ["", "s" * 129, "a b", "ä"])
def test_a_session_id_that_cannot_be_echoed_is_refused(service: RunningService, stored: Stored, session: str) -> None:
    caller = Caller()
    with service.client(caller) as client:
        answer = client.get("/ag-ui/events", headers={"X-Session-ID": session.encode()})
    assert answer.status_code == 400, answer.text[:200]
    assert stored.rows_of(caller) == (0, 0, 0)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("DELETE", "/ag-ui/events", 405),
        ("PUT", "/ag-ui/events", 405),
        ("POST", "/ag-ui/runs/nothing/events", 405),
        ("GET", "/ag-ui/runs/nothing/cancel", 405),
        ("GET", "/ag-ui/runs/nothing/events", 404),
        ("POST", "/ag-ui/runs/nothing/cancel", 404),
        ("GET", "/ag-ui/", 404),
        ("GET", "/ag-ui/events/", 404),
        ("GET", "/ag-ui/runs/nothing", 404),
    ],
)
def test_other_methods_and_addresses_are_refused_in_the_same_form(
    service: RunningService, method: str, path: str, status: int
) -> None:
    with service.client(Caller()) as client:
        answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert ("allow" in answer.headers) == (status == 405)


def test_the_thread_of_another_user_is_not_found_by_any_way(service: RunningService, stored: Stored) -> None:
    wish, stranger = run_input("hello"), Caller()
    service.stream(Caller(), "POST", "/ag-ui/events", json=wish)
    status, problem = refused(service, stranger, json.dumps(run_input("hello", threadId=wish["threadId"])).encode())
    assert (status, problem["code"]) == (404, "not_found")
    with service.client(stranger) as client:
        answers = [
            client.get("/ag-ui/events", params={"thread_id": wish["threadId"]}),
            client.get(f"/ag-ui/runs/{wish['runId']}/events"),
            client.post(f"/ag-ui/runs/{wish['runId']}/cancel"),
        ]
    assert [answer.status_code for answer in answers] == [404, 404, 404]
    assert stored.rows_of(stranger) == (0, 0, 0)


def test_a_run_id_is_used_once_by_its_owner_and_is_free_for_others(service: RunningService, stored: Stored) -> None:
    caller, wish = Caller(), run_input("hello")
    service.stream(caller, "POST", "/ag-ui/events", json=wish)
    again = {**run_input("hello"), "runId": wish["runId"]}
    status, problem = refused(service, caller, json.dumps(again).encode())
    assert (status, problem["code"], problem["field"]) == (409, "run_exists", "runId")
    assert stored.rows_of(caller) == (1, 1, 1)
    frames = service.stream(Caller(), "POST", "/ag-ui/events", json=again)
    assert frames[-1].event["type"] == "RUN_FINISHED"


def test_a_refusal_is_recorded_with_its_reason(service: RunningService, stored: Stored) -> None:
    caller = Caller()
    _, problem = refused(service, caller, b"{}")
    found = eventually(
        lambda: stored.values(
            "SELECT reason FROM audit_events WHERE action = 'request.refused' AND request_id = %s",
            problem["request_id"],
        ),
        "the refusal is recorded",
    )
    assert found == ["invalid_input"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("usermessage=hello", "usermessage"),
        ("agent=none", "agent"),
        ("user_message=a&user_message=b", "user_message"),
        ("user_message=hello&protocol=ag-ui&x=1", "x"),
    ],
)
def test_a_parameter_that_is_not_known_or_repeated_begins_no_run(
    service: RunningService, stored: Stored, query: str, field: str
) -> None:
    caller = Caller()
    with service.client(caller) as client:
        answer = client.get(f"/ag-ui/events?{query}")
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert stored.rows_of(caller) == (0, 0, 0)


@pytest.mark.parametrize(
    ("names", "field"), [(["a b"], "tools[0].name"), ([""], "tools[0].name"), (["one", "two", "one"], "tools[2].name")]
)
def test_tools_that_no_model_takes_are_refused(service: RunningService, names: list[str], field: str) -> None:
    tools = [{"name": name, "description": "x"} for name in names]
    with service.client(Caller()) as client:
        answer = client.post("/ag-ui/events", json=run_input("hello", tools=tools))
    assert (answer.status_code, answer.json()["field"]) == (422, field)
