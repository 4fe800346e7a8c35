"""A Redis of the tests' own, for what processes tell each other."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

from tests.running_service import free_port

START_SECONDS = 20.0


class RedisServer:
    """`redis-server` on a free loopback port; keeps its port over restarts."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def is_installed() -> bool:
        """Whether this machine has it."""
        return shutil.which("redis-server") is not None

    @property
    def url(self) -> str:
        """What REDIS_URL is set to."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        self._process = subprocess.Popen(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no",
             "--dir", str(self._folder), "--logfile", str(self._folder / "redis.log")],
        )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                if self.ask("PING") == "+PONG":
                    return
            except OSError:
                time.sleep(0.02)
        raise AssertionError(f"redis-server did not start on port {self.port}")

    def stop(self) -> None:
        """End it at once; its clients' connections break."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def ask(self, *words: str) -> str:
        """Send an inline command and return the answer's lines."""
        with socket.create_connection(("127.0.0.1", self.port), 5.0) as connection:
            connection.sendall(" ".join(words).encode() + b"\r\n")
            return connection.recv(65536).decode().strip()

    def published(self) -> int:
        """How many messages were published since its start."""
        found = re.search(r"cmdstat_publish:calls=(\d+)", self.ask("INFO", "commandstats"))
        return int(found[1]) if found else 0

    def listeners(self) -> int:
        """How many processes listen for doorbells."""
        return int(self.ask("PUBSUB", "NUMSUB", "agentbackend__group__runs").rpartition(":")[2])
