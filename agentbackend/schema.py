"""The schema around the tables: schema, roles and rights before migrations, partitions after them, under one lock."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from django.core.management import call_command
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor
from django.db.utils import DatabaseError

from agentbackend.databases import RUNTIME_ROLE, SCHEMA

logger = logging.getLogger(__name__)

OWNER_ALIAS = "owner"
_MIGRATION_LOCK = 0x6167656E74  # any number, the same in all replicas


def migrate_now() -> None:
    """Bring the database up to date; several replicas may call it at once."""
    call_command("migrate", verbosity=1, interactive=False)


def pending_migrations() -> bool:
    """Whether the code knows migrations that the database has not seen."""
    executor = MigrationExecutor(connections[DEFAULT_DB_ALIAS])
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))


@contextmanager
def migration_lock(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Hold the lock that keeps replicas from migrating at once (a session lock: it ends with the connection)."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [_MIGRATION_LOCK])
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [_MIGRATION_LOCK])


def prepare_schema(connection: BaseDatabaseWrapper) -> None:
    """Make the schema and the runtime role, and give the role its rights on what migrations will make."""
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        cursor.execute(f"REVOKE ALL ON SCHEMA {SCHEMA} FROM PUBLIC")
    if not _ensure_runtime_role(connection):
        return
    with connection.cursor() as cursor:
        cursor.execute(f"GRANT USAGE ON SCHEMA {SCHEMA} TO {RUNTIME_ROLE}")
        rights = f"ALTER DEFAULT PRIVILEGES IN SCHEMA {SCHEMA} GRANT"
        cursor.execute(f"{rights} SELECT, INSERT, UPDATE, DELETE ON TABLES TO {RUNTIME_ROLE}")
        cursor.execute(f"{rights} USAGE, SELECT ON SEQUENCES TO {RUNTIME_ROLE}")


def _ensure_runtime_role(connection: BaseDatabaseWrapper) -> bool:
    """Whether the runtime role exists; made here on a database of the operator's, where the login may make roles."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_has_role(current_user, oid, 'MEMBER') FROM pg_roles WHERE rolname = %s", [RUNTIME_ROLE]
        )
        found = cursor.fetchone()
    if found is not None and (found[0] or settings.DATABASE_PLAN.embedded):
        return True
    try:
        with connection.cursor() as cursor:
            if found is None:
                cursor.execute(f"CREATE ROLE {RUNTIME_ROLE} NOLOGIN")
            cursor.execute(f"GRANT {RUNTIME_ROLE} TO CURRENT_USER")
    except DatabaseError:
        logger.warning(
            "SUPABASE_DATABASE_URL: its login may not make the role %s, so one role owns the tables and writes them: "
            "the audit trail is then guarded by triggers only",
            RUNTIME_ROLE,
        )
        return found is not None
    return True
