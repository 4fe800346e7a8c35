"""Who carries out a call: one handler for each handler type.

A handler gets the arguments (checked against the schema) and, beside them, the `ToolInvocation`. It returns a
string, or anything that can be written as JSON. It raises ToolError with a text for the model; any other
exception is a fault that only the operator is told about. Cancellation passes through: the door cancels it
when the time is up or the run has ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final, Protocol

from tools.invocation import ToolInvocation
from tools.python_functions import INVOCATION, PythonFunction, get_function
from tools.threads import FunctionThreads

MAX_FUNCTION_THREADS: Final = 16


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


class PythonFunctionHandler:
    """Calls a registered function: `settings` is `{"function": its name}`."""

    def __init__(self, threads: FunctionThreads) -> None:
        self._threads = threads

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise UnusableHandlerError unless the function is registered."""
        _function_of(settings)

    async def execute(self, settings: Mapping[str, Any], arguments: dict[str, Any], invocation: ToolInvocation) -> Any:
        """Await an async function here; call a sync one on a thread."""
        registered = _function_of(settings)
        beside = {INVOCATION: invocation} if registered.takes_invocation else {}
        if registered.is_async:
            return await registered.function(**arguments, **beside)
        return await self._threads.run(partial(registered.function, **arguments, **beside))


def _function_of(settings: Mapping[str, Any]) -> PythonFunction:
    name = settings.get("function")
    registered = get_function(name) if isinstance(name, str) else None
    if registered is None:
        raise UnusableHandlerError(f"There is no registered function {name!r}.")
    return registered


HANDLERS: Final[Mapping[str, Handler]] = {
    "python_function": PythonFunctionHandler(FunctionThreads(MAX_FUNCTION_THREADS)),
}
"""Handlers by type; a type without one cannot be published."""
