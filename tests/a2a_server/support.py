"""What the tests of the A2A server share: the SDK's client in a process of its own, and a receiver of push notifications."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.running_service import Caller, RunningService

_SECONDS = 60.0


class SdkError(AssertionError):
    """What the SDK's client raised."""

    def __init__(self, name: str, message: str) -> None:
        self.name = name
        super().__init__(f"{name}: {message}")


class SdkClient:
    """The official client, in a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).with_name("sdk_caller.py"))],
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def events(self, service: RunningService, agent: str, caller: Caller, do: str, **options: Any) -> Iterator[Any]:
        """What comes of a command, as it comes; raises SdkError."""
        command = {"base": f"{service.url}/a2a/{agent}", "headers": caller.headers, "do": do, **options}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        while "end" not in (told := self._next()):
            if "error" in told:
                raise SdkError(told["error"], told["message"])
            yield told["event"]

    def ask(self, service: RunningService, agent: str, caller: Caller, do: str, **options: Any) -> list[Any]:
        """All that comes of a command."""
        return list(self.events(service, agent, caller, do, **options))

    def _next(self) -> dict[str, Any]:
        line = self._lines.get(timeout=_SECONDS)
        assert line, f"the client's process ended with {self._process.poll()}"
        told: dict[str, Any] = json.loads(line)
        return told

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


class Receiver:
    """A web server that push notifications are posted to. `refusals`: how many of the next ones it answers with 503."""

    def __init__(self, refusals: int = 0) -> None:
        self._received: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()
        self.refusals = refusals
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                refused, receiver.refusals = receiver.refusals > 0, max(0, receiver.refusals - 1)
                receiver._received.put(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(503 if refused else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def next(self, seconds: float = 40.0) -> tuple[dict[str, str], bytes]:
        """The next request: its headers, in lower case, and its body."""
        return self._received.get(timeout=seconds)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def state(event: dict[str, Any]) -> str:
    """Where the task stands by this event (or task); empty where it says nothing of it."""
    for name in ("task", "statusUpdate"):
        event = event.get(name, event)
    return str(event.get("status", {}).get("state", "")).removeprefix("TASK_STATE_")


def said(events: list[dict[str, Any]]) -> str:
    """The text of the artifacts that a stream (or a task) brought, put together as the protocol says."""
    texts: dict[str, str] = {}
    for event in events:
        holder = event.get("task", event)
        for artifact in holder.get("artifacts", []):
            texts[artifact["artifactId"]] = _text(artifact)
        if update := event.get("artifactUpdate"):
            artifact = update["artifact"]
            before = texts.get(artifact["artifactId"], "") if update.get("append") else ""
            texts[artifact["artifactId"]] = before + _text(artifact)
    return "".join(texts.values())


def _text(artifact: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for part in artifact["parts"])
