"""What an administrator writes as the settings of a handler: an explanation and a template for each type."""

from __future__ import annotations

from typing import Any, Final

from django.utils.html import format_html
from django.utils.safestring import SafeString

from tools.models import HandlerType
from tools.python_functions import registered_functions

HANDLER_TEMPLATES: Final[dict[str, dict[str, Any]]] = {
    HandlerType.PYTHON_FUNCTION.value: {"function": ""},
    HandlerType.HTTP_ENDPOINT.value: {
        "method": "GET",
        "url": "https://api.example.com/cities/{city}",
        "parameters": {"city": {"in": "path"}, "units": {"in": "query"}},
        "credentials": [{"name": "EXAMPLE_TOOL_API_KEY", "placement": "bearer"}],
        "response": {"pointer": "/data"},
    },
    HandlerType.MCP_TOOL.value: {"server": "example", "tool": "search", "pinned": ""},
}
"""By handler type; the editor puts one in where nothing else is written yet."""


def python_function_help() -> SafeString:
    """Which functions there are."""
    names = ", ".join(function.name for function in registered_functions())
    return format_html(
        "<p>A function of this service, by the name that it is registered under: "
        '<code>{{"function": "…"}}</code>. There are: {}.</p>',
        names or "none",
    )


def http_endpoint_help() -> SafeString:
    """What a request is made of."""
    return SafeString(
        "<p>One HTTP request for each call. <code>url</code> takes arguments into its path as <code>{name}</code>; "
        "<code>parameters</code> says where the others go (<code>path</code>, <code>query</code>, <code>header</code>, "
        "<code>body</code>); <code>credentials</code> places those that the tool requires (<code>bearer</code>, "
        "<code>header</code>, <code>basic</code>, <code>query</code>); <code>response.pointer</code> takes a part of the "
        "answer. Private addresses are refused unless OUTBOUND_ALLOWED_HOSTS names them.</p>"
    )


def mcp_tool_help() -> SafeString:
    """Where such tools come from."""
    return SafeString(
        "<p>A tool of a registered MCP server, as it was when it was imported. Import it on the page of the server rather "
        "than writing this by hand: <code>pinned</code> is the digest of what was imported.</p>"
    )
