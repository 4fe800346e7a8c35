"""Services whose tools have effects that tests can see and hold back, and whose model does as its messages say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agentbackend.embedded_postgres.cluster import Cluster
from tests.runs.upstream import Upstream
from tests.separate_database import SeparateDatabase, separate_database


@contextmanager
def effect_services(
    cluster: Cluster, folders: pytest.TempPathFactory, upstream: Upstream
) -> Iterator[SeparateDatabase]:
    """Services on a database of their own, with short leases, so that others soon go on with what they leave."""
    settings = {
        "TOOL_MODULES": "tests.runs.effect_tools",
        "EFFECTS_FOLDER": str(folders.mktemp("effects")),
        "RUN_LEASE_SECONDS": "3",
        "RUN_HEARTBEAT_SECONDS": "0.5",
        "OPENAI_BASE_URL": upstream.url,
        "OPENAI_MODEL": "upstream",
    }
    with separate_database(cluster, folders.mktemp("services"), **settings) as made:
        yield made
