from collections.abc import AsyncIterator

import pytest

from agentbackend.foundation.database import Database
from tests.mcp_server.support import Endpoint, GovernedTools
from tests.tools.support import KeepingRecorder, ToolMaker
from tools import process
from tools.registry import ToolRegistry


@pytest.fixture
def endpoint(database_pool: Database, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """`/mcp`, recording into a list, with a registry that looks at the revision before each answer."""
    found = Endpoint(ToolRegistry(database_pool, max_age_seconds=0), KeepingRecorder())
    monkeypatch.setattr(process, "recorder", lambda: found.recorder)
    return found


@pytest.fixture
async def make_tool() -> AsyncIterator[GovernedTools]:
    maker = ToolMaker()
    yield GovernedTools(maker)
    await maker.remove_all()
