"""What all tests share: a throw-away PostgreSQL, and the real service as a process of its own.

The database is never emptied: tests use fresh ids and look for their own rows, so they can run side by side and in any order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import django
import hypothesis
import psycopg
import pytest
from django.conf import settings
from django.core.management import call_command
from pytest_django.plugin import DjangoDbBlocker

from agentbackend.embedded_postgres.cluster import Cluster
from agentbackend.embedded_postgres.location import SUPERUSER, default_location
from agentbackend.foundation.database import Database, database
from tests.running_service import RunningService, ServiceFactory

django.setup()
# a machine that does other things, too, is no fault of a test's
hypothesis.settings.register_profile("shared", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("shared")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The session's PostgreSQL server."""
    found = Cluster(default_location(settings.AGENTBACKEND_DATA_DIR), throw_away=True)
    with found.attached():
        yield found


@pytest.fixture(scope="session", autouse=True)
def migrated_database(cluster: Cluster, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """The database with all migrations, open to Django's ORM for the whole session."""
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0, interactive=False)
        yield


@pytest.fixture
async def database_pool() -> AsyncIterator[Database]:
    """The process's asynchronous pool, open in this test's event loop."""
    plan = settings.DATABASE_PLAN
    await database.open(plan.runtime_conninfo, session_statements=plan.session_statements, max_size=8)
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
def superuser_connection(cluster: Cluster) -> Iterator[psycopg.Connection]:
    """A connection that may do anything: for showing what even it cannot."""
    host = str(cluster.location.socket_directory)
    with psycopg.connect(host=host, user=SUPERUSER, dbname="agentbackend", autocommit=True) as connection:
        connection.execute("SET search_path TO agentbackend")
        yield connection


@pytest.fixture(scope="session")
def service_factory(
    cluster: Cluster, migrated_database: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceFactory]:
    """Starts services with settings of their own; all are stopped at the end."""
    factory = ServiceFactory(tmp_path_factory.mktemp("services"))
    yield factory
    factory.stop_all()


@pytest.fixture(scope="session")
def service(service_factory: ServiceFactory) -> RunningService:
    """The service with the demo model, as `make run` starts it."""
    return service_factory.start()


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The checkout."""
    return Path(settings.BASE_DIR)
