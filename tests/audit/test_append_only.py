"""Nobody changes the audit trail: not the service, not the owner of its tables, not a session in replica role."""

from uuid import UUID, uuid4

import psycopg
import pytest
from django.db import DatabaseError, connections, transaction

import audit
from audit.actor import Actor
from audit.models import AuditEvent, AuditPayload
from audit.partitions import PARTITIONED_TABLES, partitions

CHANGES = [
    "UPDATE audit_events SET reason = 'x' WHERE id = %s",
    "DELETE FROM audit_events WHERE id = %s",
    "UPDATE audit_payload SET body = '' WHERE event_id = %s",
]
RELATIONS = [f"{table}{suffix}" for table in PARTITIONED_TABLES for suffix in ("", "_default")]


@pytest.fixture
def event_id() -> UUID:
    with transaction.atomic():
        return audit.record("tool.called", actor=Actor(id=str(uuid4())), details={"a": 1}).id


def refused(alias: str, statement: str, parameters: list[object]) -> str:
    """Execute a statement that must fail, in a transaction of its own; returns what the database said."""
    with pytest.raises(DatabaseError) as raised, transaction.atomic(using=alias):
        with connections[alias].cursor() as cursor:
            cursor.execute(statement, parameters)
    return str(raised.value)


@pytest.mark.parametrize("statement", [*CHANGES, "DELETE FROM audit_payload WHERE event_id = %s"])
def test_the_service_may_neither_change_nor_delete(event_id, statement):
    message = refused("default", statement, [event_id])

    assert "permission denied" in message or "append-only" in message
    assert AuditEvent.objects.filter(pk=event_id, reason="").exists()
    assert AuditPayload.objects.filter(pk=event_id).exists()


@pytest.mark.parametrize("statement", CHANGES)
def test_the_owner_is_stopped_by_triggers(event_id, statement):
    assert "append-only" in refused("owner", statement, [event_id])


def test_the_owner_may_delete_a_payload_and_the_event_stays(event_id):
    with connections["owner"].cursor() as cursor:
        cursor.execute("DELETE FROM audit_payload WHERE event_id = %s", [event_id])

    assert not AuditPayload.objects.filter(pk=event_id).exists()
    assert AuditEvent.objects.get(pk=event_id).fields()["commitment"]


@pytest.mark.parametrize("alias", ["default", "owner"])
@pytest.mark.parametrize("relation", RELATIONS)
def test_truncate_is_refused_on_the_tables_and_their_default_partitions(alias, relation):
    message = refused(alias, f"TRUNCATE {relation}", [])

    assert "permission denied" in message or "append-only" in message


@pytest.mark.parametrize("table", PARTITIONED_TABLES)
def test_truncate_is_refused_on_every_partition(table):
    existing = partitions(connections["owner"], table)

    assert len(existing) > 1
    for partition in existing:
        assert "append-only" in refused("owner", f"TRUNCATE {partition}", [])


@pytest.mark.parametrize("table", PARTITIONED_TABLES)
def test_every_partition_has_both_triggers_enabled_always(table):
    with connections["owner"].cursor() as cursor:
        cursor.execute(
            "SELECT relid::regclass::text, array_agg(tgname::text || ':' || tgenabled::text ORDER BY tgname) "
            "FROM pg_partition_tree(%s::regclass) JOIN pg_trigger ON tgrelid = relid GROUP BY 1",
            [table],
        )
        triggers = dict(cursor.fetchall())

    assert set(triggers) >= set(partitions(connections["owner"], table))
    for relation, names in triggers.items():
        assert names == ["audit_append_only:A", "audit_no_truncate:A"], relation


@pytest.mark.parametrize("table", PARTITIONED_TABLES)
def test_the_service_cannot_reach_round_the_table_to_a_partition(table):
    with connections["owner"].cursor() as cursor:
        cursor.execute("SELECT rolname = current_user FROM pg_roles WHERE rolname = 'agentbackend_runtime'")
        row = cursor.fetchone()
    if row is None or row[0]:
        pytest.skip("this database has one role only")
    for partition in partitions(connections["owner"], table):
        assert "permission denied" in refused("default", f"SELECT FROM {partition} LIMIT 1", [])


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_events SET reason = 'x' WHERE id = %(id)s",
        "DELETE FROM audit_events WHERE id = %(id)s",
        "UPDATE audit_payload SET body = '' WHERE event_id = %(id)s",
        "TRUNCATE audit_events",
        "TRUNCATE audit_payload_default",
    ],
)
def test_a_superuser_in_replica_role_is_stopped_by_triggers(superuser_connection, event_id, statement):
    superuser_connection.execute("SET session_replication_role = replica")  # ordinary triggers do not fire now

    with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
        superuser_connection.execute(statement, {"id": event_id})
