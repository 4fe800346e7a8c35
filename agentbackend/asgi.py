"""The ASGI application: each address to its room, with authentication around what callers use.

Streams go to Channels consumers, never through Django's own handler, which would keep a thread for each.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "agentbackend.settings")

from channels.routing import ProtocolTypeRouter
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from agentbackend.telemetry import configure_telemetry

if settings.CONFIGURATION_PROBLEMS:
    raise ImproperlyConfigured("; ".join(settings.CONFIGURATION_PROBLEMS))

configure_telemetry()  # before the middleware is loaded and the first client is made
django_application = get_asgi_application()

from a2a.cards import CARD_PATH, KEY_SET_PATH  # noqa: E402
from a2a.serving.application import A2AApplication, PublicCards, Publisher  # noqa: E402
from agentbackend.gateway.authentication import GatewayAuthentication  # noqa: E402
from agentbackend.gateway.console_session import ConsoleSessionAuthentication  # noqa: E402
from agentbackend.service import service  # noqa: E402
from agentbackend.structured_logging import RequestLog  # noqa: E402
from orchestration.routing import agui_router, playground_router  # noqa: E402
from tools.mcp_server.application import McpApplication  # noqa: E402


class PathRouter:
    """Sends a request to the application of exactly its path, else to the first whose prefix it begins with, else to Django."""

    def __init__(self, exact: dict[str, Any], prefixes: dict[str, Any], otherwise: Any) -> None:
        self._exact = exact
        self._prefixes = prefixes
        self._otherwise = otherwise

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """ASGI's entry point."""
        await self._application(scope["path"])(scope, receive, send)

    def _application(self, path: str) -> Any:
        if path in self._exact:
            return self._exact[path]
        if PublicCards.takes(path):
            return self._exact[CARD_PATH]
        for prefix, application in self._prefixes.items():
            if path.startswith(prefix):
                return application
        return self._otherwise


async def lifespan(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Start and stop the service under an ASGI server that knows the lifespan protocol."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await service.start()
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await service.stop()
            await send({"type": "lifespan.shutdown.complete"})
            return


async def refuse_websocket(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """No address takes WebSockets."""
    await send({"type": "websocket.close", "code": 1000})


playground = ConsoleSessionAuthentication(
    playground_router(service.engine), allowed_hosts=settings.ALLOWED_HOSTS, observer=service.recorder
)

fixtures = import_string(settings.MCP_CONFORMANCE_FIXTURES) if settings.MCP_CONFORMANCE_FIXTURES else None
mcp = GatewayAuthentication(McpApplication(service.mcp_requests, extend=fixtures), service.authenticator)

tasks = service.a2a_tasks
publisher = Publisher(service.a2a_keys, settings.A2A_PUBLIC_URL, tuple(settings.ALLOWED_HOSTS))
cards = PublicCards(tasks.runs, publisher, tasks.tck.agent if tasks.tck else None)

application = ProtocolTypeRouter(
    {
        "http": RequestLog(
            PathRouter(
                {"/mcp": mcp, "/mcp/": mcp, CARD_PATH: cards, KEY_SET_PATH: cards},
                {
                    "/a2a/": GatewayAuthentication(A2AApplication(tasks, publisher), service.authenticator),
                    "/ag-ui/": GatewayAuthentication(agui_router(service.engine), service.authenticator),
                    "/playground/agent/": playground,
                    "/playground/events": playground,
                    "/playground/runs/": playground,
                    "/playground/threads": playground,
                },
                django_application,
            )
        ),
        "websocket": refuse_websocket,
        "lifespan": lifespan,
    }
)
