"""The sample agent beside the service, as `make run` starts the two."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx

from tests.running_service import ROOT, RunningService, free_port
from tests.runs.support import eventually


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5.0, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def test_it_is_started_beside_the_service_and_ends_with_it_even_when_that_is_killed(
    migrated_database: None, tmp_path: Path
) -> None:
    port, sample_port = free_port(), free_port()
    log = tmp_path / "log"
    environment = {"PORT": str(port), "A2A_MOCK_PORT": str(sample_port), "MIGRATE_ON_START": "0"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "agentbackend.development_run"],
            cwd=ROOT, env={**os.environ, **environment}, stdout=output, stderr=output,
        )  # fmt: skip
    service = RunningService(process, port, log)
    try:
        service.wait_until_ready()
        eventually(lambda: answers(f"http://127.0.0.1:{sample_port}/health"), "the sample agent listens")
    finally:
        process.kill()
        process.wait()
    eventually(lambda: not answers(f"http://127.0.0.1:{sample_port}/health"), "the sample agent has ended")
