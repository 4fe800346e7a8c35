"""Logs as structured lines: JSON for machines, colours for a terminal in debug; bound to request, run, thread, user and trace.

What must not be in a log is taken out here as a last line of defence: query strings (a user's message stands there), values under secret
names, bearer tokens and provider keys.
"""

from __future__ import annotations

import logging
import logging.config
import re
import sys
import time
from collections.abc import Iterable
from typing import Any

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, WrappedLogger

from agentbackend.foundation import metrics
from agentbackend.gateway.headers import read_request_id
from audit.redaction import is_secret_name

REDACTED = "[redacted]"
_QUERY = re.compile(r"(?<=[\w/])\?[\w%.~+-]+=[^\s\"']*")
_SECRETS = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}|\bsk-[\w-]{8,}|(?<=://)[^\s/@:]*:[^\s/@]+(?=@)")
_request_logger = structlog.stdlib.get_logger("agentbackend.requests")


def configure_logging(level: str, *, debug: bool) -> None:
    """Set up the standard library's logging and structlog; called once, by the settings."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_span,
        structlog.processors.format_exc_info,
        redact,
    ]
    coloured = debug and sys.stdout.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer() if coloured else structlog.processors.JSONRenderer()
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "structured": {
                    "()": structlog.stdlib.ProcessorFormatter,
                    "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
                    "foreign_pre_chain": shared,
                }
            },
            "handlers": {
                "stdout": {"class": "logging.StreamHandler", "formatter": "structured", "stream": "ext://sys.stdout"}
            },
            "root": {"handlers": ["stdout"], "level": level},
            "loggers": {
                # Others' chatter, and request lines that would hold query strings.
                "daphne": {"level": "WARNING"},
                "httpx": {"level": "WARNING"},
                "httpx2": {"level": "WARNING"},
                "mcp": {"level": "WARNING"},  # two lines for each request to /mcp
                "httpcore": {"level": "WARNING"},  # answers' headers, when everything is logged
                "httpcore2": {"level": "WARNING"},
                "openai": {"level": "WARNING"},
                "django.server": {"level": "WARNING"},
                "django_structlog": {"level": "ERROR"},  # the end of each request has a line of ours
                "psycopg.pool": {"level": "ERROR"},
                "procrastinate": {"level": "WARNING"},  # it tells of each job twice
                "channels_redis.pubsub": {"level": "CRITICAL"},  # a traceback each second; the doorbell warns once
            },
        }
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _add_span(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event.setdefault("trace_id", trace.format_trace_id(context.trace_id))
        event.setdefault("span_id", trace.format_span_id(context.span_id))
    return event


def redact(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Take secrets and query strings out of an event's values (structlog's processor form)."""
    for name, value in event.items():
        event[name] = _redacted(name, value)
    return event


def _redacted(name: str, value: Any, depth: int = 3) -> Any:
    if is_secret_name(name):
        return REDACTED
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict) and depth:
        return {key: _redacted(str(key), inner, depth - 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple)) and depth:
        return [_redacted("", inner, depth - 1) for inner in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return without_secrets(str(value))


def without_secrets(text: str) -> str:
    """The text without query strings, tokens, keys, and passwords in addresses."""
    if "?" in text:
        text = _QUERY.sub("?" + REDACTED, text)
    return _SECRETS.sub(REDACTED, text)


class RequestLog:
    """Around the HTTP application: a request id for each request, a line at its end, and one when a stream opens; no query string."""

    def __init__(self, application: Any) -> None:
        self._application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """ASGI's entry point."""
        scope = {**scope, "request_id": read_request_id(scope["headers"])}
        structlog.contextvars.bind_contextvars(request_id=scope["request_id"])
        started, status, waits_for_first = time.perf_counter(), 0, False

        async def noting_status(message: dict[str, Any]) -> None:
            nonlocal status, waits_for_first
            if message["type"] == "http.response.start":
                status = message["status"]
                # A call through MCP may be answered as a stream, too, of one event at its end.
                if _is_event_stream(message["headers"]) and scope["path"] not in ("/mcp", "/mcp/"):
                    waits_for_first = True
                    _request_logger.info("stream opened", method=scope["method"], path=scope["path"])
            elif waits_for_first and message.get("body"):
                waits_for_first = False
                metrics.first_event_seconds.observe(time.perf_counter() - started)
            await send(message)

        try:
            await self._application(scope, receive, noting_status)
        finally:
            metrics.http_requests.labels(method=_known_method(scope["method"]), status=_class_of(status)).inc()
            _request_logger.info(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=status,
                duration_ms=round((time.perf_counter() - started) * 1000, 1),
            )


def _is_event_stream(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers)


def _class_of(status: int) -> str:
    """`2xx` and so on; `none` when the client left before there was an answer."""
    return f"{status // 100}xx" if status else "none"


def _known_method(method: str) -> str:
    return method if method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS") else "other"
