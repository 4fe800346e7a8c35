"""Logs: one JSON object a line, bound to request and run, without what must not be in a log."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from agentbackend.structured_logging import REDACTED, redact, without_secrets
from tests.running_service import Caller, RunningService

WAIT_SECONDS = 10.0


def _lines(service: RunningService) -> list[dict[str, Any]]:
    return [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]


def _lines_until(service: RunningService, request_id: str, event: str) -> list[dict[str, Any]]:
    """The log's lines of a request, once there is one of this event: it is written after the client has its answer."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        found = [line for line in _lines(service) if line.get("request_id") == request_id]
        if any(line["event"] == event for line in found):
            return found
        time.sleep(0.02)
    raise AssertionError(f"no line {event!r} of request {request_id}:\n{service.tail()}")


def _asked(service: RunningService, path: str, **options: Any) -> list[dict[str, Any]]:
    request_id = str(uuid4())
    with service.client() as client:
        client.get(path, headers={"X-Request-ID": request_id}, **options)
    return _lines_until(service, request_id, "request")


def test_every_line_is_one_json_object_with_time_level_logger_and_event(service: RunningService) -> None:
    text = service.log.read_text().splitlines()
    assert text
    for line in text:
        record = json.loads(line)
        assert {"timestamp", "level", "logger", "event"} <= set(record)
        assert record["timestamp"].endswith("Z")


def test_a_request_has_one_line_with_method_path_status_and_duration(service: RunningService) -> None:
    lines = _asked(service, "/health")
    assert len(lines) == 1
    line = lines[0]
    assert (line["method"], line["path"], line["status"]) == ("GET", "/health", 200)
    assert line["duration_ms"] >= 0


def test_a_stream_has_a_line_when_it_opens_and_one_when_it_ends(service: RunningService) -> None:
    request_id = str(uuid4())
    service.stream(Caller(), "GET", "/ag-ui/events", headers={"X-Request-ID": request_id})
    lines = _lines_until(service, request_id, "request")
    events = [line["event"] for line in lines if line["logger"] == "agentbackend.requests"]
    assert events == ["stream opened", "request"]


def test_what_the_user_wrote_is_in_no_line(service: RunningService) -> None:
    word = "zanzibar" + secrets.token_hex(4)
    request_id = str(uuid4())
    service.stream(
        Caller(), "GET", "/ag-ui/events", params={"user_message": f"hello {word}"}, headers={"X-Request-ID": request_id}
    )
    _lines_until(service, request_id, "request")
    _asked(service, "/playground/", params={"user_message": word})
    _asked(service, f"/no-such-page?user_message={word}")
    assert word not in service.log.read_text()


def test_secrets_in_headers_are_in_no_line(service: RunningService) -> None:
    token = "token-" + secrets.token_hex(16)
    request_id = str(uuid4())
    with service.client() as client:
        headers = {"X-Request-ID": request_id, "Authorization": f"Bearer {token}", "Cookie": f"sessionid={token}"}
        client.get("/admin/", headers=headers)
    _lines_until(service, request_id, "request")
    assert token not in service.log.read_text()


@pytest.mark.parametrize("given", [{}, {"X-Request-ID": "not usable <x>"}], ids=["none", "unusable"])
def test_all_lines_of_a_request_to_django_have_the_id_that_the_service_gave_it(
    service: RunningService, given: dict[str, str]
) -> None:
    page = f"/no-such-page-{secrets.token_hex(4)}"
    with service.client() as client:
        client.get(page, headers=given)
    deadline = time.monotonic() + WAIT_SECONDS
    found: list[dict[str, Any]] = []
    while len(found) < 2 and time.monotonic() < deadline:
        found = [line for line in _lines(service) if page in str(line)]
    assert {line["logger"] for line in found} == {"django.request", "agentbackend.requests"}
    assert len({line.get("request_id") for line in found}) == 1
    assert found[0]["request_id"] not in given.values()


