"""What a handler is: it carries out the calls of one handler type.

A handler gets the arguments (checked against the schema) and, beside them, the `ToolInvocation`. It returns a
string, or anything that can be written as JSON. It raises ToolError with a text for the model; any other
exception is a fault that only the operator is told about. Cancellation passes through: the door cancels it
when the time is up or the run has ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from tools.invocation import ToolInvocation


class UnusableHandlerError(Exception):
    """The settings of a handler name something that is not there; the text is for the person who wrote them."""


class Handler(Protocol):
    """Carries out calls of one handler type."""

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise UnusableHandlerError when no call could be carried out with these settings."""
        ...

    async def execute(self, settings: Mapping[str, Any], arguments: dict[str, Any], invocation: ToolInvocation) -> Any:
        """Carry out one call."""
        ...
