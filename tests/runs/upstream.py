"""A model server of the tests' own: it calls what it was not offered, and notices when it is hung up on."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Upstream:
    """Listens on a free loopback port; `requests` holds the documents it was sent."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.hung_up = threading.Event()
        self.may_answer_after_tools = threading.Event()
        self.may_answer_after_tools.set()
        self.reasoning_ends = threading.Event()
        self._stopping = threading.Event()
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                upstream.requests.append(request)
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                try:
                    upstream._answer(self, request)
                except OSError:
                    upstream.hung_up.set()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """What OPENAI_BASE_URL is set to."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def close(self) -> None:
        """Stop listening and answering."""
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        def send(delta: dict[str, Any], finish: str | None = None) -> None:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
            handler.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
            handler.wfile.flush()

        last = request["messages"][-1]
        if last["role"] == "tool":
            self.may_answer_after_tools.wait(60)
        if last["role"] == "user" and "endless" in last["content"]:
            while not self._stopping.wait(0.02):
                send({"content": "and so on "})
            return
        if last["role"] == "user" and "reason" in last["content"]:
            for word in ("The", " user", " wants"):
                send({"reasoning_content": word})
            if self.reasoning_ends.wait(60):
                send({"content": "So be it."})
                send({}, "stop")
            return
        if last["role"] == "user" and "slowly" in last["content"]:
            for word in range(100):
                send({"content": f"{word} "})
                if self._stopping.wait(0.03):
                    return
            send({}, "stop")
        elif name := _tool_to_call(request["messages"]):
            function = {"name": name, "arguments": "{}"}
            if name == "make_plan":
                function["arguments"] = last["content"].removeprefix("call make_plan ")
            number = sum(message["role"] == "tool" for message in request["messages"]) + 1
            send({"tool_calls": [{"index": 0, "id": f"call_{number}", "type": "function", "function": function}]})
            send({}, "tool_calls")
        else:
            send({"content": f"I was told: {last['content']}"})
            send({}, "stop")
        handler.wfile.write(b"data: [DONE]\n\n")


def _tool_to_call(messages: list[dict[str, Any]]) -> str:
    """`call NAME` calls that tool once, `call NAME twice` again after its first result."""
    last, asked = messages[-1], next(m for m in reversed(messages) if m["role"] == "user")
    words = asked["content"].split() if isinstance(asked["content"], str) else []
    if words[:1] != ["call"]:
        return ""
    results = sum(message["role"] == "tool" for message in messages[messages.index(asked) :])
    is_due = last is asked or (words[2:3] == ["twice"] and results == 1)
    return words[1] if is_due else ""
