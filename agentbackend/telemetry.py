"""Traces by OpenTelemetry: nothing of the SDK is touched unless OTEL_EXPORTER_OTLP_ENDPOINT is set.

Spans come from Django's views, from outgoing HTTP requests, and from the rooms (`run`, `model turn`, `tool call`), which know only the API.
No span leaves with a query string (a user's message stands there), a body, or the text of an exception.
"""

from __future__ import annotations

import logging
import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
import httpx2
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Status
from opentelemetry.util.types import Attributes, AttributeValue

from agentbackend.structured_logging import without_secrets

logger = logging.getLogger(__name__)

GRPC, HTTP = "grpc", "http/protobuf"
GRPC_PORT = 4317
EXPORT_TIMEOUT_SECONDS = 5
FLUSH_MILLISECONDS = 5000
# Asked every few seconds by machines: spans of these would bury the others.
_NOT_TRACED = r"/health\??$,/readiness\??$,/metrics\??$,/metrics-debug\??$"
_URL_ATTRIBUTES = ("url.full", "http.url", "http.target")
_LEFT_OUT = ("url.query", "exception.message", "exception.stacktrace")

_provider: TracerProvider | None = None


def configure_telemetry() -> bool:
    """Begin to export spans when the settings say where to; tells whether they do. Call once, before Django's middleware is loaded."""
    global _provider
    endpoint = settings.OTEL_EXPORTER_OTLP_ENDPOINT
    if not endpoint or _provider is not None:
        return _provider is not None
    resource = Resource.create({"service.name": settings.OTEL_SERVICE_NAME, "service.version": _version()})
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = open_exporter(endpoint, settings.OTEL_EXPORTER_OTLP_PROTOCOL)
    _provider.add_span_processor(RedactingProcessor(BatchSpanProcessor(exporter)))
    trace.set_tracer_provider(_provider)
    os.environ.setdefault("OTEL_PYTHON_DJANGO_EXCLUDED_URLS", _NOT_TRACED)  # read when the module is imported
    from opentelemetry.instrumentation.django import DjangoInstrumentor  # noqa: PLC0415

    DjangoInstrumentor().instrument()
    return True


def instrument_client(client: httpx.AsyncClient | httpx2.AsyncClient) -> None:
    """Have a client's requests make spans, when traces are exported.

    One by one, because the instrumentation of all clients sees their default transports only, and ours are others.
    """
    if _provider is None:
        return
    from opentelemetry.instrumentation.httpx import (  # noqa: PLC0415
        HTTPX2ClientInstrumentor,
        HTTPXClientInstrumentor,
    )

    if isinstance(client, httpx.AsyncClient):
        HTTPXClientInstrumentor.instrument_client(client)
    else:
        HTTPX2ClientInstrumentor.instrument_client(cast(Any, client))  # annotated with httpx's class only


def shutdown_telemetry() -> None:
    """Send what waits and stop; blocks for some seconds at most."""
    if _provider is not None:
        _provider.force_flush(FLUSH_MILLISECONDS)
        _provider.shutdown()


def open_exporter(endpoint: str, protocol: str = "") -> SpanExporter:
    """An OTLP exporter; without a protocol, port 4317 means gRPC and any other HTTP. Raises ImproperlyConfigured."""
    # Imported here: gRPC costs a good part of a second, and most processes export nothing.
    try:
        address = urlsplit(endpoint)
        chosen = protocol or (GRPC if address.port == GRPC_PORT else HTTP)
    except ValueError as error:
        raise ImproperlyConfigured("OTEL_EXPORTER_OTLP_ENDPOINT: is no address.") from error
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ImproperlyConfigured("OTEL_EXPORTER_OTLP_ENDPOINT: must begin with http:// or https:// and name a host.")
    if chosen == GRPC:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter as GrpcExporter,
        )

        return GrpcExporter(endpoint=endpoint, insecure=address.scheme == "http", timeout=EXPORT_TIMEOUT_SECONDS)
    if chosen != HTTP:
        raise ImproperlyConfigured(f"OTEL_EXPORTER_OTLP_PROTOCOL: expected {GRPC} or {HTTP}, got {protocol!r}.")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    return OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_TIMEOUT_SECONDS)


class RedactingProcessor(SpanProcessor):
    """Hands ended spans on without what must not leave the service. At the end, because instrumentations add attributes until then."""

    def __init__(self, following: SpanProcessor) -> None:
        self._following = following

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        """A span begins."""
        self._following.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        """A span has ended: a copy goes on."""
        self._following.on_end(_redacted(span))

    def shutdown(self) -> None:
        """Send what waits and stop."""
        self._following.shutdown()

    def force_flush(self, timeout_millis: int = FLUSH_MILLISECONDS) -> bool:
        """Send what waits; tells whether that was done in time."""
        return self._following.force_flush(timeout_millis)


def _redacted(span: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        name=without_secrets(span.name),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=_redacted_attributes(span.attributes),
        events=[Event(event.name, _redacted_attributes(event.attributes), event.timestamp) for event in span.events],
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code),  # its description is an exception's text
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _redacted_attributes(attributes: Attributes) -> dict[str, AttributeValue]:
    return {name: _redacted_value(name, value) for name, value in (attributes or {}).items() if name not in _LEFT_OUT}


def _redacted_value(name: str, value: AttributeValue) -> AttributeValue:
    if not isinstance(value, str):
        return value
    return value.partition("?")[0] if name in _URL_ATTRIBUTES else without_secrets(value)


def _version() -> str:
    try:
        return version("agentbackend")
    except PackageNotFoundError:  # run from a checkout
        return "0.1.0"
