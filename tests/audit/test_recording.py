"""Writing entries: inside the console's transaction, and through the writer."""

from uuid import uuid4

import orjson
import pytest
from django.db import transaction

import audit
from agentbackend.foundation.database import Database
from agentbackend.foundation.writer import GroupWriter, Unit
from audit.actor import Actor
from audit.entry import Outcome, Target, entry
from audit.models import AuditEvent, AuditPayload
from audit.rows import add_to


def somebody() -> Actor:
    return Actor(id=str(uuid4()), role="analyst", authenticated_by="console_session")


def test_a_record_outside_a_transaction_is_a_fault_of_the_program():
    actor = somebody()
    with pytest.raises(audit.AuditOutsideTransactionError, match=r"tool\.called"):
        audit.record("tool.called", actor=actor)

    assert not AuditEvent.objects.filter(actor_id=actor.id).exists()


def test_a_record_is_kept_with_what_it_is_about():
    actor, run_id, thread_id = somebody(), uuid4(), uuid4()
    with transaction.atomic():
        made = audit.record(
            "tool.denied",
            actor=actor,
            outcome=Outcome.DENIED,
            target=Target("tool", "admin_debug_tool"),
            reason="role_required",
            run_id=run_id,
            thread_id=thread_id,
            details={"role": "analyst"},
        )

    event = AuditEvent.objects.get(pk=made.id)
    fields = event.fields()
    assert bytes(event.envelope) == made.envelope
    assert (event.actor_id, event.action, event.outcome, event.reason) == (
        actor.id,
        "tool.denied",
        "denied",
        "role_required",
    )
    assert (event.target_kind, event.target_id) == ("tool", "admin_debug_tool")
    assert (event.run_id, event.thread_id) == (run_id, thread_id)
    assert event.recorded_at.isoformat(timespec="milliseconds").replace("+00:00", "Z") == fields["time"]
    assert event.payload.unpacked().matches(fields["commitment"])
    assert orjson.loads(event.payload.body) == {"role": "analyst"}


def test_a_record_goes_with_a_transaction_that_is_rolled_back():
    actor = somebody()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        audit.record("tool.called", actor=actor, details={"a": 1})
        raise ZeroDivisionError

    assert not AuditEvent.objects.filter(actor_id=actor.id).exists()


async def test_the_writer_commits_entries_with_their_payloads(database_pool: Database):
    actor = somebody()
    plain = entry("request.opened", actor=actor)
    detailed = entry("tool.called", actor=actor, run_id=uuid4(), details={"city": "London"})
    unit = Unit()
    add_to(unit, plain)
    add_to(unit, detailed)
    writer = GroupWriter(database_pool)
    writer.start()
    await writer.commit(unit)
    await writer.stop()

    events = {event.pk: event async for event in AuditEvent.objects.filter(actor_id=actor.id)}
    payloads = [payload async for payload in AuditPayload.objects.filter(pk__in=events)]
    assert set(events) == {plain.id, detailed.id}
    assert bytes(events[detailed.id].envelope) == detailed.envelope
    assert events[plain.id].run_id is None
    assert [payload.pk for payload in payloads] == [detailed.id]
    assert payloads[0].unpacked().matches(events[detailed.id].fields()["commitment"])


async def test_an_entry_sent_twice_after_an_unknown_commit_is_there_once(database_pool: Database):
    actor = somebody()
    made = entry("tool.called", actor=actor, details={"a": 1})
    writer = GroupWriter(database_pool)
    writer.start()
    for _ in range(2):
        unit = Unit()
        add_to(unit, made)
        await writer.commit(unit)
    await writer.stop()

    assert await AuditEvent.objects.filter(actor_id=actor.id).acount() == 1
    assert await AuditPayload.objects.filter(pk=made.id).acount() == 1
