"""Proposed changes in the console: seen with what they change, and decided by a second person, once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client

from audit.admin import linked
from audit.console_actor import console_actor
from audit.models import AuditEvent
from tests.console.support import client_of, console_user, member_of, text_of
from tools.changes import submit
from tools.documents import Document, Spec
from tools.models import CallerRole, ChangeRequest

CHANGES = "/admin/tools/changerequest/"
SENT = {"_form_submitted": "on"}


@dataclass
class Proposed:
    """A change of a role, who proposed it, and a second administrator."""

    request: ChangeRequest
    first: Client
    second: Client
    first_name: str

    @property
    def page(self) -> str:
        return f"{CHANGES}{self.request.pk}/change/"

    def press(self, by: Client, button: str, **said: str) -> Any:
        return by.post(f"{CHANGES}{self.request.pk}/{button}/", {**SENT, **said})

    def read(self, by: Client) -> str:
        return text_of(by.get(self.page))

    @property
    def status(self) -> str:
        self.request.refresh_from_db()
        return self.request.status

    @property
    def description(self) -> str:
        return CallerRole.objects.get(name=self.request.name).description


@pytest.fixture
def proposed(settings: Any) -> Iterator[Proposed]:
    settings.FOUR_EYES = ["roles"]
    name = f"role-{uuid4().hex[:12]}"
    CallerRole.objects.create(name=name, description="as it was")
    user = console_user("Administrators")
    wish = Document("Role", name, {"description": "as it shall be", "inherits": ["user"]})
    request = submit(wish, by=console_actor(user), reason="it is time")
    assert request is not None
    yield Proposed(request, client_of(user), member_of("Administrators"), user.username)
    ChangeRequest.objects.filter(name__startswith=name).delete()
    CallerRole.objects.filter(name=name).delete()


def test_a_proposal_tells_what_changes_who_wants_it_and_why(proposed: Proposed):
    page = proposed.read(proposed.second)
    for told in (
        f"Role {proposed.request.name}", "waits", proposed.first_name, "it is time", "description", "as it was", "as it shall be",
        '+ "user"', "Approve", "Refuse",
    ):  # fmt: skip
        assert told in page
    assert "Withdraw" not in page
    own = proposed.read(proposed.first)
    assert "Withdraw" in own
    assert "Approve" not in own


def test_a_second_person_approves_and_it_counts(proposed: Proposed):
    assert proposed.second.get(f"{CHANGES}{proposed.request.pk}/approve/").status_code == 200
    assert proposed.status == "pending"
    assert proposed.press(proposed.second, "approve", reason="fine")["HX-Redirect"] == proposed.page
    assert (proposed.status, proposed.description) == ("approved", "as it shall be")
    page = proposed.read(proposed.second)
    assert "Approved:" in page
    assert "fine" in page
    assert "Refuse" not in page


def test_a_refusal_needs_a_reason(proposed: Proposed):
    assert "required" in text_of(proposed.press(proposed.second, "refuse", reason=" "))
    assert proposed.status == "pending"
    proposed.press(proposed.second, "refuse", reason="not before winter")
    assert (proposed.status, proposed.description) == ("refused", "as it was")
    assert "not before winter" in proposed.read(proposed.first)


def test_who_proposed_it_can_only_withdraw_it(proposed: Proposed):
    assert proposed.press(proposed.first, "approve").status_code == 403
    assert proposed.press(proposed.first, "refuse", reason="no").status_code == 403
    assert proposed.press(proposed.second, "withdraw").status_code == 403
    assert proposed.status == "pending"
    proposed.press(proposed.first, "withdraw")
    assert (proposed.status, proposed.description) == ("withdrawn", "as it was")


@pytest.mark.parametrize("group", ["Operators", "Compliance"])
def test_who_may_only_look_decides_nothing(proposed: Proposed, group: str):
    reader = member_of(group)
    assert "as it shall be" in proposed.read(reader)
    assert "Approve" not in proposed.read(reader)
    for button in ("approve", "refuse", "withdraw"):
        assert proposed.press(reader, button, reason="x").status_code == 403
    assert proposed.status == "pending"


def test_a_stranger_sees_nothing(proposed: Proposed):
    assert client_of(console_user()).get(proposed.page).status_code == 403


def test_a_button_of_an_older_page_says_what_was_decided_meanwhile(proposed: Proposed):
    third = member_of("Administrators")
    proposed.press(third, "refuse", reason="no")
    assert proposed.second.get(f"{CHANGES}{proposed.request.pk}/approve/").status_code == 200
    proposed.press(proposed.second, "approve")
    assert "Nothing is decided. It was decided already: refused." in proposed.read(proposed.second)
    assert proposed.description == "as it was"


def test_an_outdated_proposal_says_so_before_and_after(proposed: Proposed):
    CallerRole.objects.filter(name=proposed.request.name).update(description="changed meanwhile")
    assert "It has changed meanwhile." in proposed.read(proposed.second)
    proposed.press(proposed.second, "approve")
    page = proposed.read(proposed.second)
    assert f"Nothing is written: {proposed.request.name} has changed since this was proposed." in page
    assert (proposed.status, proposed.description) == ("outdated", "changed meanwhile")


def test_what_can_no_longer_be_written_says_why_and_goes_on_waiting(proposed: Proposed, settings: Any):
    CallerRole.objects.filter(name=proposed.request.name).update(description="as it was")
    ChangeRequest.objects.filter(pk=proposed.request.pk).update(
        after={"description": "x", "inherits": ["nobody-described-this"]}
    )
    proposed.press(proposed.second, "approve")
    assert "Nothing is decided. There is no role 'nobody-described-this'." in proposed.read(proposed.second)
    assert proposed.status == "pending"


def test_decisions_are_recorded_and_lead_to_the_proposal(proposed: Proposed):
    proposed.press(proposed.second, "approve")
    events = AuditEvent.objects.filter(target_kind="change", target_id=str(proposed.request.pk)).order_by("id")
    assert [event.action for event in events] == ["change.proposed", "change.approved"]
    assert proposed.page in linked("change", str(proposed.request.pk), "it")
    assert f"q=target%3Achange%2F{proposed.request.pk}" in proposed.second.get(proposed.page).content.decode()


# --- the list


def stored(
    kind: str = "Tool", status: str = "pending", before: Spec | None = None, after: Spec | None = None
) -> ChangeRequest:
    name = f"thing-{uuid4().hex[:12]}"
    return ChangeRequest.objects.create(
        kind=kind, name=name, status=status, before=before, after=after, proposed_by="system", reason="listed"
    )


def test_what_waits_stands_first_and_filters_find_the_rest():
    client = member_of("Administrators")
    waiting, decided = stored(after={"a": 1}), stored(kind="Role", status="refused", before={"a": 1})
    try:
        page = text_of(client.get(CHANGES, {"q": "listed"}))
        assert page.index(waiting.name) < page.index(decided.name)
        assert decided.name not in text_of(client.get(CHANGES, {"status": "pending"}))
        only = text_of(client.get(CHANGES, {"kind": "Role", "status": "refused"}))
        assert decided.name in only
        assert waiting.name not in only
        assert "remove" in only
    finally:
        ChangeRequest.objects.filter(pk__in=[waiting.pk, decided.pk]).delete()


def test_the_list_costs_the_same_for_one_and_for_many(proposed: Proposed, django_assert_max_num_queries: Any):
    many = [stored(after={"a": 1}) for _ in range(5)]
    with django_assert_max_num_queries(8):
        proposed.second.get(CHANGES)
    ChangeRequest.objects.filter(pk__in=[request.pk for request in many]).delete()


def test_secrets_are_shown_as_changed_only(proposed: Proposed):
    found = stored(kind="Credential", before={"secret": "vault:v1:one"}, after={"secret": "vault:v1:two"})
    page = proposed.second.get(f"{CHANGES}{found.pk}/change/")
    assert "vault:v1" not in page.content.decode()
    assert "another value" in text_of(page)
    found.delete()


def test_what_a_proposal_says_is_text_on_the_page(proposed: Proposed):
    found = stored(after={"description": "<script>alert(1)</script>", "schema": {"a": "<img src=x>"}})
    page = proposed.second.get(f"{CHANGES}{found.pk}/change/").content.decode()
    assert "<script>alert(1)" not in page
    assert "<img src=x>" not in page
    found.delete()


def test_nobody_adds_changes_or_deletes_a_proposal_by_hand(proposed: Proposed):
    superuser = client_of(console_user(superuser=True))
    assert superuser.get(f"{CHANGES}add/").status_code == 403
    assert superuser.get(f"{CHANGES}{proposed.request.pk}/delete/").status_code == 403
    assert superuser.post(proposed.page, {"status": "approved"}).status_code == 403
    assert proposed.status == "pending"


def test_the_dashboard_counts_what_waits(proposed: Proposed):
    assert "Proposed changes" in text_of(proposed.second.get("/admin/"))
    assert f"{CHANGES}?status=pending" in proposed.second.get("/admin/").content.decode()