def _redact(**event: Any) -> dict[str, Any]:
    return dict(redact(None, "info", event))


@pytest.mark.parametrize(
    "text",
    [
        "GET /ag-ui/events?user_message=hidden&x=1",
        "see https://api.example.org/v1?token=hidden",
        "Authorization: Bearer hidden-hidden-hidden",
        "key sk-hiddenhiddenhidden was refused",
        "postgresql://user:hidden@host/name",
        "redis://:hidden@host:6379/0",
    ],
)
def test_secrets_and_query_strings_are_taken_out_of_texts(text: str) -> None:
    assert "hidden" not in without_secrets(text)
    assert REDACTED in without_secrets(text)


@pytest.mark.parametrize("text", ["Is it raining?", "what? x=1", "a plain line", "2 * (3 + 4) = 14?"])
def test_ordinary_texts_stay_as_they_are(text: str) -> None:
    assert without_secrets(text) == text


@pytest.mark.parametrize("name", ["password", "api_key", "Authorization", "cookie", "client_secret", "access_token"])
def test_values_under_secret_names_are_taken_out_however_deep(name: str) -> None:
    assert "hidden" not in str(_redact(**{name: "hidden"}))
    assert "hidden" not in str(_redact(details={"headers": [{name: "hidden"}]}))


def test_objects_are_written_without_their_secrets() -> None:
    assert "hidden" not in str(_redact(error=ValueError("postgresql://user:hidden@host/name")))


def test_numbers_and_none_stay_what_they_are() -> None:
    assert _redact(status=200, duration_ms=1.5, ok=True, nothing=None) == {
        "status": 200, "duration_ms": 1.5, "ok": True, "nothing": None,
    }  # fmt: skip


@pytest.fixture
def logged(project_root: Path) -> Callable[[str], list[dict[str, Any]]]:
    """The lines that a few statements log in a process of their own."""

    def run(statements: str) -> list[dict[str, Any]]:
        program = (
            "import logging, structlog\nfrom agentbackend.structured_logging import configure_logging\n"
            f"configure_logging('INFO', debug=False)\n{statements}"
        )
        ended = subprocess.run(
            [sys.executable, "-c", program],
            cwd=project_root, env=dict(os.environ), capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        return [json.loads(line) for line in ended.stdout.splitlines()]

    return run


def test_an_exception_is_logged_on_its_line_without_local_variables(logged: Callable[..., Any]) -> None:
    lines = logged(
        "def fail():\n  local = 'hid' + 'den'\n  raise ValueError('to postgresql://user:pass' + 'word@host/x')\n"
        "try:\n  fail()\nexcept ValueError:\n  logging.getLogger('x').exception('it failed')\n"
    )
    assert len(lines) == 1
    assert "ValueError" in lines[0]["exception"]
    assert "hidden" not in str(lines)
    assert "password" not in str(lines)


def test_both_ways_of_logging_give_the_same_fields(logged: Callable[..., Any]) -> None:
    ours, theirs = logged(
        "structlog.contextvars.bind_contextvars(request_id='r1', run_id='n1')\n"
        "structlog.stdlib.get_logger('x').info('said', size=1)\n"
        "logging.getLogger('x').info('said', extra={'size': 1})\n"
    )
    assert ours.keys() == theirs.keys()
    assert (ours["request_id"], ours["run_id"], ours["size"], theirs["size"]) == ("r1", "n1", 1, 1)


def test_a_span_gives_its_ids_to_the_lines_within(logged: Callable[..., Any]) -> None:
    lines = logged(
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "with TracerProvider().get_tracer('t').start_as_current_span('s'):\n  logging.getLogger('x').info('inside')\n"
        "logging.getLogger('x').info('outside')\n"
    )
    assert len(lines[0]["trace_id"]) == 32
    assert len(lines[0]["span_id"]) == 16
    assert "trace_id" not in lines[1]
