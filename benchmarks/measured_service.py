"""The service under measurement: a process of its own on a throw-away database, with its CPU and memory read from /proc."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A free TCP port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class MeasuredService:
    """Where it listens, and which process it is."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident_mb(self) -> float:
        """Memory in use, in MB."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextmanager
def measured_service(
    model_port: int, *, program: Sequence[str] = ("manage.py",), folder: Path | None = None, **settings: str
) -> Iterator[MeasuredService]:
    """Start the service with the model on `model_port`, and stop it. With a `folder` it shares the database of others there."""
    port = free_port()
    with ExitStack() as stack:
        base = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentbackend-bench-")))
        base.chmod(0o755)
        environment = {
            **os.environ,
            "AGENTBACKEND_IGNORE_ENV_FILES": "1",
            "AGENTBACKEND_DATA_DIR": str(base),
            "DJANGO_DEBUG": "1",
            "DJANGO_SECRET_KEY": "only-for-a-measurement-on-this-machine",
            "MOCK_WEATHER_TOOL_API_KEY": "bench",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{model_port}/v1",
            "OPENAI_MODEL": "paced",
            "LOG_LEVEL": "WARNING",
            **settings,
        }
        output = base / f"service-{port}.log"
        with output.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *program, "serve", "--port", str(port)],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
            )
        try:
            _wait(port, process, output)
            yield MeasuredService(port, process.pid)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(60)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(f"http://127.0.0.1:{port}/readiness", timeout=2):
                return
        except (URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"the service did not start:\n{log.read_text()[-3000:]}")
