"""Tools that are functions of this service."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from tools.handlers.contract import UnusableHandlerError
from tools.invocation import ToolInvocation
from tools.python_functions import INVOCATION, PythonFunction, get_function
from tools.threads import FunctionThreads


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
