"""The schema around the tables: schema, roles and rights before migrations, partitions after them, under one lock."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor
from django.db.utils import DatabaseError

from agentbackend.databases import MAY_ASSUME, RUNTIME_ROLE, SCHEMA

logger = logging.getLogger(__name__)

OWNER_ALIAS = "owner"
_MIGRATION_LOCK = 0x6167656E74  # any number, the same in all replicas
_MAY_ASSUME_RUNTIME_ROLE = f"SELECT pg_has_role(%s, '{RUNTIME_ROLE}', {MAY_ASSUME})"
# Partitions are reached through their parents only.
_WITHOUT_RIGHTS = """
SELECT class.oid::regclass::text, CASE class.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END
FROM pg_class AS class JOIN pg_namespace AS space ON space.oid = class.relnamespace
WHERE space.nspname = %s AND class.relkind IN ('r', 'p', 'S') AND NOT class.relispartition
  AND pg_has_role(current_user, class.relowner, 'USAGE')
  AND NOT CASE class.relkind WHEN 'S' THEN has_sequence_privilege(%s, class.oid, 'USAGE')
                             ELSE has_table_privilege(%s, class.oid, 'SELECT') END
"""


def migrate_now() -> None:
    """Bring the database up to date; several replicas may call it at once."""
    call_command("migrate", verbosity=1, interactive=False)


def pending_migrations() -> bool:
    """Whether the code knows migrations that the database has not seen."""
    connection = connections[DEFAULT_DB_ALIAS]
    try:
        executor = MigrationExecutor(connection)
        return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))
    finally:
        connection.close_if_unusable_or_obsolete()  # asked outside requests, whose end would do it


@contextmanager
def migration_lock(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Hold the lock that keeps replicas from migrating at once (a session lock: it ends with the connection)."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [_MIGRATION_LOCK])
    try:
        yield
    finally:
        with suppress(DatabaseError), connection.cursor() as cursor:  # a lost connection has given the lock back
            cursor.execute("SELECT pg_advisory_unlock(%s)", [_MIGRATION_LOCK])


def prepare_schema(connection: BaseDatabaseWrapper) -> None:
    """Make the schema and the runtime role, and give the role its rights on what migrations will make."""
    if not _ask(connection, "SELECT true FROM pg_namespace WHERE nspname = %s", [SCHEMA]):
        _do(connection, f"CREATE SCHEMA {SCHEMA}", f"REVOKE ALL ON SCHEMA {SCHEMA} FROM PUBLIC")
    if not _ensure_runtime_role(connection):
        return
    rights = f"ALTER DEFAULT PRIVILEGES IN SCHEMA {SCHEMA} GRANT"
    _do(
        connection,
        f"GRANT USAGE ON SCHEMA {SCHEMA} TO {RUNTIME_ROLE}",
        f"{rights} SELECT, INSERT, UPDATE, DELETE ON TABLES TO {RUNTIME_ROLE}",
        f"{rights} USAGE, SELECT ON SEQUENCES TO {RUNTIME_ROLE}",
    )


def complete_rights(connection: BaseDatabaseWrapper) -> None:
    """Give the runtime role what default privileges did not: tables older than the role, or made by another owner."""
    if not _ask(connection, "SELECT true FROM pg_roles WHERE rolname = %s", [RUNTIME_ROLE]):
        return
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute(_WITHOUT_RIGHTS, [SCHEMA, RUNTIME_ROLE, RUNTIME_ROLE])
        for name, kind in cursor.fetchall():
            rights = "USAGE, SELECT" if kind == "SEQUENCE" else "SELECT, INSERT, UPDATE, DELETE"
            cursor.execute(f"GRANT {rights} ON {kind} {name} TO {RUNTIME_ROLE}")
        if "audit_events" in connection.introspection.table_names(cursor):
            cursor.execute("SELECT audit_restrict(%s::name)", [RUNTIME_ROLE])


def _ensure_runtime_role(connection: BaseDatabaseWrapper) -> bool:
    """Whether the runtime role exists; made here on a database of the operator's, where the login may make roles."""
    if settings.DATABASE_PLAN.embedded:
        return True
    try:
        with transaction.atomic(using=connection.alias):
            if not _ask(connection, "SELECT true FROM pg_roles WHERE rolname = %s", [RUNTIME_ROLE]):
                _do(connection, f"CREATE ROLE {RUNTIME_ROLE} NOLOGIN")
            login = settings.DATABASE_PLAN.runtime_login or str(_ask(connection, "SELECT current_user"))
            if not _ask(connection, _MAY_ASSUME_RUNTIME_ROLE, [login]):
                _do(connection, f"GRANT {RUNTIME_ROLE} TO {connection.ops.quote_name(login)}")
    except DatabaseError as error:
        logger.warning(
            "SUPABASE_DATABASE_URL: its login cannot be given the role %s (%s). Where no other role stands between the service and "
            "its tables, the audit trail is guarded by triggers only",
            RUNTIME_ROLE,
            str(error).partition("\n")[0],
        )
        return bool(_ask(connection, "SELECT true FROM pg_roles WHERE rolname = %s", [RUNTIME_ROLE]))
    return True


def _ask(connection: BaseDatabaseWrapper, question: str, parameters: Sequence[str] = ()) -> Any:
    """The first column of the first row, or None."""
    with connection.cursor() as cursor:
        cursor.execute(question, parameters)
        row = cursor.fetchone()
    return row[0] if row else None


def _do(connection: BaseDatabaseWrapper, *statements: str) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
