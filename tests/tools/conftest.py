from collections.abc import AsyncIterator, Callable
from functools import lru_cache

import pytest

from agentbackend.foundation.database import Database
from agentbackend.foundation.outbound import OutboundPolicy
from tests.tools.http_support import HttpToolMaker
from tests.tools.support import Door, ToolMaker
from tools import process
from tools.http_endpoint.sending import close_client
from tools.registry import ToolRegistry


@pytest.fixture
def tool_registry(database_pool: Database) -> ToolRegistry:
    """A registry that looks at the revision before each answer."""
    return ToolRegistry(database_pool, max_age_seconds=0)


@pytest.fixture
def door(tool_registry: ToolRegistry) -> Door:
    return Door(tool_registry)


@pytest.fixture
async def make_tool() -> AsyncIterator[ToolMaker]:
    maker = ToolMaker()
    yield maker
    await maker.remove_all()


@pytest.fixture
async def make_http_tool() -> AsyncIterator[HttpToolMaker]:
    maker = HttpToolMaker()
    yield maker
    await maker.remove_all()


@pytest.fixture
async def reach(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[OutboundPolicy], None]]:
    """Says what this process's tools may reach; before it is called, the loopback interface."""

    def use(policy: OutboundPolicy) -> None:
        monkeypatch.setattr(process._process, "policy", policy)

    use(_loopback_policy())
    yield use
    await close_client()


@lru_cache(maxsize=1)
def _loopback_policy() -> OutboundPolicy:
    """Made once: reading the certificates takes a while."""
    return OutboundPolicy(allowed_hosts=["127.0.0.1"])
