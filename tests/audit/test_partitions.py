"""Months of the audit tables: made ahead, made again, made where rows already lie in the DEFAULT partition."""

import random
from datetime import UTC, datetime
from uuid import UUID

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connections, transaction

from agentbackend.foundation.identifiers import uuid7
from audit.actor import SYSTEM
from audit.entry import AuditEntry, entry
from audit.models import AuditEvent, AuditPayload
from audit.partitions import PARTITIONED_TABLES, Month, create_partitions, partitions
from audit.recording import insert

OWNER = connections["owner"]


def insert_at(at: datetime) -> UUID:
    """Record an event with a payload as if it had happened at `at`."""
    made = entry("tool.called", actor=SYSTEM, details={"at": at.isoformat()})
    event_id = uuid7(int(at.timestamp() * 1000))
    moved = AuditEntry(
        event_id,
        made.action,
        made.outcome,
        made.envelope,
        (event_id, at, *made.event_row[2:]),
        (event_id, *made.payload_row[1:]),
    )
    with transaction.atomic():
        insert(moved)
    return event_id


def partition_of(table: str, column: str, identifier: UUID) -> str:
    with OWNER.cursor() as cursor:
        cursor.execute(f"SELECT tableoid::regclass::text FROM {table} WHERE {column} = %s", [identifier])
        return cursor.fetchone()[0]


def unused_month() -> Month:
    """A month of the past that has no partition in this database yet."""
    existing = set(partitions(OWNER, "audit_events"))
    months = [Month(year, month) for year in range(1971, 2020) for month in range(1, 13)]
    return random.choice([month for month in months if month.partition_of("audit_events") not in existing])


def test_this_month_and_three_ahead_exist_and_making_them_again_changes_nothing():
    create_partitions(OWNER)

    assert create_partitions(OWNER) == []
    month = Month.of(datetime.now(UTC))
    for _ in range(4):
        for table in PARTITIONED_TABLES:
            assert month.partition_of(table) in partitions(OWNER, table)
        month = month.following()


def test_what_happens_now_lands_in_the_partition_of_this_month():
    create_partitions(OWNER)
    now = datetime.now(UTC)
    event_id = insert_at(now)

    assert partition_of("audit_events", "id", event_id) == Month.of(now).partition_of("audit_events")


def test_a_row_without_a_month_lands_in_default_and_moves_when_its_month_is_made():
    month = unused_month()
    event_id = insert_at(datetime(month.year, month.month, 15, 12, tzinfo=UTC))
    other_id = insert_at(datetime(2200, 1, 1, tzinfo=UTC))
    assert partition_of("audit_events", "id", event_id) == "audit_events_default"

    created = create_partitions(OWNER)

    assert created == [month.partition_of(table) for table in PARTITIONED_TABLES]
    assert partition_of("audit_events", "id", event_id) == month.partition_of("audit_events")
    assert partition_of("audit_payload", "event_id", event_id) == month.partition_of("audit_payload")
    assert partition_of("audit_events", "id", other_id) == "audit_events_default"
    for identifier in (event_id, other_id):
        assert AuditEvent.objects.filter(pk=identifier).count() == 1
        assert AuditPayload.objects.filter(pk=identifier).count() == 1


def test_the_first_and_the_last_moment_of_a_month_are_in_its_partition():
    month = unused_month()
    first = datetime(month.year, month.month, 1, tzinfo=UTC)
    following = month.following()
    last_ms = int(datetime(following.year, following.month, 1, tzinfo=UTC).timestamp() * 1000) - 1
    ids = [insert_at(first), insert_at(datetime.fromtimestamp(last_ms / 1000, UTC))]
    create_partitions(OWNER)

    assert {partition_of("audit_events", "id", identifier) for identifier in ids} == {
        month.partition_of("audit_events")
    }


def test_a_renewed_default_partition_is_protected_like_the_first():
    month = unused_month()
    insert_at(datetime(month.year, month.month, 15, tzinfo=UTC))
    create_partitions(OWNER)

    for relation in ("audit_events_default", month.partition_of("audit_events")):
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(using="owner"):
            with OWNER.cursor() as cursor:
                cursor.execute(f"TRUNCATE {relation}")


def test_a_month_that_cannot_be_locked_is_left_for_the_next_time(monkeypatch, caplog):
    month = unused_month()
    event_id = insert_at(datetime(month.year, month.month, 15, tzinfo=UTC))
    monkeypatch.setattr("audit.partitions.LOCK_TIMEOUT", "100ms")
    with transaction.atomic(), connections["default"].cursor() as reader:
        reader.execute("SELECT count(*) FROM audit_events WHERE id = %s", [event_id])

        assert month.partition_of("audit_events") not in create_partitions(OWNER)

    assert "could not be made" in caplog.text
    assert month.partition_of("audit_events") in create_partitions(OWNER)


def test_making_partitions_takes_back_what_the_service_was_granted_too_much():
    with OWNER.cursor() as cursor:
        cursor.execute(
            "SELECT current_user = 'agentbackend_runtime' FROM pg_roles WHERE rolname = 'agentbackend_runtime'"
        )
        row = cursor.fetchone()
        if row is None or row[0]:
            pytest.skip("this database has one role only")
        cursor.execute("GRANT UPDATE, DELETE, TRUNCATE ON audit_events, audit_payload_default TO agentbackend_runtime")
    create_partitions(OWNER)
    with OWNER.cursor() as cursor:
        cursor.execute(
            "SELECT relation, bool_or(has_table_privilege('agentbackend_runtime', relation, privilege)) "
            "FROM unnest(ARRAY['audit_events', 'audit_payload_default']) AS relation, "
            "unnest(ARRAY['UPDATE', 'DELETE', 'TRUNCATE']) AS privilege GROUP BY 1"
        )
        assert dict(cursor.fetchall()) == {"audit_events": False, "audit_payload_default": False}


def test_the_command_says_what_it_made(capsys):
    month = unused_month()
    insert_at(datetime(month.year, month.month, 1, tzinfo=UTC))
    call_command("create_audit_partitions")
    call_command("create_audit_partitions")

    output = capsys.readouterr().out
    assert f"made {month.partition_of('audit_events')}\n" in output
    assert output.endswith("nothing to make\n")


def test_an_identifier_of_no_calendar_time_does_not_keep_months_from_being_made():
    strange = UUID("fa078be7-3909-7c0a-9853-01d3a763928c")
    with OWNER.cursor() as cursor:
        cursor.execute(
            "INSERT INTO audit_payload (event_id, key, body) VALUES (%s, 'k', 'b') ON CONFLICT DO NOTHING", [strange]
        )
    create_partitions(OWNER)
    assert partition_of("audit_payload", "event_id", strange) == "audit_payload_default"
