"""Answers that authentication sends itself, and what it adds to the application's."""

from __future__ import annotations

from typing import Any

from asgiref.typing import ASGISendCallable

from agentbackend.foundation.problems import Problem

_POLICY_VIOLATION = 1008


async def answer_problem(problem: Problem, scope: dict[str, Any], send: ASGISendCallable) -> None:
    """Send a refusal as problem+json.

    A WebSocket gets it where the server can, else its handshake is refused (403).
    """
    prefix = "http.response"
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": problem.code})
            return
        prefix = "websocket.http.response"
    body = problem.body(scope["request_id"])
    start: Any = {"type": f"{prefix}.start", "status": problem.kind.status, "headers": _headers(problem, scope, body)}
    await send(start)
    end: Any = {"type": f"{prefix}.body", "body": b"" if scope.get("method") == "HEAD" else body}
    await send(end)


def echoing(scope: dict[str, Any], send: ASGISendCallable) -> ASGISendCallable:
    """A `send` that names request and session in the answer's headers, unless the application does."""
    ours = [(b"x-request-id", scope["request_id"].encode())]
    if scope["session_id"]:
        ours.append((b"x-session-id", scope["session_id"].encode()))

    async def send_with_names(message: Any) -> None:
        if message["type"] == "http.response.start":
            given = [(name, value) for name, value in message.get("headers", ())]
            present = {name.lower() for name, _ in given}
            message = {**message, "headers": given + [(n, v) for n, v in ours if n not in present]}
        await send(message)

    return send_with_names


def _headers(problem: Problem, scope: dict[str, Any], body: bytes) -> list[tuple[bytes, bytes]]:
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"x-request-id", scope["request_id"].encode()),
        *problem.headers,
    ]
    if problem.kind.status == 401 and not any(name == b"www-authenticate" for name, _ in headers):
        headers.append((b"www-authenticate", b"SBGW1"))
    return headers
