"""Callers, a recorder that keeps what it is given, and the door with both."""

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import orjson
from asgiref.sync import sync_to_async

from agentbackend.foundation.identifiers import uuid7
from audit.actor import SYSTEM, Actor
from audit.entry import AuditEntry
from tools.calls import CallContext, ToolCall, ToolResult
from tools.door import call_tool
from tools.models import DenyRule, Tool
from tools.python_functions import get_function, tool_function, unregister
from tools.registry import ToolRegistry
from tools.seed import definition_in_code
from tools.versions import publish_version, switch_tool


def somebody(role: str = "user") -> Actor:
    return Actor(id=str(uuid4()), role=role, email="somebody@example.org")


class KeepingRecorder:
    """Commits to a list."""

    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []

    async def record(self, entry: AuditEntry) -> None:
        self.entries.append(entry)

    def note(self, entry: AuditEntry) -> None:
        self.entries.append(entry)

    @property
    def actions(self) -> list[str]:
        return [entry.action for entry in self.entries]


def envelope(entry: AuditEntry) -> dict[str, Any]:
    return orjson.loads(entry.envelope)


def details(entry: AuditEntry) -> dict[str, Any]:
    assert entry.payload_row is not None
    return orjson.loads(entry.payload_row[-1])


class Door:
    """`call_tool` for tests: a registry that always looks, and a recorder that keeps."""

    def __init__(self, registry: ToolRegistry) -> None:
        self.registry = registry
        self.recorder = KeepingRecorder()

    async def call(
        self,
        name: str,
        arguments: dict[str, Any] | str | None = None,
        *,
        actor: Actor | None = None,
        allowed: frozenset[str] | None = None,
        recorder: Any = None,
    ) -> ToolResult:
        text = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
        context = CallContext(
            actor=actor or somebody(),
            recorder=recorder or self.recorder,
            allowed_tools=allowed,
            run_id=uuid7(),
            thread_id=uuid7(),
            request_id="request-1",
        )
        return await call_tool(ToolCall("call-1", name, text), context, registry=self.registry)

    @property
    def last(self) -> AuditEntry:
        return self.recorder.entries[-1]


class ToolMaker:
    """Makes tools of functions, with rows in the registry; all are gone after the test."""

    def __init__(self) -> None:
        self._names: list[str] = []

    async def __call__(self, function: Callable[..., Any], *, enabled: bool = True, **options: Any) -> str:
        name = f"test_{uuid4().hex[:12]}"
        self._names.append(name)
        tool_function(name, **{"title": "A test", "description": "For a test.", **options})(function)
        await sync_to_async(self._publish)(name, enabled)
        return name

    def _publish(self, name: str, enabled: bool) -> None:
        function = get_function(name)
        assert function is not None
        tool = Tool.objects.create(name=name)
        publish_version(tool, definition_in_code(function), by=SYSTEM)
        switch_tool(tool, enabled=enabled, by=SYSTEM)

    async def deny(self, name: str, role: str = "", reason: str = "because") -> None:
        tool = await Tool.objects.aget(name=name)
        await DenyRule.objects.acreate(tool=tool, role=role, reason=reason)

    async def remove_all(self) -> None:
        for name in self._names:
            unregister(name)
            await Tool.objects.filter(name=name).adelete()
