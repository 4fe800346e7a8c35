"""The environment that all tests run in: a plugin (`-p tests.environment`), so that it is set before Django's settings are read.

Each process that runs tests has one of its own: a data folder, keys, and so a database and services.
"""

from __future__ import annotations

import atexit
import base64
import fcntl
import os
import secrets
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

from agentbackend.embedded_postgres.location import socket_directory

_UNSET = (
    "SUPABASE_DATABASE_URL", "DATABASE_OWNER_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "REDIS_URL", "SUPABASE_URL",
    "SUPABASE_JWT_SECRET", "OUTBOUND_PROXY", "OUTBOUND_ALLOWED_HOSTS", "OUTBOUND_CA_FILE", "GATEWAY_UNSIGNED_FROM",
    "DJANGO_ALLOWED_HOSTS", "OTEL_EXPORTER_OTLP_ENDPOINT", "METRICS_TOKEN",
)  # fmt: skip
_PREFIX = "agentbackend-tests-"


def _prepare() -> None:
    """Point every setting at throw-away things; keys are new for each session."""
    os.environ.update(
        DJANGO_SETTINGS_MODULE="agentbackend.settings",
        AGENTBACKEND_IGNORE_ENV_FILES="1",
        AGENTBACKEND_DATA_DIR=str(_throw_away_folder()),
        DJANGO_DEBUG="1",
        DJANGO_SECRET_KEY=secrets.token_urlsafe(48),
        GATEWAY_SIGNING_KEYS=_keys("gateway"),
        VAULT_KEYS=_keys("vault"),
        LEDGER_SIGNING_KEYS=_keys("ledger"),
        MOCK_WEATHER_TOOL_API_KEY="weather-" + secrets.token_hex(8),
        LOG_LEVEL="INFO",
    )
    for name in _UNSET:
        os.environ.pop(name, None)


def _keys(kid: str) -> str:
    return f"{kid}:{base64.b64encode(secrets.token_bytes(32)).decode()}"


def _throw_away_folder() -> Path:
    """A folder for this session, locked while it lives; folders whose owner was killed are removed."""
    for stale in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        _remove_when_unused(stale)
    folder = _locked_folder()
    while not folder.is_dir():  # another session took it for a stale one before it was locked
        folder = _locked_folder()
    folder.chmod(0o755)  # the server may run as another user
    owner = os.getpid()
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == owner else None)
    return folder


def _locked_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = os.open(folder / "session.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_SH)
    return folder


def _remove_when_unused(folder: Path) -> None:
    try:
        lock = os.open(folder / "session.lock", os.O_RDWR)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        _stop_servers(folder)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _stop_servers(folder: Path) -> None:
    """End servers that outlived their session, at once: their folder goes next. Their socket directories go with them."""
    for home in folder.glob("postgresql-*"):
        with suppress(OSError, ValueError, IndexError):
            pid = int((home / "data" / "postmaster.pid").read_text().splitlines()[0])
            if str(home) in Path(f"/proc/{pid}/cmdline").read_text():  # else the number is another program's by now
                os.kill(pid, signal.SIGQUIT)
        shutil.rmtree(socket_directory(home.resolve()), ignore_errors=True)


_prepare()
