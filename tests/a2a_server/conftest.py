"""An exposed agent, and the official client."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from agentbackend.development import KEYS
from orchestration.models import Agent
from tests.a2a_server.support import Receiver, SdkClient
from tests.running_service import RunningService, ServiceFactory
from tests.runs.support import eventually

SKILLS = {"sums": {"name": "Sums", "description": "Adds numbers.", "tags": ["arithmetic"]}}


@pytest.fixture(scope="session")
def signing(service_factory: ServiceFactory) -> RunningService:
    """A service that signs, and may post to receivers on this machine."""
    return service_factory.start(A2A_SIGNING_KEYS=KEYS["A2A_SIGNING_KEYS"](), OUTBOUND_ALLOWED_HOSTS="127.0.0.1")


@pytest.fixture(scope="session")
def agent(signing: RunningService) -> Iterator[str]:
    """An agent that is exposed; its slug."""
    slug = f"a2a-{uuid4().hex[:12]}"
    Agent.objects.create(slug=slug, name="Adder", description="It adds.", exposed_over_a2a=True, skills=SKILLS)
    with signing.client() as client:
        address = f"/a2a/{slug}/.well-known/agent-card.json"
        eventually(lambda: client.get(address).status_code == 200, "the service knows the agent")
    yield slug
    Agent.objects.filter(slug=slug).update(exposed_over_a2a=False)


@pytest.fixture(scope="session")
def sdk() -> Iterator[SdkClient]:
    """The official client."""
    client = SdkClient()
    yield client
    client.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Where push notifications go."""
    made = Receiver()
    yield made
    made.close()
