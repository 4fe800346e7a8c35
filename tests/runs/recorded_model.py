"""A model server that replays recorded answers: the bytes of a provider's streams, as files in `recorded/`.

A question that begins with `recorded NAME` is answered from the folder of that name: the first request about it with `1.sse`, the next
with `2.sse`, ...
"""

from __future__ import annotations

import json
import re
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "recorded"
_ASKED = re.compile(r"recorded (\w+)")


class RecordedModel:
    """Listens on a free loopback port; `requests` holds the documents it was sent."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self._turns: dict[str, int] = {}
        self.asked = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                model.requests.append(request)
                answer = model._answer(request)
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                with suppress(OSError):  # who asked may be gone
                    self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """What OPENAI_BASE_URL is set to."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def close(self) -> None:
        """Stop listening."""
        self.may_answer.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: dict[str, Any]) -> bytes:
        said = (str(message["content"]) for message in reversed(request["messages"]) if message["role"] == "user")
        question = next(content for content in said if _ASKED.match(content))
        self._turns[question] = turn = self._turns.get(question, 0) + 1
        if turn > 1 and not self.may_answer.is_set():
            self.asked.set()
            self.may_answer.wait(60)
        [name] = _ASKED.findall(question)
        return (FOLDER / name / f"{turn}.sse").read_bytes()
