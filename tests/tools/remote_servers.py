"""Registered remote servers for tests, and their tools in the registry; all rows are gone after the test."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from audit.actor import SYSTEM
from tests.tools.remote_mcp import RemoteMcp
from tools.mcp_client.discovery import discover
from tools.mcp_client.imports import import_tool
from tools.models import RemoteServer, RemoteTool, Tool
from tools.versions import switch_tool


def register(remote: RemoteMcp, **fields: Any) -> RemoteServer:
    """A server of its own name at the remote's address; it speaks the protocol that the remote does."""
    name = f"remote-{uuid4().hex[:10]}"
    values = {"url": remote.url, "protocol": "auto", "timeout_seconds": 10.0, **fields}
    return RemoteServer.objects.create(name=name, **values)


def row(server: RemoteServer, name: str) -> RemoteTool:
    return RemoteTool.objects.select_related("tool", "server").get(server=server, remote_name=name)


def imported(server: RemoteServer, name: str = "echo", *, enabled: bool = True) -> str:
    """Ask the server, import one of its tools and switch it on; returns its name here."""
    told = discover(server, by=SYSTEM)
    assert not told.failure, told.failure
    found = row(server, name)
    taken = import_tool(found, found.digest, by=SYSTEM)
    switch_tool(Tool.objects.get(name=taken.name), enabled=enabled, by=SYSTEM)
    return taken.name


def remove(server: RemoteServer) -> None:
    """The server and what was imported from it."""
    Tool.objects.filter(current_version__handler__server=server.name).delete()
    RemoteServer.objects.filter(pk=server.pk).delete()
