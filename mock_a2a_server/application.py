"""The agent as an ASGI application: its card, JSON-RPC and HTTP+JSON, and the number of each request's trace in the log."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from a2a.server.request_handlers import DefaultRequestHandlerV2
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import InMemoryTaskStore
from a2a.types import AgentCard
from google.protobuf.json_format import ParseDict
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from mock_a2a_server.agent import SampleAgent
from mock_a2a_server.card import RPC_PATH, card

logger = logging.getLogger("mock_a2a_server")

Application = Callable[[Any, Any, Any], Awaitable[None]]


def application(base_url: str, *, pause_seconds: float = 0.1) -> Application:
    """The agent that says of itself that it is at this address."""
    described = ParseDict(card(base_url), AgentCard())
    handler = DefaultRequestHandlerV2(SampleAgent(pause_seconds), InMemoryTaskStore(), described)
    rest = [route for route in create_rest_routes(handler) if not isinstance(route, Mount)]
    routes = [
        Route("/health", lambda request: PlainTextResponse("well")),
        *create_agent_card_routes(described),
        *create_jsonrpc_routes(handler, RPC_PATH),
        *rest,
    ]
    return _noting_traces(Starlette(routes=routes))


def _noting_traces(application: Application) -> Application:
    """Say in the log which trace a request belongs to (W3C Trace Context)."""

    async def noted(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            for name, value in scope["headers"]:
                if name == b"traceparent":
                    logger.info("request %s traceparent %s", scope["path"], value.decode("latin-1"))
        await application(scope, receive, send)

    return noted
