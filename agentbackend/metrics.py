"""`/metrics` for Prometheus and `/metrics-debug` for people: open to loopback, to listed addresses, and to a token's holder."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

_FORWARDING = ("HTTP_FORWARDED", "HTTP_X_FORWARDED_FOR", "HTTP_X_REAL_IP", "HTTP_VIA")
_refreshers: list[Callable[[], None]] = []


def register_refresher(refresh: Callable[[], None]) -> None:
    """Have `refresh` called before each reading: it sets gauges whose source keeps its own counts."""
    _refreshers.append(refresh)


async def prometheus(request: HttpRequest) -> HttpResponseBase:
    """All metrics in Prometheus' text format."""
    if not may_read(request):
        return _refused()
    _refresh()
    return HttpResponse(generate_latest(REGISTRY), content_type=CONTENT_TYPE_LATEST)


async def debug_summary(request: HttpRequest) -> HttpResponseBase:
    """The service's own metrics as JSON: counters and gauges by name and labels, histograms as count, sum and mean."""
    if not may_read(request):
        return _refused()
    _refresh()
    return JsonResponse(summary())


def may_read(request: HttpRequest) -> bool:
    """Whether the request comes from where metrics may be read, or carries the token."""
    given = request.headers.get("Authorization", "").removeprefix("Bearer ").encode()
    if settings.METRICS_TOKEN and hmac.compare_digest(given, settings.METRICS_TOKEN.encode()):
        return True
    if any(name in request.META for name in _FORWARDING):
        return False  # the address is a proxy's, not the reader's
    try:
        address = ipaddress.ip_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError:
        return False
    return any(address in network for network in settings.METRICS_ALLOWED_FROM)


def summary() -> dict[str, Any]:
    """Every metric of ours that has a value."""
    found: dict[str, Any] = {}
    for metric in REGISTRY.collect():
        if not metric.name.startswith("agentbackend_"):
            continue
        name = metric.name.removeprefix("agentbackend_")
        found[name] = _histogram(metric.samples) if metric.type == "histogram" else _values(metric.samples)
    return found


def _values(samples: list[Any]) -> Any:
    values = {_labels(sample.labels): sample.value for sample in samples if not sample.name.endswith("_created")}
    return values.get("", values)


def _histogram(samples: list[Any]) -> dict[str, Any]:
    counts = {_labels(s.labels): s.value for s in samples if s.name.endswith("_count")}
    sums = {_labels(s.labels): s.value for s in samples if s.name.endswith("_sum")}
    return {
        label or "all": {
            "count": count,
            "sum": round(sums[label], 4),
            "mean": round(sums[label] / count, 4) if count else None,
        }
        for label, count in counts.items()
    }


def _labels(labels: dict[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))


def _refresh() -> None:
    for refresh in _refreshers:
        refresh()


def _refused() -> HttpResponse:
    return HttpResponse("Not found\n", status=404, content_type="text/plain")
