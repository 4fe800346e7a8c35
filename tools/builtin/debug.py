"""How the service is doing, for administrators who ask an agent: versions, settings, pool, queues, registry.

What other parts know of themselves they register as sources.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from django.conf import settings

from agentbackend.foundation.release import VERSION
from tools.calls import SideEffects
from tools.governance.roles import ADMIN
from tools.python_functions import tool_function
from tools.registry import registry

PACKAGES: Final = ("django", "channels", "daphne", "psycopg", "openai", "opentelemetry-sdk")
SHOWN_SETTINGS: Final = (
    "DEBUG", "LOG_LEVEL", "OPENAI_MODEL", "MODEL_IS_DEMO", "MAX_ITERATIONS_PER_TURN", "MAX_CONCURRENT_RUNS",
    "MAX_RUN_BYTES", "MAX_RUN_SECONDS", "RUN_LEASE_SECONDS", "RUN_HEARTBEAT_SECONDS", "WRITER_GROUP_GAP_MS",
    "STREAM_HEARTBEAT_SECONDS", "DATABASE_POOL_SIZE", "MIGRATE_ON_START", "OTEL_SERVICE_NAME",
)  # fmt: skip
"""Settings without secrets: a list of what is shown, so that a new one is not shown unless somebody decides it."""

Source = Callable[[], Mapping[str, Any]]

_sources: dict[str, Source] = {}


def register_source(name: str, source: Source) -> None:
    """Let `source` tell under `name`; it is called for each question, must not block, and shows no secret."""
    _sources[name] = source


@tool_function(
    "admin_debug_tool",
    title="State of the service",
    description="""
        Shows administrators how the service is doing: versions, settings (without secrets), connection pool,
        queues and tool registry.
        """,
    side_effects=SideEffects.IDEMPOTENT,
    required_role=ADMIN,
    timeout_seconds=5,
)
async def admin_debug() -> dict[str, Any]:
    """A report as nested JSON values."""
    return {
        "versions": {
            "agentbackend": VERSION,
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
        "settings": {name: getattr(settings, name) for name in SHOWN_SETTINGS if hasattr(settings, name)},
        "registry": await _registry(),
        **{name: _told_by(source) for name, source in sorted(_sources.items())},
    }


async def _registry() -> dict[str, Any]:
    snapshot = await registry.snapshot()
    enabled = sum(tool.enabled for tool in snapshot.tools.values())
    return {"revision": snapshot.revision, "tools": len(snapshot.tools), "enabled": enabled}


def _told_by(source: Source) -> dict[str, Any]:
    """What a source says; one that fails leaves the others' answers whole."""
    try:
        return dict(source())
    except Exception as error:
        return {"error": type(error).__name__}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
