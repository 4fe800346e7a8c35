"""What is no request that can be read is answered as a problem like any other, and closes no other connection."""

from __future__ import annotations

import json
import socket

import pytest

from tests.running_service import Caller, RunningService, run_input


def answered(service: RunningService, sent: bytes) -> tuple[int, dict[str, object]]:
    """Status and document of what the service answers to these bytes."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(sent)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head, received
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"GET /ag-ui/events?user_message=" + b"x" * 70_000, 414, "uri_too_long"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 70_000, 431, "headers_too_large"),
        (
            b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
            + b"".join(b"X-%d: %b\r\n" % (n, b"x" * 30_000) for n in range(5)),
            431,
            "headers_too_large",
        ),
        (b"this is no HTTP\r\n\r\n", 400, "malformed_request"),
        (b"POST /ag-ui/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n", 400, "malformed_request"),
    ],
)
def test_bytes_that_are_no_request_are_told_why(service: RunningService, sent: bytes, status: int, code: str) -> None:
    found, document = answered(service, sent)
    assert (found, document["code"]) == (status, code)


def test_a_long_question_fits_on_the_request_line(service: RunningService) -> None:
    frames = service.stream(Caller(), "GET", "/ag-ui/events?user_message=" + "hello%20" * 3000)
    assert frames[-1].event["data"]["final"]


@pytest.mark.parametrize("body", [b"--x\r\nno form", json.dumps(run_input("hello")).encode()])
def test_a_form_is_not_taken_for_an_input(service: RunningService, body: bytes) -> None:
    with service.client(Caller()) as client:
        answer = client.post("/ag-ui/events", content=body, headers={"content-type": "multipart/form-data; boundary=x"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
