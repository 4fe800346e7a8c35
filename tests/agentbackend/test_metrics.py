"""Metrics: who may read them, and that a run leaves its numbers there."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import httpx
import pytest
from django.test import RequestFactory, override_settings
from prometheus_client.parser import text_string_to_metric_families

from agentbackend.metrics import may_read
from tests.running_service import Caller, RunningService


def _values(service: RunningService) -> dict[tuple[Any, ...], float]:
    """The service's own samples, by name and labels."""
    with service.client() as client:
        text = client.get("/metrics").text
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("agentbackend_")
    }


def _grown(
    before: dict[tuple[Any, ...], float], after: dict[tuple[Any, ...], float], name: str, **labels: str
) -> float:
    """How much the samples of this name with at least these labels have grown together."""
    fitting = [key for key in after if key[0] == name and set(labels.items()) <= set(key[1:])]
    return sum(after[key] - before.get(key, 0.0) for key in fitting)


def test_a_run_is_counted_with_its_turns_tokens_and_calls(service: RunningService) -> None:
    before = _values(service)
    service.stream(Caller(), "GET", "/ag-ui/events")
    after = _values(service)
    assert _grown(before, after, "agentbackend_runs_ended_total", status="finished") >= 1
    assert _grown(before, after, "agentbackend_model_turns_total", outcome="ok") >= 2
    assert _grown(before, after, "agentbackend_model_tokens_total", kind="input") > 0
    assert _grown(before, after, "agentbackend_model_tokens_total", kind="output") > 0
    assert _grown(before, after, "agentbackend_tool_calls_total", tool="get_weather_tool", outcome="ok") >= 1
    assert _grown(before, after, "agentbackend_first_token_seconds_count") >= 2
    assert _grown(before, after, "agentbackend_first_event_seconds_count") >= 1
    assert _grown(before, after, "agentbackend_events_committed_total") >= 5
    assert _grown(before, after, "agentbackend_audit_entries_total", action="run.finished") >= 1
    assert _grown(before, after, "agentbackend_writer_groups") >= 1
    assert _grown(before, after, "agentbackend_writer_bytes") > 0


def test_refusals_are_counted_by_code(service: RunningService) -> None:
    before = _values(service)
    with service.client(Caller()) as client:
        assert client.post("/ag-ui/events", content=b"{", headers={"Content-Type": "application/json"}).is_client_error
    assert _grown(before, _values(service), "agentbackend_requests_refused_total", code="invalid_json") >= 1


def test_refusals_by_the_gateway_check_are_counted_too(service: RunningService) -> None:
    before = _values(service)
    with service.client() as client:
        code = client.get("/ag-ui/events").json()["code"]
    assert _grown(before, _values(service), "agentbackend_requests_refused_total", code=code) >= 1


def test_unknown_methods_share_one_label(service: RunningService) -> None:
    with service.client() as client:
        client.request("BREW", "/health")
    assert not [key for key in _values(service) if "BREW" in str(key)]


def test_the_summary_holds_the_same_metrics_as_json(service: RunningService) -> None:
    service.stream(Caller(), "GET", "/ag-ui/events")
    with service.client() as client:
        summary: dict[str, Any] = client.get("/metrics-debug").json()
    assert summary["run_seconds"]["all"]["count"] >= 1
    assert "open" in str(summary["pool_connections"])
    assert isinstance(summary["runs_active"], float)


@pytest.mark.parametrize("path", ["/metrics", "/metrics-debug"])
def test_a_request_through_a_proxy_is_a_strangers(service: RunningService, path: str) -> None:
    with service.client() as client:
        assert client.get(path, headers={"X-Forwarded-For": "127.0.0.1"}).status_code == 404


def _may_read(address: str, **headers: str) -> bool:
    return may_read(RequestFactory().get("/metrics", REMOTE_ADDR=address, headers=headers))


def test_only_listed_addresses_and_networks_may_read() -> None:
    with override_settings(METRICS_ALLOWED_FROM=[ip_network("10.1.0.0/16"), ip_network("::1")], METRICS_TOKEN=""):
        assert _may_read("10.1.2.3")
        assert _may_read("::1")
        assert not _may_read("127.0.0.1")
        assert not _may_read("10.2.0.1")
        assert not _may_read("not an address")
        assert not _may_read("10.9.9.9", Authorization="Bearer ")


def test_the_token_opens_them_from_anywhere_even_through_a_proxy() -> None:
    with override_settings(METRICS_ALLOWED_FROM=[], METRICS_TOKEN="a-token-for-metrics"):
        headers = {"Authorization": "Bearer a-token-for-metrics", "X-Forwarded-For": "192.0.2.7"}
        assert _may_read("192.0.2.1", **headers)
        assert not _may_read("192.0.2.1", Authorization="Bearer another")
        assert not _may_read("192.0.2.1")


def test_prometheus_can_read_the_answer(service: RunningService) -> None:
    answer = httpx.get(f"{service.url}/metrics", trust_env=False)
    assert answer.headers["content-type"].startswith("text/plain")
    assert _values(service)
