"""The container files: what can be said of them without an engine that builds them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from agentbackend.databases import plan_databases
from agentbackend.settings import SCHEME
from tests.running_service import RunningService, free_port


@pytest.fixture(scope="session")
def compose(project_root: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((project_root / "docker-compose.yml").read_text())
    return document


@pytest.fixture(scope="session")
def stages(project_root: Path) -> list[list[str]]:
    """The Dockerfile's instructions, a list for each stage; continued lines are joined."""
    text = re.sub(r"^#.*\n", "", (project_root / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]
    found: list[list[str]] = []
    for line in lines:
        if line.startswith("FROM "):
            found.append([])
        found[-1].append(line.strip())
    return found


def test_the_final_image_runs_as_an_ordinary_user_and_installs_nothing(stages: list[list[str]]) -> None:
    final = stages[-1]
    assert len(stages) == 2
    user = next(line.split()[1] for line in final if line.startswith("USER "))
    assert int(user.split(":")[0]) >= 10000
    assert not any(re.search(r"\b(pip|apt-get)\b", line) for line in final)
    assert final.index(f"USER {user}") < next(i for i, line in enumerate(final) if line.startswith("CMD "))


def test_both_stages_use_the_same_pinned_python(stages: list[list[str]]) -> None:
    images = {stage[0].split()[1] for stage in stages}
    assert len(images) == 1
    assert re.fullmatch(r"python:3\.11[\w.-]*", images.pop())


def test_no_secret_of_the_build_stays_in_the_image(stages: list[list[str]]) -> None:
    kept = [line for stage in stages for line in stage if line.startswith(("ENV ", "ARG "))]
    assert kept
    assert not any(re.search(r"SECRET|KEY|PASSWORD|DATABASE_URL|DEBUG", line) for line in kept)


def test_all_that_the_image_runs_is_let_into_the_build_and_nothing_else(project_root: Path) -> None:
    lines = (project_root / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    rooms = {path.parent.name for path in project_root.glob("*/apps.py")}
    assert "*" in lines
    assert allowed == rooms | {"manage.py", "requirements.txt", "templates"}
    assert all((project_root / name).exists() for name in allowed)


def test_the_health_check_and_the_command_of_the_image_can_be_run(stages: list[list[str]], project_root: Path) -> None:
    text = " ".join(stages[-1])
    probe = re.search(r'HEALTHCHECK .*?CMD \["python", "-m", "([\w.]+)"\]', text)
    assert probe is not None
    assert (project_root / (probe[1].replace(".", "/") + ".py")).is_file()
    assert 'CMD ["python", "manage.py", "serve", "--host", "0.0.0.0"]' in text


def test_static_files_can_be_collected_as_the_build_does_it(
    stages: list[list[str]], project_root: Path, tmp_path: Path
) -> None:
    step = next(line for line in stages[0] if "collectstatic" in line)
    words = shlex.split(step.removeprefix("RUN ").split("&&")[0])
    settings = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
    arguments = words[words.index("manage.py") :]
    ended = subprocess.run(
        [sys.executable, *arguments, "--dry-run"],
        cwd=project_root,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "AGENTBACKEND_IGNORE_ENV_FILES": "1", **settings},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"[1-9]\d* static files copied", ended.stdout)


def test_compose_gives_the_service_a_database_that_is_ready(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["service"]["depends_on"]["database"]["condition"] == "service_healthy"
    assert "healthcheck" in services["database"]
    assert services["database"]["image"].startswith("postgres:17")
    assert any(volume.startswith("database:") for volume in services["database"]["volumes"])
    assert "database" in compose["volumes"]


def test_the_database_address_of_compose_is_one_that_the_settings_take(compose: dict[str, Any]) -> None:
    services = compose["services"]
    address = services["service"]["environment"]["SUPABASE_DATABASE_URL"]
    plan = plan_databases(url=re.sub(r"\$\{.*?\}", "letters4and1digits", address), owner_url="", data_dir="")
    login = services["database"]["environment"]
    assert not plan.embedded
    assert plan.runtime_login == login["POSTGRES_USER"]
    assert f"dbname={login['POSTGRES_DB']}" in plan.runtime_conninfo
    assert "sslmode=disable" in plan.runtime_conninfo  # the image of PostgreSQL speaks no TLS


def test_compose_holds_the_service_tight(compose: dict[str, Any]) -> None:
    service = compose["services"]["service"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["tmpfs"] == ["/tmp"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert "ports" not in compose["services"]["database"]
    grace = int(service["stop_grace_period"].removesuffix("s"))
    assert grace > SCHEME["SHUTDOWN_GRACE_SECONDS"][1]


def test_the_compose_example_sets_what_compose_and_the_service_need(project_root: Path) -> None:
    example = (project_root / ".env.local.example").read_text()
    names = set(re.findall(r"^#?([A-Z][A-Z0-9_]*)=", example, re.MULTILINE))
    assert names - {"POSTGRES_PASSWORD"} <= set(SCHEME)
    required = {
        "DJANGO_SECRET_KEY",
        "GATEWAY_SIGNING_KEYS",
        "VAULT_KEYS",
        "LEDGER_SIGNING_KEYS",
        "DJANGO_ALLOWED_HOSTS",
    }
    assert required | {"POSTGRES_PASSWORD"} <= names


def _probe(port: int, **environment: str) -> int:
    return subprocess.run(
        [sys.executable, "-m", "agentbackend.health_probe"],
        env={"PATH": os.environ["PATH"], "PORT": str(port), **environment},
        timeout=30,
    ).returncode


@contextmanager
def _answering(status: int) -> Iterator[tuple[int, list[str]]]:
    """A server that answers everything with one status; its port, and the hosts it was asked for."""
    hosts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hosts.append(self.headers["Host"])
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port, hosts
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_probe_passes_for_a_service_that_lives(service: RunningService) -> None:
    assert _probe(service.port) == 0


def test_the_probe_fails_when_nothing_listens_or_the_answer_is_an_error() -> None:
    assert _probe(free_port()) == 1
    with _answering(503) as (port, _):
        assert _probe(port) == 1


@pytest.mark.parametrize(
    ("allowed", "asked"),
    [
        ("", "localhost"), ("*", "localhost"), ("api.example.org,x.org", "api.example.org"),
        (" .example.org", "example.org"),
    ],
)  # fmt: skip
def test_the_probe_asks_for_a_host_that_is_allowed(allowed: str, asked: str) -> None:
    with _answering(200) as (port, hosts):
        assert _probe(port, DJANGO_ALLOWED_HOSTS=allowed) == 0
    assert hosts == [asked]
