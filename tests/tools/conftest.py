from collections.abc import AsyncIterator

import pytest

from agentbackend.foundation.database import Database
from tests.tools.support import Door, ToolMaker
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
