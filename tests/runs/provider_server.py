"""A provider of models of the tests' own: what it does is the name of the model that it is asked for."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USAGE = {"prompt_tokens": 9000, "completion_tokens": 1000, "prompt_tokens_details": {"cached_tokens": 4000}}


class ProviderServer:
    """Listens on a free loopback port. `asked` holds the models that it was asked for, `keys` the keys that it was shown."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.keys: set[str] = set()
        self.go_on = threading.Event()
        self._stopping = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append(request["model"])
                server.keys.add(self.headers["Authorization"])
                with suppress(OSError):
                    server._answer(self, request)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """The base URL for a provider's row."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def close(self) -> None:
        """Stop listening and answering."""
        self._stopping.set()
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        model = request["model"]
        if model.startswith("status-"):
            _, status, *code = model.split("-", 2)
            key = handler.headers["Authorization"]
            error = {"message": f"not with the key {key}", "code": code[0] if code else None, "type": "x"}
            _write(handler, int(status), "application/json", json.dumps({"error": error}).encode())
        elif model == "silent":
            self._stopping.wait(30)
        elif model == "html":
            _write(handler, 200, "text/html", b"<h1>Welcome</h1>")
        elif model != "hangs-up":
            _write(handler, 200, "text/event-stream", b"")
            self._stream(handler, request)

    def _stream(self, handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        def send(delta: dict[str, Any], finish: str | None = None, usage: dict[str, Any] | None = None) -> None:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
            handler.wfile.write(b"data: " + json.dumps({**chunk, "usage": usage}).encode() + b"\n\n")
            handler.wfile.flush()

        model = request["model"]
        if model == "endless":
            while not self._stopping.wait(0.02):
                send({"content": "and so on "})
        if model == "waits":
            send({"content": "Let me think. "})
            self.go_on.wait(60)
        if model == "breaks":
            send({"content": "The answer is "})
            return
        if model == "withholds":
            send({}, "content_filter")
        elif model == "calls" and request["messages"][-1]["role"] != "tool":
            function = {"name": "calculator_tool", "arguments": '{"expression": "6*7"}'}
            send({"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]})
            send({}, "tool_calls", USAGE)
        else:
            send({"content": "" if model == "empty" else f"{model} says so."})
            send({}, "stop", None if model == "does-not-count" else USAGE)
        handler.wfile.write(b"data: [DONE]\n\n")


def _write(handler: BaseHTTPRequestHandler, status: int, kind: str, body: bytes) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()


@contextmanager
def provider_server() -> Iterator[ProviderServer]:
    """A server for as long as the block lasts."""
    server = ProviderServer()
    try:
        yield server
    finally:
        server.close()
