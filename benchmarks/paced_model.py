"""A model for measurements: one tool call, then a number of tokens at an even pace, as an OpenAI-compatible server on loopback."""

from __future__ import annotations

import asyncio

import orjson
from aiohttp import web

HEAD = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1_760_000_000, "model": "paced"}


def frame(delta: dict[str, object], finish_reason: str | None = None) -> bytes:
    """One chunk as an SSE frame."""
    return b"data: %b\n\n" % orjson.dumps(
        {**HEAD, "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}
    )


def paced_model(tokens: int, pace: float) -> web.Application:
    """The application: `tokens` in the final answer, `pace` seconds between them."""
    numbers = iter(range(1, 1 << 62))
    words = [frame({"content": f" word{index}"}) for index in range(tokens)]
    usage = b"data: %b\n\n" % orjson.dumps(
        {
            **HEAD,
            "choices": [],
            "usage": {"prompt_tokens": 50, "completion_tokens": tokens, "total_tokens": 50 + tokens},
        }
    )

    async def completions(request: web.Request) -> web.StreamResponse:
        given = orjson.loads(await request.read())
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        if given.get("tools") and given["messages"][-1]["role"] == "user":
            call = {"index": 0, "id": f"call_{next(numbers):08d}", "type": "function"}
            function = {"name": "get_weather_tool", "arguments": '{"location":"London"}'}
            await response.write(frame({"tool_calls": [{**call, "function": function}]}) + frame({}, "tool_calls"))
        else:
            due = asyncio.get_running_loop().time()
            for word in words:
                await response.write(word)
                due += pace
                await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            await response.write(frame({}, "stop"))
        await response.write(usage + b"data: [DONE]\n\n")
        return response

    application = web.Application()
    application.router.add_post("/v1/chat/completions", completions)
    return application


async def serve(application: web.Application, port: int) -> web.AppRunner:
    """Listen on loopback; the caller ends it with `cleanup()`."""
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    return runner
