"""Months of the audit tables, made ahead of time by the owner of the tables.

The DEFAULT partitions take whatever has no month, so a forgotten month loses nothing. PostgreSQL refuses to
make a month whose rows already lie in DEFAULT; then DEFAULT is taken off, the month and a new DEFAULT are
made, the rows are copied to where they belong and the old table is dropped. No row is deleted or changed on
the way, no trigger is switched off, and it is one transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from django.db import OperationalError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper
from psycopg.errors import LockNotAvailable

from agentbackend.foundation.identifiers import uuid7_floor, uuid7_time

logger = logging.getLogger(__name__)

PARTITIONED_TABLES = {"audit_events": "id", "audit_payload": "event_id"}
"""The tables and the columns by which they are partitioned."""

RUNTIME_ROLE = "agentbackend_runtime"
MONTHS_AHEAD = 3
LOCK_TIMEOUT = "5s"  # a month waits for readers no longer than that, because writers queue up behind it
_ADVISORY_LOCK = 0x61756469  # "audi": one process at a time makes months


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A calendar month in UTC."""

    year: int
    month: int

    @classmethod
    def of(cls, at: datetime) -> Month:
        """The month of a moment."""
        at = at.astimezone(UTC)
        return cls(at.year, at.month)

    def following(self) -> Month:
        """The next month."""
        return Month(self.year + self.month // 12, self.month % 12 + 1)

    @property
    def first_id(self) -> str:
        """The smallest UUIDv7 of the month: its partition's lower bound."""
        return str(uuid7_floor(datetime(self.year, self.month, 1, tzinfo=UTC)))

    def partition_of(self, table: str) -> str:
        """The name of the month's partition: `audit_events_2026_01`."""
        return f"{table}_{self.year:04d}_{self.month:02d}"


def create_partitions(connection: BaseDatabaseWrapper, months_ahead: int = MONTHS_AHEAD) -> list[str]:
    """Make the current month, `months_ahead` after it and those of rows in DEFAULT; returns the new tables.

    `connection` is Django's for the owner of the tables. May be repeated, and several processes may call it
    at once. A month that cannot be locked within LOCK_TIMEOUT is left for the next call, with a warning.
    Also takes from the runtime role what it may have been granted beyond reading and adding.
    """
    now = Month.of(datetime.now(UTC))
    created = []
    for table, column in PARTITIONED_TABLES.items():
        for month in _wanted(connection, table, column, now, months_ahead):
            try:
                created += _create(connection, table, column, month)
            except OperationalError as error:
                if not isinstance(error.__cause__, LockNotAvailable):
                    raise
                logger.warning(
                    "an audit partition could not be made; its rows go to the default partition",
                    extra={"partition": month.partition_of(table)},
                )
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_ADVISORY_LOCK])
        cursor.execute("SELECT audit_restrict(%s::name)", [RUNTIME_ROLE])
    return created


def partitions(connection: BaseDatabaseWrapper, table: str) -> list[str]:
    """The names of a table's partitions, DEFAULT among them, in the order of their names."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relid::regclass::text FROM pg_partition_tree(%s::regclass) WHERE isleaf ORDER BY 1",
            [table],
        )
        return [name for (name,) in cursor.fetchall()]


def _wanted(connection: BaseDatabaseWrapper, table: str, column: str, now: Month, months_ahead: int) -> Iterator[Month]:
    """Months that have no partition but need one, oldest first."""
    existing = set(partitions(connection, table))
    ahead = {now}
    last = now
    for _ in range(months_ahead):
        last = last.following()
        ahead.add(last)
    month = min(now, _oldest_in_default(connection, table, column) or now)
    while month <= last:
        missing = month.partition_of(table) not in existing
        if missing and (month in ahead or _has_rows(connection, f"{table}_default", column, month)):
            yield month
        month = month.following()


def _oldest_in_default(connection: BaseDatabaseWrapper, table: str, column: str) -> Month | None:
    # An identifier of the future, or none of ours at all, stays in DEFAULT: its time may be none that a calendar has.
    statement = f"SELECT {column} FROM {table}_default WHERE {column} < %s ORDER BY {column} LIMIT 1"  # noqa: S608 - constants
    with connection.cursor() as cursor:
        cursor.execute(statement, [uuid7_floor(datetime.now(UTC))])
        row = cursor.fetchone()
    return Month.of(uuid7_time(row[0])) if row else None


def _has_rows(connection: BaseDatabaseWrapper, table: str, column: str, month: Month) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT EXISTS (SELECT FROM {table} WHERE {column} >= %s AND {column} < %s)",  # noqa: S608 - constants
            [month.first_id, month.following().first_id],
        )
        return bool(cursor.fetchone()[0])


def _create(connection: BaseDatabaseWrapper, table: str, column: str, month: Month) -> list[str]:
    """Make one partition in a transaction of its own; empty when another process was faster."""
    partition = month.partition_of(table)
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_ADVISORY_LOCK])
        if partition in partitions(connection, table):
            return []
        cursor.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        if _has_rows(connection, f"{table}_default", column, month):
            _make_beside_default(cursor, table, month)
        else:
            _make(cursor, table, partition, _bounds(month))
    return [partition]


def _make_beside_default(cursor: CursorWrapper, table: str, month: Month) -> None:
    """Make a month whose rows lie in DEFAULT, by renewing DEFAULT."""
    default, former = f"{table}_default", f"{table}_former_default"
    cursor.execute(f"ALTER TABLE {table} DETACH PARTITION {default}")
    cursor.execute(f"ALTER TABLE {default} RENAME TO {former}")
    _make(cursor, table, month.partition_of(table), _bounds(month))
    _make(cursor, table, default, "DEFAULT")
    cursor.execute(f"INSERT INTO {table} SELECT * FROM {former}")  # noqa: S608 - constants of this code
    cursor.execute(f"DROP TABLE {former}")


def _make(cursor: CursorWrapper, table: str, partition: str, bounds: str) -> None:
    cursor.execute(f"CREATE TABLE {partition} PARTITION OF {table} {bounds}")
    cursor.execute("SELECT audit_protect(%s::regclass)", [partition])


def _bounds(month: Month) -> str:
    return f"FOR VALUES FROM ('{month.first_id}') TO ('{month.following().first_id}')"
