"""What a client of remote MCP servers is given, what it gives back, and how it fails; nothing here needs the SDK."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from tools.calls import ProgressListener
from tools.credentials import Credentials
from tools.registry import RegisteredServer


@dataclass(frozen=True, slots=True)
class Target:
    """A server, with the credential that goes with each request to it (none, or one)."""

    server: RegisteredServer
    credentials: Credentials

    def headers(self) -> dict[str, str]:
        """What carries the credential. Not for logs."""
        server = self.server
        if not server.credential:
            return {}
        value = self.credentials[server.credential]
        if server.credential_placement == "header":
            return {server.credential_header: value}
        return {"authorization": f"Bearer {value}"}


@dataclass(frozen=True, slots=True)
class RemoteAnswer:
    """What a call gave: a value (structured, or text), or, where `failed`, the text of the tool's own error."""

    value: Any
    failed: bool = False


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool in a server's own words: nothing of it is checked yet."""

    name: str
    title: str
    description: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None
    annotations: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Listing:
    """What a server offers. `is_complete`: nothing was left out for being too much."""

    tools: tuple[OfferedTool, ...]
    is_complete: bool
    protocol_version: str


class RemoteError(Exception):
    """A server could not be reached or did not do what it was asked to. The text is for whoever asked, and holds no secret.

    `passing`: the same may succeed in a moment. `unreachable`: the transport failed, which says something of the server's health.
    `perhaps_done`: a call may have taken effect all the same. `is_operators`: only an operator can put it right.
    """

    def __init__(
        self,
        message: str,
        *,
        passing: bool = False,
        unreachable: bool = False,
        perhaps_done: bool = False,
        is_operators: bool = False,
    ) -> None:
        self.message = message
        self.passing = passing
        self.unreachable = unreachable
        self.perhaps_done = perhaps_done
        self.is_operators = is_operators
        super().__init__(message)


class RemoteClient(Protocol):
    """Speaks to MCP servers. Each call is a session of its own, never shared between callers."""

    async def call(
        self,
        target: Target,
        tool: str,
        arguments: dict[str, Any],
        *,
        seconds: float,
        progress: ProgressListener | None = None,
    ) -> RemoteAnswer:
        """Call a tool; raises RemoteError. Cancelled, it closes the request."""
        ...

    async def list_tools(self, target: Target) -> Listing:
        """Ask for all tools, within the server's time; raises RemoteError."""
        ...

    async def aclose(self) -> None:
        """Close this event loop's connections."""
        ...
