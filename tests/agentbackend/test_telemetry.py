"""Traces as a collector gets them from the real service."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from django.core.exceptions import ImproperlyConfigured
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentbackend.telemetry import RedactingProcessor, open_exporter
from tests.agentbackend.trace_receiver import ReceivedSpan, TraceReceiver, receiving_traces
from tests.running_service import Caller, RunningService, ServiceFactory


@pytest.fixture(scope="module")
def receiver() -> Iterator[TraceReceiver]:
    with receiving_traces() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def traced(service_factory: ServiceFactory, receiver: TraceReceiver) -> Iterator[RunningService]:
    """A service that exports; its spans leave it soon."""
    started = service_factory.start(
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_SERVICE_NAME="traced", OTEL_BSP_SCHEDULE_DELAY="200"
    )
    yield started
    started.stop()


def _parent() -> tuple[str, str, dict[str, str]]:
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return trace_id, span_id, {"traceparent": f"00-{trace_id}-{span_id}-01"}


def _of(spans: list[ReceivedSpan], trace_id: str) -> dict[str, list[ReceivedSpan]]:
    found: dict[str, list[ReceivedSpan]] = {}
    for span in spans:
        if span.trace_id == trace_id:
            found.setdefault(span.name, []).append(span)
    return found


def test_a_run_is_one_trace_under_the_callers_span(traced: RunningService, receiver: TraceReceiver) -> None:
    trace_id, caller_span, headers = _parent()
    asked = "What is the weather like in Quito?"
    traced.stream(Caller(), "GET", "/ag-ui/events", params={"user_message": asked}, headers=headers)
    spans = _of(receiver.wait_for(lambda spans: "run" in _of(spans, trace_id)), trace_id)

    run = spans["run"][0]
    assert run.parent_id == caller_span
    assert {span.parent_id for span in spans["model turn"]} == {run.span_id}
    assert len(spans["model turn"]) == 2
    assert [span.attributes["gen_ai.tool.name"] for span in spans["tool call"]] == ["get_weather_tool"]
    assert spans["tool call"][0].parent_id == run.span_id
    turns = {span.span_id for span in spans["model turn"]}
    assert {span.parent_id for span in spans["POST"]} == turns  # the requests to the model
    assert run.resource["service.name"] == "traced"


def test_no_span_holds_what_the_user_wrote(traced: RunningService, receiver: TraceReceiver) -> None:
    trace_id, _, headers = _parent()
    word = "zanzibar" + secrets.token_hex(4)
    traced.stream(Caller(), "GET", "/ag-ui/events", params={"user_message": f"weather in {word}"}, headers=headers)
    with traced.client() as client:
        client.get("/playground/", params={"user_message": word}, headers=headers)
    spans = receiver.wait_for(lambda spans: {"run", "GET playground/"} <= set(_of(spans, trace_id)))
    assert not [span.text for span in spans if word in span.text]


def test_a_view_of_django_makes_a_span_under_the_callers(traced: RunningService, receiver: TraceReceiver) -> None:
    trace_id, caller_span, headers = _parent()
    with traced.client() as client:
        client.get("/admin/login/?next=/admin/secret-place", headers=headers)
    spans = _of(receiver.wait_for(lambda spans: "GET admin/login/" in _of(spans, trace_id)), trace_id)
    span = spans["GET admin/login/"][0]
    assert span.parent_id == caller_span
    assert "secret-place" not in span.text


def test_health_checks_are_not_traced(traced: RunningService, receiver: TraceReceiver) -> None:
    quiet, _, quiet_headers = _parent()
    heard, _, headers = _parent()
    with traced.client() as client:
        for path in ("/health", "/readiness", "/metrics", "/metrics-debug"):
            assert client.get(path, headers=quiet_headers).status_code == 200
        client.get("/playground/", headers=headers)
    spans = receiver.wait_for(lambda spans: bool(_of(spans, heard)))
    assert _of(spans, quiet) == {}


def test_what_waits_is_sent_before_the_service_ends(service_factory: ServiceFactory) -> None:
    with receiving_traces() as receiver:
        service = service_factory.start(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_BSP_SCHEDULE_DELAY="600000")
        service.stream(Caller(), "GET", "/ag-ui/events")
        assert receiver.spans == []
        assert service.stop() == 0
        assert "run" in {span.name for span in receiver.spans}


def test_a_collector_that_is_away_disturbs_nothing(service_factory: ServiceFactory) -> None:
    service = service_factory.start(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_BSP_SCHEDULE_DELAY="100")
    frames = service.stream(Caller(), "GET", "/ag-ui/events")
    assert frames[-1].event["event_type"] == "AGENT_RESPONSE"
    assert service.stop() == 0


def test_without_an_address_no_provider_is_set(project_root: Path) -> None:
    program = (
        "import agentbackend.asgi\nfrom opentelemetry import trace\n"
        "assert type(trace.get_tracer_provider()).__name__ == 'ProxyTracerProvider'\n"
        "from django.conf import settings\nassert not any('telemetry' in name for name in settings.MIDDLEWARE)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=project_root, env=dict(os.environ), check=True, timeout=60)


@pytest.mark.parametrize(
    ("endpoint", "protocol", "kind"),
    [
        ("http://127.0.0.1:4317", "", GrpcExporter),
        ("http://127.0.0.1:4318", "", HttpExporter),
        ("http://127.0.0.1:9999", "", HttpExporter),
        ("http://127.0.0.1:9999", "grpc", GrpcExporter),
        ("http://127.0.0.1:4317", "http/protobuf", HttpExporter),
    ],
)
def test_the_protocol_follows_the_setting_else_the_port(endpoint: str, protocol: str, kind: type) -> None:
    exporter = open_exporter(endpoint, protocol)
    exporter.shutdown()
    assert isinstance(exporter, kind)


@pytest.mark.parametrize(
    ("endpoint", "protocol", "named"),
    [
        ("collector:4318", "", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("http://", "", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("http://host:port", "", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("http://host:4318", "http/json", "OTEL_EXPORTER_OTLP_PROTOCOL"),
    ],
)
def test_a_bad_address_or_protocol_names_the_setting(endpoint: str, protocol: str, named: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=named):
        open_exporter(endpoint, protocol)


def test_addresses_and_exceptions_are_cleaned_in_every_span() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(RedactingProcessor(SimpleSpanProcessor(exporter)))
    attributes = {
        "url.full": "https://api.example.org/v1?token=hidden-one",
        "http.url": "https://api.example.org/v1?a b hidden-two",
        "url.query": "q=hidden-three",
        "note": "sent Bearer hidden-four-and-long",
        "size": 7,
    }
    with pytest.raises(httpx.ConnectError):
        with provider.get_tracer("test").start_as_current_span("outgoing", attributes=attributes):
            raise httpx.ConnectError("no way to https://api.example.org/?q=hidden-five")
    span = exporter.get_finished_spans()[0]
    assert "hidden" not in span.to_json()
    assert span.attributes is not None
    assert span.attributes["url.full"] == "https://api.example.org/v1"
    assert span.attributes["size"] == 7
    assert span.events[0].attributes is not None
    assert span.events[0].attributes["exception.type"] == "httpx.ConnectError"
    assert not span.status.is_ok
