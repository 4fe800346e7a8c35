"""Changes of the registry with one pair of eyes and with two: who may decide, when, and what is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import OperationalError, connection, transaction

from audit.actor import SYSTEM, Actor
from audit.console_actor import console_actor
from audit.models import AuditEvent
from tests.tools.support import ToolMaker
from tools.changes import NotYoursError, approve, check_submission, refuse, submit, withdraw
from tools.documents import Document, Spec, kind_named
from tools.models import CallerRole, ChangeRequest, RemoteServer, Tool
from tools.python_functions import unregister
from tools.shown_changes import shown_changes

FIRST = Actor(id=f"console:{uuid4()}", kind="console", role="staff")
SECOND = Actor(id=f"console:{uuid4()}", kind="console", role="staff")
BOUND = 20  # seconds


@pytest.fixture
def four_eyes(settings: Any) -> None:
    settings.FOUR_EYES = ["tools", "roles", "servers"]


@pytest.fixture
def role() -> Iterator[str]:
    name = f"role-{uuid4().hex[:12]}"
    submit_as_it_is(name)
    yield name
    CallerRole.objects.filter(name__startswith=name).delete()
    ChangeRequest.objects.filter(name__startswith=name).delete()


def submit_as_it_is(name: str) -> None:
    CallerRole.objects.create(name=name, description="as it was")


def wish(role: str, description: str = "as it shall be", **spec: Any) -> Document:
    return Document("Role", role, {"description": description, **spec})


def said(role: str) -> str:
    found = kind_named("Role").read(role)
    assert found is not None
    return str(found["description"])


def propose(document: Document, by: Actor = FIRST, reason: str = "it is time") -> ChangeRequest:
    found = submit(document, by=by, reason=reason)
    assert found is not None
    return found


def recorded(request: ChangeRequest) -> list[tuple[str, str]]:
    events = AuditEvent.objects.filter(target_kind="change", target_id=str(request.pk)).order_by("id")
    return list(events.values_list("action", "actor_id"))


# --- with one pair of eyes


def test_without_four_eyes_a_change_counts_at_once_and_is_recorded(role: str):
    assert submit(wish(role), by=FIRST, reason="it is time") is None
    assert said(role) == "as it shall be"
    key = str(CallerRole.objects.get(name=role).pk)
    assert AuditEvent.objects.filter(action="role.changed", target_id=key, actor_id=FIRST.id).count() == 1


def test_other_groups_than_those_named_need_no_second_person(role: str, settings: Any):
    settings.FOUR_EYES = ["tools", "servers", "credentials", "agents"]
    assert submit(wish(role), by=FIRST) is None
    assert said(role) == "as it shall be"


def test_what_changes_nothing_is_neither_written_nor_proposed(role: str, four_eyes: None):
    assert submit(wish(role, "as it was", inherits=[]), by=FIRST) is None
    assert not ChangeRequest.objects.filter(name=role).exists()


# --- with two


@pytest.mark.usefixtures("four_eyes")
def test_a_second_person_makes_it_count_and_all_of_it_is_recorded(role: str):
    proposal = propose(wish(role))
    assert said(role) == "as it was"
    assert (proposal.before, proposal.reason) == ({"description": "as it was", "inherits": []}, "it is time")

    assert approve(proposal, by=SECOND, reason="fine")
    assert said(role) == "as it shall be"
    proposal.refresh_from_db()
    assert (proposal.status, proposal.decided_by, proposal.decision_reason) == ("approved", SECOND.id, "fine")
    assert recorded(proposal) == [("change.proposed", FIRST.id), ("change.approved", SECOND.id)]
    key = str(CallerRole.objects.get(name=role).pk)
    assert AuditEvent.objects.filter(action="role.changed", target_id=key, actor_id=SECOND.id).count() == 1


@pytest.mark.usefixtures("four_eyes")
def test_who_proposed_it_decides_nothing_and_may_withdraw(role: str):
    proposal = propose(wish(role))
    with pytest.raises(NotYoursError, match="a second person"):
        approve(proposal, by=FIRST)
    with pytest.raises(NotYoursError, match="Withdraw"):
        refuse(proposal, by=FIRST, reason="no")
    with pytest.raises(NotYoursError):
        withdraw(proposal, by=SECOND)
    withdraw(proposal, by=FIRST)
    assert said(role) == "as it was"
    assert recorded(proposal)[-1] == ("change.withdrawn", FIRST.id)
    propose(wish(role))


@pytest.mark.usefixtures("four_eyes")
def test_a_refusal_says_why(role: str):
    proposal = propose(wish(role))
    with pytest.raises(ValidationError, match="Say why"):
        refuse(proposal, by=SECOND, reason="  ")
    refuse(proposal, by=SECOND, reason="not now")
    assert said(role) == "as it was"
    assert recorded(proposal)[-1] == ("change.refused", SECOND.id)
    for decide in (lambda: approve(proposal, by=SECOND), lambda: withdraw(proposal, by=FIRST)):
        with pytest.raises(ValidationError, match="decided already: refused"):
            decide()


@pytest.mark.usefixtures("four_eyes")
def test_one_proposal_at_a_time_waits_for_a_thing(role: str):
    propose(wish(role))
    with pytest.raises(ValidationError, match="waits for a decision already"):
        submit(wish(role, "another wish"), by=SECOND)
    with transaction.atomic(), pytest.raises(ValidationError, match="waits for a decision already"):
        check_submission(wish(role, "another wish"))


def test_a_proposal_for_what_the_thing_no_longer_says_is_outdated(role: str, settings: Any):
    settings.FOUR_EYES = ["roles"]
    proposal = propose(wish(role))
    settings.FOUR_EYES = []
    submit(wish(role, "changed meanwhile"), by=SECOND)
    assert not approve(proposal, by=SECOND)
    assert said(role) == "changed meanwhile"
    proposal.refresh_from_db()
    assert proposal.status == "outdated"
    assert recorded(proposal)[-1] == ("change.outdated", SECOND.id)


@pytest.mark.usefixtures("four_eyes")
def test_a_new_thing_and_its_removal_are_proposed_too(role: str):
    name = f"{role}-new"
    assert approve(propose(wish(name)), by=SECOND)
    assert said(name) == "as it shall be"
    assert approve(propose(Document("Role", name, None)), by=SECOND)
    assert kind_named("Role").read(name) is None


@pytest.mark.usefixtures("four_eyes")
def test_what_cannot_be_written_is_not_even_proposed(role: str):
    for document, told in (
        (wish(role, inherits=[role]), "inherit itself"),
        (Document("Role", "admin", None), "part of the rules"),
    ):
        with pytest.raises(ValidationError, match=told):
            submit(document, by=FIRST)
        assert not ChangeRequest.objects.filter(name=document.name, proposed_by=FIRST.id).exists()


@pytest.mark.usefixtures("four_eyes")
def test_what_can_no_longer_be_written_goes_on_waiting(role: str):
    inherited = f"{role}-inherited"
    CallerRole.objects.create(name=inherited)
    proposal = propose(wish(role, inherits=[inherited]))
    CallerRole.objects.filter(name=inherited).delete()
    with pytest.raises(ValidationError, match=f"There is no role '{inherited}'"):
        approve(proposal, by=SECOND)
    proposal.refresh_from_db()
    assert proposal.status == "pending"
    assert said(role) == "as it was"


# --- switching off


async def act() -> str:
    return ""


@pytest.fixture
async def tool(make_tool: ToolMaker) -> str:
    return await make_tool(act)


def now(tool: str) -> Spec:
    found = kind_named("Tool").read(tool)
    assert found is not None
    return found


@pytest.mark.usefixtures("four_eyes")
def test_switching_off_is_never_held_up_and_switching_on_is(tool: str):
    assert submit(Document("Tool", tool, {**now(tool), "enabled": False}), by=FIRST) is None
    assert not Tool.objects.get(name=tool).enabled
    proposal = propose(Document("Tool", tool, {**now(tool), "enabled": True}))
    assert not Tool.objects.get(name=tool).enabled
    assert approve(proposal, by=SECOND)
    assert Tool.objects.get(name=tool).enabled


@pytest.mark.usefixtures("four_eyes")
def test_what_switches_off_and_says_something_else_too_is_proposed(tool: str):
    propose(Document("Tool", tool, {**now(tool), "enabled": False, "title": "Another"}))
    assert Tool.objects.get(name=tool).enabled


@pytest.mark.usefixtures("four_eyes")
def test_a_tool_that_could_not_be_saved_today_can_be_switched_off(tool: str):
    unregister(tool)
    with pytest.raises(ValidationError):
        submit(Document("Tool", tool, {**now(tool), "title": "Another"}), by=FIRST)
    submit(Document("Tool", tool, {**now(tool), "enabled": False}), by=FIRST)
    assert not Tool.objects.get(name=tool).enabled


@pytest.mark.usefixtures("four_eyes")
def test_a_waiting_proposal_does_not_hold_up_switching_off_and_does_not_undo_it(tool: str):
    proposal = propose(Document("Tool", tool, {**now(tool), "title": "Another"}))
    submit(Document("Tool", tool, {**now(tool), "enabled": False}), by=FIRST)
    assert not approve(proposal, by=SECOND)
    assert not Tool.objects.get(name=tool).enabled


@pytest.mark.usefixtures("four_eyes")
def test_a_remote_server_is_switched_off_at_once():
    name = f"server-{uuid4().hex[:8]}"
    RemoteServer.objects.create(name=name, url="https://mcp.example.org/mcp")
    spec = kind_named("RemoteServer").read(name)
    assert spec is not None
    assert submit(Document("RemoteServer", name, {**spec, "enabled": False}), by=FIRST) is None
    assert not RemoteServer.objects.get(name=name).enabled
    RemoteServer.objects.filter(name=name).delete()


# --- at once


@pytest.mark.usefixtures("four_eyes")
def test_of_two_approvals_at_once_one_wins(role: str):
    proposal = propose(wish(role))
    together = Barrier(2, timeout=BOUND)

    def decide(by: Actor) -> str:
        together.wait()
        try:
            return str(approve(proposal, by=by))
        except ValidationError as error:
            return error.messages[0]
        finally:
            connection.close()

    third = Actor(id=f"console:{uuid4()}", kind="console", role="staff")
    with ThreadPoolExecutor(2) as threads:
        found = sorted(threads.map(decide, (SECOND, third), timeout=BOUND))
    assert found == ["It was decided already: approved and live.", "True"]
    assert [action for action, _ in recorded(proposal)] == ["change.proposed", "change.approved"]


def test_while_one_change_is_checked_and_written_others_wait(role: str):
    """Else two changes, each allowed for itself, could make a circle of roles together."""
    other = f"{role}-other"
    submit_as_it_is(other)

    def submit_impatiently() -> str:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '100ms'")
                submit(wish(other, inherits=[role]), by=SECOND)
                return "written"
        except OperationalError:
            return "waits"
        except ValidationError as error:
            return " ".join(error.messages)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as threads:
        with transaction.atomic():
            submit(wish(role, inherits=[other]), by=FIRST)
            assert threads.submit(submit_impatiently).result(BOUND) == "waits"
        assert "would inherit itself" in threads.submit(submit_impatiently).result(BOUND)


# --- what pages show


def shown(before: Spec | None, after: Spec | None) -> str:
    return repr(shown_changes(before, after))


def test_secrets_are_told_to_differ_and_never_shown():
    before = {
        "secret": "s3cr3t-one",
        "handler": {"url": "https://a", "headers": {"X-Api-Key": "s3cr3t-two"}},
        "note": "a",
    }
    after = {
        "secret": "s3cr3t-three",
        "handler": {"url": "https://a", "headers": {"X-Api-Key": "s3cr3t-four"}},
        "note": "b",
    }
    found = shown_changes(before, after)
    assert [change.name for change in found] == ["secret", "handler", "note"]
    assert "s3cr3t" not in shown(before, after)
    assert "s3cr3t" not in shown(None, after)
    assert "s3cr3t" not in shown(before, None)
    assert "another value" in found[0].after
    assert [line.kind for line in found[1].lines if "X-Api-Key" in line.text] == ["removed", "added"]
    unchanged = {**before, "note": "b"}
    assert [change.name for change in shown_changes(before, unchanged)] == ["note"]


def test_names_of_credentials_and_of_arguments_are_shown():
    after = {
        "required_credentials": ["WEATHER_KEY"],
        "handler": {"credentials": [{"credential": "WEATHER_KEY", "placement": "bearer"}]},
        "input_schema": {"type": "object", "properties": {"password": {"type": "string", "maxLength": 12}}},
    }
    credentials, handler, schema = shown_changes(None, after)
    assert "WEATHER_KEY" in credentials.after
    assert "WEATHER_KEY" in handler.after
    assert "maxLength" in schema.after
    assert "s3cr3t" not in shown(None, {"handler": {"credential": "s3cr3t-typed-in-the-wrong-place"}})


def test_a_system_actor_cannot_approve_what_it_proposed(role: str, four_eyes: None):
    with pytest.raises(NotYoursError):
        approve(propose(wish(role), by=SYSTEM), by=SYSTEM)


def test_what_a_command_proposed_as_somebody_is_not_approved_by_that_person(role: str, four_eyes: None):
    user = User.objects.create(username=f"console-{uuid4()}", is_staff=True)
    other = User.objects.create(username=f"console-{uuid4()}", is_staff=True)
    command = Actor(id=f"command:{user.username}", kind="system", role="system")
    proposal = propose(wish(role), by=command)
    with pytest.raises(NotYoursError):
        approve(proposal, by=console_actor(user))
    assert approve(proposal, by=console_actor(other))
