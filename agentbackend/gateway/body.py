"""Taking a request's body whole, because the signature covers it, and handing it on."""

from __future__ import annotations

from asgiref.typing import ASGIReceiveCallable, ASGIReceiveEvent

from agentbackend.foundation.problems import Problem
from agentbackend.gateway.headers import RequestHeaders

MAX_BODY_BYTES = 1024 * 1024


class ClientGoneError(Exception):
    """The client left before its request was complete: there is nobody to answer."""


async def read_body(receive: ASGIReceiveCallable, headers: RequestHeaders) -> bytes:
    """The whole body. Raises Problem (`body_too_large`, `invalid_header`) or ClientGoneError."""
    declared = _declared_length(headers)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGoneError
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise _too_large()
        parts.append(part)
        if not message.get("more_body", False):
            break
    if declared not in (None, size):
        raise Problem("invalid_header", "Content-Length is not the length of the body.", field="Content-Length")
    return b"".join(parts)


def replaying(body: bytes, receive: ASGIReceiveCallable) -> ASGIReceiveCallable:
    """A `receive` that gives the body first and then what really comes: the client's disconnect."""
    given = False

    async def receive_again() -> ASGIReceiveEvent:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def _declared_length(headers: RequestHeaders) -> int | None:
    text = headers.get("content-length")
    if "content-length" not in headers:
        return None
    if not (text.isascii() and text.isdigit()):
        raise Problem("invalid_header", "Content-Length is not a number.", field="Content-Length")
    if len(text) > 12 or int(text) > MAX_BODY_BYTES:
        raise _too_large()
    return int(text)


def _too_large() -> Problem:
    return Problem("body_too_large", f"The request body may have at most {MAX_BODY_BYTES} bytes.", field="(body)")
