"""The real service, started as its users start it: `manage.py serve` in a process of its own, on a free loopback port."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0
STOP_SECONDS = 40.0


_FIRST_PORT = 20_000
_PORTS_OF_A_WORKER = 1_000
_ports = count(secrets.randbelow(_PORTS_OF_A_WORKER))


def free_port() -> int:
    """A TCP port of the loopback interface that nothing listens on, and that no other process running tests hands out.

    Below what the system gives to outgoing connections, and each in turn: what was told of one service is not sent to another.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 10
    for number in _ports:
        port = _FIRST_PORT + worker * _PORTS_OF_A_WORKER + number % _PORTS_OF_A_WORKER
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("unreachable: the numbers do not end")


@dataclass(frozen=True, slots=True)
class Caller:
    """A user as the gateway names one, with the headers of the debug path."""

    id: str = field(default_factory=lambda: str(uuid4()))
    role: str = "user"

    @property
    def headers(self) -> dict[str, str]:
        """What the gateway would send."""
        return {
            "X-Supabase-User-ID": self.id,
            "X-Supabase-User-Email": f"{self.id[:8]}@example.org",
            "X-Supabase-User-Role": self.role,
        }


@dataclass(frozen=True, slots=True)
class Frame:
    """One SSE frame: its id (empty when it has none) and its event."""

    id: str
    event: dict[str, Any]

    @property
    def number(self) -> int:
        """The event's number in its run."""
        return int(self.id.rpartition(".")[2])


def read_frames(lines: Iterator[str]) -> Iterator[Frame]:
    """The frames of an SSE body; comments are passed over."""
    identifier, data = "", ""
    for line in lines:
        if line.startswith("id: "):
            identifier = line.removeprefix("id: ")
        elif line.startswith("data: "):
            data = line.removeprefix("data: ")
        elif not line:
            if data:
                yield Frame(identifier, json.loads(data))
            identifier, data = "", ""


class RunningService:
    """One process of the service."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def client(self, caller: Caller | None = None) -> httpx.Client:
        """An HTTP client for this service, as a caller or as a stranger."""
        return httpx.Client(base_url=self.url, headers=caller.headers if caller else {}, timeout=30.0, trust_env=False)

    @contextmanager
    def open_stream(
        self, caller: Caller, method: str, path: str, **options: Any
    ) -> Iterator[tuple[httpx.Response, Iterator[Frame]]]:
        """Open an event stream: the response, and its frames as they come."""
        with self.client(caller) as client, client.stream(method, path, **options) as response:
            yield response, read_frames(response.iter_lines())

    def stream(self, caller: Caller, method: str, path: str, **options: Any) -> list[Frame]:
        """All frames of a stream that must open."""
        with self.open_stream(caller, method, path, **options) as (response, frames):
            if response.status_code != 200:
                response.read()
            assert response.status_code == 200, response.text
            return list(frames)

    def post_run(self, caller: Caller, text: str, *, path: str = "/ag-ui/events", **changes: Any) -> list[Frame]:
        """Post a RunAgentInput with one user message and read the whole run."""
        return self.stream(caller, "POST", path, json=run_input(text, **changes))

    def wait_until_ready(self) -> None:
        """Wait for /readiness; fails with the end of the log."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the service ended with {self.process.returncode}:\n{self.tail()}")
            try:
                if httpx.get(f"{self.url}/readiness", timeout=5.0, trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"the service was not ready after {START_SECONDS:g} s:\n{self.tail()}")

    def tail(self, characters: int = 4000) -> str:
        """The end of the service's log."""
        return self.log.read_text(errors="replace")[-characters:]

    def ended(self) -> int:
        """Wait for the end of a process that was told to stop; returns the exit code."""
        return self.process.wait(STOP_SECONDS)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the service did not stop:\n{self.tail()}") from None


class ServiceFactory:
    """Starts services and stops them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[RunningService] = []

    def start(self, *, wait: bool = True, port: int = 0, **environment: str) -> RunningService:
        """Start a service with these settings over the tests' own; on a free port, or where another one was."""
        port = port or free_port()
        log = self._folder / f"service-{port}-{len(self._started)}.log"
        defaults = {"PORT": str(port), "MIGRATE_ON_START": "0", "SHUTDOWN_GRACE_SECONDS": "5"}
        on_shared_database = not {"SUPABASE_DATABASE_URL", "AGENTBACKEND_DATA_DIR"} & environment.keys()
        if "OPENAI_BASE_URL" in environment and on_shared_database:  # runs in the background are for the demo model
            defaults["WORKER_IN_PROCESS"] = "false"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "manage.py", "serve", "--port", str(port)],
                cwd=ROOT, env={**os.environ, **defaults, **environment}, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        started = RunningService(process, port, log)
        self._started.append(started)
        if wait:
            started.wait_until_ready()
        return started

    def stop_all(self) -> None:
        """Stop what still runs."""
        for started in self._started:
            if started.process.poll() is None:
                started.stop()


def run_input(text: str, **changes: Any) -> dict[str, Any]:
    """A RunAgentInput with one user message, in a thread of its own unless `threadId` is given."""
    document: dict[str, Any] = {
        "threadId": str(uuid4()),
        "runId": str(uuid4()),
        "protocolVersion": "1.0",
        "state": {},
        "messages": [{"id": str(uuid4()), "role": "user", "content": text}],
        "tools": [],
        "context": [],
        "forwardedProps": {},
    }
    document.update(changes)
    return {name: value for name, value in document.items() if value is not ...}
