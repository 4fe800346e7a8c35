"""What everybody may see of our agents, and what must not be."""

from __future__ import annotations

from uuid import uuid4

from orchestration.models import Agent
from tests.a2a_server.support import SdkClient
from tests.running_service import Caller, RunningService

CARD = "/.well-known/agent-card.json"


def test_the_official_client_verifies_card_and_extended_card(
    sdk: SdkClient, signing: RunningService, agent: str
) -> None:
    card, extended = sdk.ask(signing, agent, Caller(), "card")
    assert (card["name"], [skill["id"] for skill in card["skills"]]) == ("Adder", ["sums"])
    assert card["capabilities"] == {"streaming": True, "pushNotifications": True, "extendedAgentCard": True}
    assert {interface["protocolBinding"] for interface in card["supportedInterfaces"]} == {"JSONRPC", "HTTP+JSON"}
    assert extended["skills"][0]["outputModes"] == ["text/plain"]
    assert extended["signatures"] != card["signatures"]


def test_a_card_that_was_fetched_before_is_not_sent_again(signing: RunningService, agent: str) -> None:
    with signing.client() as client:
        first = client.get(f"/a2a/{agent}{CARD}")
        assert first.headers["last-modified"]
        again = client.get(f"/a2a/{agent}{CARD}", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_an_agent_that_is_not_exposed_is_not_there(signing: RunningService) -> None:
    slug = f"inside-{uuid4().hex[:12]}"
    hidden = Agent.objects.create(slug=slug, name="Inside")
    try:
        with signing.client(Caller()) as client:
            assert client.get(f"/a2a/{slug}{CARD}").status_code == 404
            assert client.post(f"/a2a/{slug}", json={}, headers={"A2A-Version": "1.0"}).status_code == 404
    finally:
        hidden.delete()


def test_only_callers_whom_the_gateway_names_reach_an_agent(signing: RunningService, agent: str) -> None:
    with signing.client() as stranger:
        assert stranger.get(f"/a2a/{agent}{CARD}").status_code == 200
        refused = stranger.post(f"/a2a/{agent}/message:send", json={}, headers={"A2A-Version": "1.0"})
        assert (refused.status_code, refused.json()["code"]) == (401, "invalid_user_id")
        assert stranger.get(f"/a2a/{agent}{CARD}", headers={"Host": "evil.example"}).json()["code"] == "invalid_host"


def test_requests_of_another_version_or_form_are_refused_as_the_protocol_says(
    signing: RunningService, agent: str
) -> None:
    with signing.client(Caller()) as client:
        call = {"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"id": "x"}}
        assert client.post(f"/a2a/{agent}", json=call).json()["error"]["code"] == -32009
        known = {"A2A-Version": "1.0"}
        assert client.post(f"/a2a/{agent}/", json=call, headers=known).json()["error"]["code"] == -32001
        assert client.post(f"/a2a/{agent}", content="x", headers=known).status_code == 415
        assert client.get(f"/a2a/{agent}", headers=known).status_code == 405
        assert client.get(f"/a2a/{agent}/nothing", headers=known).status_code == 404
        missing = client.get(f"/a2a/{agent}/tasks/x", headers=known)
        assert (missing.status_code, missing.headers["content-type"]) == (404, "application/json")
