"""Several models: the next one answers when the one before fails before its first byte, and whoever answered is named everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from agentbackend.foundation.outbound import OutboundPolicy
from audit.actor import SYSTEM
from orchestration.models import ModelProvider
from tests.running_service import Caller, Frame, RunningService, ServiceFactory, run_input
from tests.runs.provider_server import ProviderServer, provider_server
from tests.runs.support import Stored, assert_well_formed, events, eventually, text
from tools.changes import submit
from tools.documents import Document

KEY = "sk-a-key-that-nobody-may-see"
FAILURES = {
    "status-500": "model_unavailable",
    "status-429": "model_rate_limited",
    "status-401": "model_refused",
    "status-404-model_not_found": "model_refused",
    "status-400-context_length_exceeded": "model_context_too_long",
    "hangs-up": "model_unavailable",
    "html": "model_invalid_response",
    "empty": "model_invalid_response",
    "silent": "model_timeout",
}
P = f"p{uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def upstream() -> Iterator[ProviderServer]:
    with provider_server() as server:
        yield server


class Agents:
    """Makes agents with models in a row."""

    def __call__(self, *models: str, **spec: Any) -> str:
        slug = f"{P}-{uuid4().hex[:8]}"
        said = {"title": slug, "model": models[0], "fallback_models": list(models[1:]), "tools": ["calculator_tool"]}
        submit(Document("Agent", slug, {**said, **spec}), by=SYSTEM)
        return slug


@pytest.fixture(scope="module")
def connected(
    service_factory: ServiceFactory, upstream: ProviderServer, migrated_database: None
) -> Iterator[RunningService]:
    """A service whose own model is the demo model, with a provider beside it and two prices."""
    spec = {"base_url": upstream.url, "credential": "FALLBACK_KEY", "first_token_seconds": 0.5}
    prices = {"input_price": 3.0, "output_price": 15.0, "cached_input_price": 0.3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tools.process._process.policy", OutboundPolicy(allowed_hosts=["127.0.0.1"]))
        submit(Document("ModelProvider", P, spec), by=SYSTEM)
    submit(Document("ModelPrice", f"{P}:call*@2020-01-01", prices), by=SYSTEM)
    submit(Document("ModelPrice", f"{P}:*@2100-01-01", prices), by=SYSTEM)
    started = service_factory.start(OUTBOUND_ALLOWED_HOSTS="127.0.0.1", FALLBACK_KEY=KEY)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def agents(migrated_database: None) -> Agents:
    return Agents()


@pytest.fixture
def ask(connected: RunningService) -> Callable[..., tuple[str, list[Frame]]]:
    """Have an agent answer; returns the run's id and its events."""

    def asking(slug: str, question: str = "well?") -> tuple[str, list[Frame]]:
        path, wish, caller = f"/ag-ui/agent/{slug}/run", run_input(question), Caller()
        with connected.client(caller) as client:
            eventually(lambda: slug in client.get("/ag-ui/info").json()["agents"], "the agent is known")
        frames = connected.stream(caller, "POST", path, json=wish)
        assert_well_formed(frames, wish["runId"])
        return wish["runId"], frames

    return asking


def fallbacks(frames: list[Frame]) -> list[dict[str, Any]]:
    return [event["value"] for event in events(frames, "CUSTOM") if event["name"] == "model_fallback"]


def usage(frames: list[Frame]) -> list[tuple[str, str, int]]:
    found = frames[-1].event["usage"]
    return [(entry.get("provider", ""), entry["model"], entry["totalTokens"]) for entry in found]


@pytest.mark.parametrize("model", FAILURES)
def test_the_next_model_answers_when_the_first_fails_before_its_first_byte(
    model: str, agents: Agents, ask: Callable[..., Any], stored: Stored, connected: RunningService
) -> None:
    run_id, frames = ask(agents(f"{P}:{model}", f"{P}:answers"))
    assert text(frames) == "answers says so."
    assert fallbacks(frames) == [{"from": f"{P}:{model}", "to": f"{P}:answers", "code": FAILURES[model]}]
    assert usage(frames) == [(P, "answers", 10_000)]
    assert stored.run(run_id)["model"] == f"{P}:answers"
    [step] = stored.values(
        "SELECT s.detail FROM orchestration_step s JOIN orchestration_run r ON r.id = s.run_id WHERE r.public_id = %s",
        run_id,
    )
    assert (step["provider"], step["model"]) == (P, "answers")
    assert step["failures"] == [{"model": f"{P}:{model}", "code": FAILURES[model]}]
    assert KEY not in connected.log.read_text()
    assert KEY not in str(frames)


def test_the_audit_trail_says_who_was_asked_who_answered_and_who_failed(
    agents: Agents, ask: Callable[..., Any], stored: Stored
) -> None:
    run_id, _ = ask(agents(f"{P}:hangs-up", f"{P}:answers"))
    [payload] = stored.values(
        "SELECT convert_from(p.body, 'UTF8')::jsonb FROM audit_events a JOIN audit_payload p ON p.event_id = a.id "
        "JOIN orchestration_run r ON r.id = a.run_id WHERE r.public_id = %s AND a.action = 'model.turn'",
        run_id,
    )
    assert (payload["asked"], payload["model"]) == (f"{P}:hangs-up", "answers")
    assert payload["failures"] == [{"model": f"{P}:hangs-up", "code": "model_unavailable"}]


