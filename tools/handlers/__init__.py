"""Who carries out a call: one handler for each handler type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tools.handlers.contract import Handler, UnusableHandlerError
from tools.handlers.http_endpoint import HttpEndpointHandler
from tools.handlers.mcp_tool import McpToolHandler
from tools.handlers.python_function import PythonFunctionHandler
from tools.threads import FunctionThreads

__all__ = [
    "HANDLERS",
    "MAX_FUNCTION_THREADS",
    "Handler",
    "HttpEndpointHandler",
    "PythonFunctionHandler",
    "UnusableHandlerError",
]

MAX_FUNCTION_THREADS: Final = 16

HANDLERS: Final[Mapping[str, Handler]] = {
    "python_function": PythonFunctionHandler(FunctionThreads(MAX_FUNCTION_THREADS)),
    "mcp_tool": McpToolHandler(),
    "http_endpoint": HttpEndpointHandler(),
}
"""Handlers by type; a type without one cannot be published."""
