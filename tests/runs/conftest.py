"""Services with settings of their own, started once for all tests of runs."""

from __future__ import annotations

import psycopg
import pytest

from tests.running_service import RunningService, ServiceFactory
from tests.runs.support import Stored


@pytest.fixture
def stored(superuser_connection: psycopg.Connection) -> Stored:
    """What the database holds."""
    return Stored(superuser_connection)


@pytest.fixture(scope="session")
def other_process(service_factory: ServiceFactory) -> RunningService:
    """A second process on the same database; impatient with models, strict about a run's size, quick to beat."""
    return service_factory.start(
        MODEL_IDLE_TIMEOUT_SECONDS="1",
        MAX_RUN_BYTES="6000",
        MAX_ITERATIONS_PER_TURN="3",
        STREAM_HEARTBEAT_SECONDS="0.3",
    )