def test_after_the_first_byte_nobody_else_is_asked(
    agents: Agents, ask: Callable[..., Any], upstream: ProviderServer
) -> None:
    before = len(upstream.asked)
    _, frames = ask(agents(f"{P}:breaks", f"{P}:answers"))
    assert frames[-1].event["code"] == "model_stream_interrupted"
    assert upstream.asked[before:] == ["breaks"]
    assert usage(frames)[0][:2] == (P, "breaks")
    assert usage(frames)[0][2] > 0, "what was written is counted all the same"


def test_what_a_provider_withholds_is_not_taken_to_another(
    agents: Agents, ask: Callable[..., Any], upstream: ProviderServer
) -> None:
    before = len(upstream.asked)
    for model in ("withholds", "status-400-content_filter"):
        _, frames = ask(agents(f"{P}:{model}", f"{P}:answers"))
        assert frames[-1].event["code"] == "model_content_filter"
    assert "answers" not in upstream.asked[before:]


def test_when_nobody_answers_the_failure_that_may_pass_is_told_with_a_usage_of_nothing(
    agents: Agents, ask: Callable[..., Any]
) -> None:
    _, frames = ask(agents(f"{P}:status-401", f"{P}:status-503", f"{P}:status-404"))
    assert frames[-1].event["code"] == "model_unavailable"
    assert usage(frames) == [("", f"{P}:status-401", 0)]


def test_a_model_that_failed_often_is_tried_last_for_a_while(
    agents: Agents, ask: Callable[..., Any], upstream: ProviderServer
) -> None:
    slug = agents(f"{P}:status-502", f"{P}:answers")
    for _ in range(3):
        ask(slug)
    before = len(upstream.asked)
    _, frames = ask(slug)
    assert upstream.asked[before:] == ["answers"]
    assert fallbacks(frames) == [{"from": f"{P}:status-502", "to": f"{P}:answers", "code": "model_unavailable"}]


def test_the_demo_model_and_the_services_own_can_stand_in(agents: Agents, ask: Callable[..., Any]) -> None:
    for other in ("demo:script", "default:whatever", "llama3.1:8b"):
        _, frames = ask(agents(f"{P}:hangs-up", other), "what is 6*7")
        assert "42" in text(frames)
        assert fallbacks(frames)[0]["to"] == other
        assert len(fallbacks(frames)) == 2, "each turn of the run asks anew"


def test_a_run_costs_what_its_tokens_cost_by_the_price_of_the_day(
    agents: Agents, ask: Callable[..., Any], stored: Stored
) -> None:
    run_id, frames = ask(agents(f"{P}:calls"), "what is 6*7")
    assert usage(frames) == [(P, "calls", 20_000)]
    each = (Decimal(5000) * 3 + Decimal(4000) * Decimal("0.3") + Decimal(1000) * 15) / 1_000_000
    assert stored.run(run_id)["cost"] == 2 * each
    unpriced, _ = ask(agents(f"{P}:answers"))
    assert stored.run(unpriced)["cost"] is None, "its only price counts from another day on"


def test_what_a_provider_does_not_count_is_estimated_and_says_so(
    agents: Agents, ask: Callable[..., Any], stored: Stored
) -> None:
    run_id, frames = ask(agents(f"{P}:does-not-count"))
    assert usage(frames)[0][2] > 5
    [step] = stored.values(
        "SELECT s.detail FROM orchestration_step s JOIN orchestration_run r ON r.id = s.run_id WHERE r.public_id = %s",
        run_id,
    )
    assert step["estimated"] is True


def test_a_provider_is_shown_its_key_and_another_address_counts_without_a_restart(
    agents: Agents, ask: Callable[..., Any], upstream: ProviderServer
) -> None:
    slug = agents(f"{P}:answers")
    ask(slug)
    assert upstream.keys == {f"Bearer {KEY}"}
    with provider_server() as other:
        ModelProvider.objects.filter(name=P).update(base_url=other.url, credential="")
        try:
            eventually(lambda: ask(slug) and other.asked, "the provider's new address is asked")
            assert other.keys == {"Bearer none"}
        finally:
            ModelProvider.objects.filter(name=P).update(base_url=upstream.url, credential="FALLBACK_KEY")
        before = len(upstream.asked)
        eventually(lambda: ask(slug) and len(upstream.asked) > before, "the former address is asked again")


def test_a_provider_at_a_private_address_is_not_reached_unless_it_is_allowed(
    service: RunningService, agents: Agents, upstream: ProviderServer
) -> None:
    name = f"q{uuid4().hex[:8]}"
    ModelProvider.objects.create(name=name, base_url=upstream.url)  # past the form, which refuses what is written so
    slug, caller, before = agents(f"{name}:answers"), Caller(), len(upstream.asked)
    with service.client(caller) as client:
        eventually(lambda: slug in client.get("/ag-ui/info").json()["agents"], "the agent is known")

    def refused() -> bool:
        frames = service.post_run(caller, "well?", path=f"/ag-ui/agent/{slug}/run")
        return frames[-1].event.get("code") == "model_refused"

    eventually(refused, "the provider is known, and not reached")
    assert len(upstream.asked) == before
