"""An OTLP/HTTP receiver on loopback: it keeps the spans that a service exports."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Thread
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

WAIT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """A span as it came in: identifiers in hexadecimal, attributes by name, its resource's attributes, and all of it as text."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    text: str


class TraceReceiver:
    """What was received; `wait_for` blocks until it suffices."""

    def __init__(self) -> None:
        self.url = ""
        self._spans: list[ReceivedSpan] = []
        self._arrived = Condition()

    def take(self, body: bytes) -> None:
        """Keep the spans of one export."""
        message = ExportTraceServiceRequest.FromString(body)
        with self._arrived:
            for group in message.resource_spans:
                resource = _values(group.resource.attributes)
                for scope in group.scope_spans:
                    self._spans.extend(_span(span, resource) for span in scope.spans)
            self._arrived.notify_all()

    @property
    def spans(self) -> list[ReceivedSpan]:
        """Everything so far."""
        with self._arrived:
            return list(self._spans)

    def wait_for(self, enough: Callable[[list[ReceivedSpan]], bool]) -> list[ReceivedSpan]:
        """All spans, as soon as there are enough; fails with their names after a while."""
        with self._arrived:
            came = self._arrived.wait_for(lambda: enough(self._spans), WAIT_SECONDS)
            assert came, sorted(span.name for span in self._spans)
            return list(self._spans)


@contextmanager
def receiving_traces() -> Iterator[TraceReceiver]:
    """A receiver that listens."""
    receiver = TraceReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            known = self.path == "/v1/traces"
            if known:
                receiver.take(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _span(span: Any, resource: dict[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        span.name, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), _values(span.attributes), resource,
        str(span),
    )  # fmt: skip


def _values(attributes: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}
