"""`manage.py demo_model`: the scripted demo model as an OpenAI-compatible server, a process of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from aiohttp import web
from django.core.management.base import BaseCommand, CommandParser

from orchestration.demo_model import wire
from orchestration.demo_model.script import answer


class Command(BaseCommand):
    """Serves /v1/chat/completions and /v1/models until it is stopped."""

    help = "Serves the scripted demo model over HTTP, for trying OPENAI_BASE_URL and for tests."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, default=9010)
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--pace", type=float, default=0.015, help="seconds before each token")

    def handle(self, *args: Any, **options: Any) -> None:
        application = demo_application(options["pace"])
        self.stdout.write(f"the demo model listens on http://{options['host']}:{options['port']}/v1")
        web.run_app(application, host=options["host"], port=options["port"], print=None, handle_signals=True)


def demo_application(pace: float) -> web.Application:
    """The server's application."""

    async def completions(request: web.Request) -> web.StreamResponse:
        try:
            given = orjson.loads(await request.read())
        except orjson.JSONDecodeError:
            return web.Response(status=400, body=wire.error_body(400), content_type="application/json")
        found = answer(given)
        if found.status != 200:
            return web.Response(
                status=found.status,
                body=wire.error_body(found.status),
                content_type="application/json",
                headers={"retry-after": "0"},
            )
        if not given.get("stream"):
            return web.Response(body=wire.whole(found, given), content_type="application/json")
        response = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-cache"})
        await response.prepare(request)
        for piece in wire.streamed(found, given, pace):
            if piece.delay:
                await asyncio.sleep(piece.delay)
            if piece.breaks_off:
                if request.transport is not None:
                    request.transport.close()
                break
            await response.write(piece.data)
        return response

    async def models(request: web.Request) -> web.Response:
        document = {
            "object": "list",
            "data": [{"id": wire.MODEL, "object": "model", "created": 0, "owned_by": "agentbackend"}],
        }
        return web.Response(body=orjson.dumps(document), content_type="application/json")

    application = web.Application(client_max_size=16 * 1024 * 1024)
    application.router.add_post("/v1/chat/completions", completions)
    application.router.add_get("/v1/models", models)
    return application
