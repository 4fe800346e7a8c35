"""Settings: documented with their defaults, and refused with their names when they cannot be read."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agentbackend.settings import SCHEME


def documented(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", path.read_text(), re.MULTILINE))


def as_text(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def test_each_setting_is_documented_with_its_default(project_root: Path) -> None:
    assert documented(project_root / ".env.example") == {
        name: as_text(default) for name, (_, default) in SCHEME.items()
    }


def start_up(project_root: Path, *command: str, **environment: str) -> str:
    """The error of a command that must not start."""
    done = subprocess.run(
        [sys.executable, "manage.py", *command],
        cwd=project_root, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    return done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "eighty"),
        ("MAX_RUN_BYTES", "-1"),
        ("DJANGO_DEBUG", "maybe"),
        ("LOG_LEVEL", "LOUD"),
        ("GATEWAY_SIGNING_KEYS", "k1:c2hvcnQ="),
        ("OUTBOUND_CA_FILE", "/nonexistent/ca.pem"),
        ("RUN_HEARTBEAT_SECONDS", "10"),
        ("METRICS_ALLOWED_FROM", "10.0.0.0/8,the office"),
        ("SUPABASE_DATABASE_URL", "mysql://user:secret@host/name"),
        ("MAX_ITERATIONS_PER_TURN", "0"),
        ("DATABASE_POOL_SIZE", "1"),
        ("STREAM_HEARTBEAT_SECONDS", "0"),
        ("MODEL_IDLE_TIMEOUT_SECONDS", "0"),
        ("WORKER_CONCURRENCY", "0"),
        ("OPENAI_BASE_URL", "nonsense"),
        ("OPENAI_BASE_URL", "ftp://user:secret@host"),
        ("REDIS_URL", "foo:secret"),
        ("WRITER_GROUP_GAP_MS", "inf"),
        ("RUN_LEASE_SECONDS", "nan"),
        ("FOUR_EYES", "tools,everything"),
        ("TOOL_MODULES", "no.such.module"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "zz"),
    ],
)
def test_a_bad_value_stops_start_up_and_names_the_setting(project_root: Path, name: str, value: str) -> None:
    error = start_up(project_root, "check", **{name: value})
    assert name in error
    assert "Traceback" not in error
    assert "secret" not in error


@pytest.mark.parametrize(
    "name", ["DJANGO_SECRET_KEY", "GATEWAY_SIGNING_KEYS", "VAULT_KEYS", "LEDGER_SIGNING_KEYS", "DJANGO_ALLOWED_HOSTS"]
)
def test_outside_debug_the_service_refuses_to_start_without_what_protects_it(project_root: Path, name: str) -> None:
    environment = {"DJANGO_DEBUG": "0", "DJANGO_ALLOWED_HOSTS": "example.org", name: ""}
    error = start_up(project_root, "serve", "--port", "0", **environment)
    assert f"{name}: must be set when DJANGO_DEBUG is off." in error


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DJANGO_SECRET_KEY", "short"),
        ("SUPABASE_URL", "foo"),
        ("OUTBOUND_PROXY", "foo"),
        ("OUTBOUND_ALLOWED_HOSTS", "http://x/y z"),
        ("MCP_CONFORMANCE_FIXTURES", "tests.mcp_server.conformance_fixtures.add_to"),
    ],
)
def test_the_service_says_which_setting_it_cannot_be_served_with(project_root: Path, name: str, value: str) -> None:
    environment = {"DJANGO_DEBUG": "0", "DJANGO_ALLOWED_HOSTS": "example.org", "MIGRATE_ON_START": "0", name: value}
    error = start_up(project_root, "serve", "--port", "0", **environment)
    assert f"{name}: " in error
    assert "Traceback" not in error
