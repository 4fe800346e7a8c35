"""Console users and groups: nobody can give more than they have, and every change is recorded."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client

from agentbackend.console_groups import GROUPS, ensure_console_groups
from audit.models import AuditEvent
from tests.console.support import client_of, console_user, member_of, superuser, text_of

USERS = "/admin/auth/user/"


def page_of(user: User) -> str:
    return f"{USERS}{user.pk}/change/"


def form(user: User, **changes: Any) -> dict[str, Any]:
    return {
        "username": user.username, "first_name": "", "last_name": "", "email": "", "is_active": "on", "is_staff": "on",
        **changes,
    }  # fmt: skip


def group(name: str) -> Group:
    ensure_console_groups()
    return Group.objects.get(name=name)


def test_each_group_has_the_permissions_of_its_table_and_keeps_what_was_added():
    ensure_console_groups()
    for name, wanted in GROUPS.items():
        found = group(name).permissions.values_list("content_type__app_label", "codename")
        assert wanted <= set(found), name


def test_only_compliance_reads_conversations_and_audit_payloads():
    readers = {name for name, wanted in GROUPS.items() if ("audit", "view_auditpayload") in wanted}
    assert readers == {"Compliance"}
    assert {name for name, wanted in GROUPS.items() if ("orchestration", "view_conversationturn") in wanted} == readers


def test_compliance_changes_nothing():
    assert all(codename.startswith("view_") for _, codename in GROUPS["Compliance"])


def test_an_administrator_cannot_make_a_superuser():
    administrator, user = console_user("Administrators"), console_user()
    client_of(administrator).post(page_of(user), form(user, is_superuser="on", user_permissions=["1"]))
    user.refresh_from_db()
    assert not user.is_superuser
    assert not user.user_permissions.exists()


@pytest.mark.parametrize("path", ["{pk}/change/", "{pk}/password/", "{pk}/delete/"])
def test_an_administrator_cannot_touch_a_superuser(path: str):
    chief = console_user(superuser=True)
    response = member_of("Administrators").post(USERS + path.format(pk=chief.pk), form(chief, is_active=""))
    assert response.status_code == 403
    chief.refresh_from_db()
    assert chief.is_active


def test_an_administrator_gives_only_groups_whose_permissions_they_hold():
    user = console_user()
    client = member_of("Administrators")
    response = client.post(page_of(user), form(user, groups=[group("Compliance").pk]))
    assert "not one of the available choices" in text_of(response)
    client.post(page_of(user), form(user, groups=[group("Operators").pk]))
    assert [found.name for found in user.groups.all()] == ["Operators"]


@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize("path", ["{pk}/change/", "{pk}/password/", "{pk}/delete/"])
def test_an_administrator_cannot_become_somebody_who_may_do_more(path: str, active: bool):
    reader = console_user("Compliance")
    User.objects.filter(pk=reader.pk).update(is_active=active)
    values = {
        **form(reader),
        "usable_password": "true",
        "password1": "taken over 12345",
        "password2": "taken over 12345",
    }
    assert member_of("Administrators").post(USERS + path.format(pk=reader.pk), values).status_code == 403
    reader.refresh_from_db()
    assert reader.is_active == active
    assert not reader.check_password("taken over 12345")


def test_an_administrator_sets_the_password_of_an_operator():
    operator = console_user("Operators")
    values = {"usable_password": "true", "password1": "a long new password", "password2": "a long new password"}
    assert member_of("Administrators").post(f"{USERS}{operator.pk}/password/", values).status_code == 302
    operator.refresh_from_db()
    assert operator.check_password("a long new password")


def test_a_change_of_groups_is_recorded():
    user = console_user()
    superuser().post(page_of(user), form(user, groups=[group("Operators").pk]))
    assert AuditEvent.objects.filter(action="console.changed", target_kind="auth.user", target_id=str(user.pk)).exists()


def test_groups_are_changed_by_superusers_only():
    operators = group("Operators")
    client = member_of("Administrators")
    assert client.get(f"/admin/auth/group/{operators.pk}/change/").status_code == 200
    assert client.post(f"/admin/auth/group/{operators.pk}/change/", {"name": "Owners"}).status_code == 403
    assert superuser().get(f"/admin/auth/group/{operators.pk}/change/").status_code == 200


def test_a_new_user_can_sign_in_once_they_are_staff():
    name, password = f"new-{uuid4()}", "a long enough password"
    values = {"username": name, "usable_password": "true", "password1": password, "password2": password}
    response = superuser().post(f"{USERS}add/", values)
    assert response.status_code == 302, text_of(response)
    User.objects.filter(username=name).update(is_staff=True)
    client = Client(headers={"host": "localhost"})
    assert client.post("/admin/login/", {"username": name, "password": password}).status_code == 302


def test_a_change_of_ones_own_password_is_recorded():
    user = console_user("Operators")
    user.set_password("an-old-pass-phrase")
    user.save()
    client = client_of(user)
    new = "a-new-pass-phrase-7"
    given = {"old_password": "wrong", "new_password1": new, "new_password2": new}
    assert client.post("/admin/password_change/", given).status_code == 200
    of_user = AuditEvent.objects.filter(target_kind="auth.user", target_id=str(user.pk), action="console.changed")
    assert not of_user.exists(), "a refused change is none"
    response = client.post("/admin/password_change/", {**given, "old_password": "an-old-pass-phrase"})
    assert response.status_code == 302, text_of(response)
    [event] = of_user
    assert event.actor_id == f"console:{user.pk}"


def test_where_changes_need_a_second_person_only_superusers_keep_accounts(settings: Any):
    settings.FOUR_EYES = ["tools"]
    administrator, user = client_of(console_user("Administrators")), console_user("Operators")
    new = {"username": "puppet", "password1": "a-long-pass-phrase", "password2": "a-long-pass-phrase"}
    assert administrator.post(f"{USERS}add/", new).status_code == 403
    assert administrator.get(f"{USERS}{user.pk}/password/").status_code == 403
    administrator.post(page_of(user), form(user, groups=[group("Administrators").pk]))
    assert [found.name for found in user.groups.all()] == ["Operators"]
    assert superuser().get(f"{USERS}add/").status_code == 200
