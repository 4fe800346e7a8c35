"""The search language: what is found, and what a person is told who made a mistake."""

from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import uuid4

import pytest
from django.db import transaction

import audit
from audit.actor import Actor
from audit.entry import Outcome, Target
from audit.models import AuditEvent
from audit.search import SearchError, condition
from tests.console.support import stored_run

ACTOR, RUN, REQUEST, TOOL = str(uuid4()), uuid4(), f"req-{uuid4()}", f"tool-{uuid4()}"


@pytest.fixture(scope="module", autouse=True)
def events() -> None:
    with transaction.atomic():
        audit.record("run.started", actor=Actor(id=ACTOR), run_id=RUN, request_id=REQUEST)
        audit.record("tool.called", actor=Actor(id=ACTOR), run_id=RUN, target=Target("tool", TOOL))
        audit.record(
            "tool.denied",
            actor=Actor(id=ACTOR),
            run_id=RUN,
            target=Target("tool", TOOL),
            outcome=Outcome.DENIED,
            reason="role_required",
        )


def found(search: str) -> list[str]:
    mine = AuditEvent.objects.filter(actor_id=ACTOR)
    return sorted(mine.filter(condition(search)).values_list("action", flat=True))


TODAY = datetime.now(UTC).date()


@pytest.mark.parametrize(
    ("search", "actions"),
    [
        ("", ["run.started", "tool.called", "tool.denied"]),
        (f"actor:{ACTOR} outcome:denied", ["tool.denied"]),
        ("-outcome:success", ["tool.denied"]),
        ("action:tool.called", ["tool.called"]),
        ("action:tool.*", ["tool.called", "tool.denied"]),
        ("-action:run.started", ["tool.called", "tool.denied"]),
        (f"run:{RUN}", ["run.started", "tool.called", "tool.denied"]),
        (f"request:{REQUEST}", ["run.started"]),
        (f"target:{TOOL}", ["tool.called", "tool.denied"]),
        (f"target:tool/{TOOL}", ["tool.called", "tool.denied"]),
        (f"target:agent/{TOOL}", []),
        ('reason:"role_required"', ["tool.denied"]),
        (f"after:{TODAY - timedelta(days=1)}", ["run.started", "tool.called", "tool.denied"]),
        (f"before:{TODAY - timedelta(days=1)}", []),
        (f"after:{TODAY + timedelta(days=2)}T10:00", []),
        (f"{RUN}", ["run.started", "tool.called", "tool.denied"]),
        (f"{TOOL}", ["tool.called", "tool.denied"]),
        ("ACTION:run.started", ["run.started"]),
        ("role_required outcome:success", []),
    ],
    ids=count(),
)
def test_a_search_finds(search, actions):
    assert found(search) == actions


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("bogus:x", "There is no field 'bogus'"),
        ("outcome:perhaps", "success, denied, failure"),
        ("run:not-a-uuid", "UUID"),
        ("after:yesterday", "2026-01-31"),
        ("after:1066-10-14", "not a time"),
        ("-run:x", "cannot be excluded"),
        ("-word", "-action:word"),
        ("action:nothing.*", "No action begins with"),
        ("a " * 40, "at most"),
    ],
)
def test_a_search_that_cannot_be_understood_says_why(search, message):
    with pytest.raises(SearchError, match=message):
        condition(search)


def test_a_run_and_its_thread_are_found_by_the_ids_that_their_caller_knows():
    run = stored_run()
    for action, ids in (("run.started", {"run_id": run.pk}), ("thread.changed", {"thread_id": run.thread_id})):
        with transaction.atomic():
            audit.record(action, actor=Actor(id=run.owner_id), **ids)
    mine = AuditEvent.objects.filter(actor_id=run.owner_id)
    for search, action in (
        (f"run:{run.public_id}", "run.started"),
        (run.public_id, "run.started"),
        (f"thread:{run.thread.public_id}", "thread.changed"),
        (f"run:{run.pk}", "run.started"),
    ):
        assert list(mine.filter(condition(search)).values_list("action", flat=True)) == [action], search
