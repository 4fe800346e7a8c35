"""Changes made in the console, and sign-ins to it, are in the audit trail."""

from uuid import uuid4

import orjson
import pytest
from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, Permission, User
from django.contrib.messages.storage.fallback import FallbackStorage
from django.contrib.sessions.backends.db import SessionStore
from django.db import DatabaseError
from django.test import Client, RequestFactory

from audit import sign_ins
from audit.admin_recording import AuditedModelAdmin, AuditedUserAdmin
from audit.models import AuditEvent


class AuditedGroupAdmin(AuditedModelAdmin, GroupAdmin):
    pass


class AuditedUserPages(AuditedUserAdmin, UserAdmin):
    audit_masked_fields = ("first_name",)


GROUPS = AuditedGroupAdmin(Group, admin.site)
USERS = AuditedUserPages(User, admin.site)


@pytest.fixture
def operator() -> User:
    return User.objects.create(username=f"operator-{uuid4()}", is_staff=True, is_superuser=True)


def post(operator: User, data: dict):
    request = RequestFactory().post("/admin/", data)
    request.user = operator
    request.session = SessionStore()
    request._messages = FallbackStorage(request)
    request._dont_enforce_csrf_checks = True
    return request


def recorded_by(operator: User) -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(actor_id=f"console:{operator.pk}").order_by("recorded_at", "id"))


def details_of(event: AuditEvent) -> dict:
    return orjson.loads(event.payload.body)


def test_an_addition_is_recorded_with_its_values(operator):
    name = f"group-{uuid4()}"
    GROUPS.changeform_view(post(operator, {"name": name}))

    [event] = recorded_by(operator)
    group = Group.objects.get(name=name)
    assert (event.action, event.target_kind, event.target_id) == ("console.added", "auth.group", str(group.pk))
    assert details_of(event)["changes"]["name"] == {"before": None, "after": name}
    assert event.fields()["authenticated_by"] == "console_session"


def test_a_change_is_recorded_with_what_was_there_before(operator):
    old, new = f"old-{uuid4()}", f"new-{uuid4()}"
    group = Group.objects.create(name=old)
    permission = Permission.objects.first()
    GROUPS.changeform_view(post(operator, {"name": new, "permissions": [permission.pk]}), str(group.pk))

    [event] = recorded_by(operator)
    assert event.action == "console.changed"
    assert details_of(event)["changes"] == {
        "name": {"before": old, "after": new},
        "permissions": {"before": [], "after": [str(permission)]},
    }


def test_a_change_that_changes_nothing_names_no_changes(operator):
    group = Group.objects.create(name=f"same-{uuid4()}")
    GROUPS.changeform_view(post(operator, {"name": group.name}), str(group.pk))

    [event] = recorded_by(operator)
    assert details_of(event)["changes"] == {}


def test_a_refused_form_leaves_no_record(operator):
    GROUPS.changeform_view(post(operator, {"name": ""}))

    assert recorded_by(operator) == []


def test_a_deletion_is_recorded_with_what_was_deleted(operator):
    group = Group.objects.create(name=f"gone-{uuid4()}")
    GROUPS.delete_view(post(operator, {"post": "yes"}), str(group.pk))

    [event] = recorded_by(operator)
    assert (event.action, event.target_id) == ("console.deleted", str(group.pk))
    assert details_of(event)["changes"]["name"] == {"before": group.name, "after": None}


def test_deleting_several_records_each(operator):
    groups = [Group.objects.create(name=f"gone-{uuid4()}") for _ in range(3)]
    keys = [group.pk for group in groups]
    GROUPS.delete_queryset(post(operator, {}), Group.objects.filter(pk__in=keys))

    assert sorted(int(event.target_id) for event in recorded_by(operator)) == keys
    assert not Group.objects.filter(pk__in=keys).exists()


def test_what_cannot_be_recorded_is_not_done(operator, monkeypatch):
    name = f"never-{uuid4()}"
    monkeypatch.setattr("audit.recording._INSERT_EVENT", "SELECT 1/0 WHERE %s IS NOT NULL" + " AND %s IS NOT NULL" * 13)
    with pytest.raises(DatabaseError):
        GROUPS.changeform_view(post(operator, {"name": name}))

    assert not Group.objects.filter(name=name).exists()


def test_a_masked_field_shows_only_that_it_changed(operator):
    user = User.objects.create(username=f"user-{uuid4()}", first_name="Ada")
    form = {
        "username": user.username,
        "first_name": "Grace",
        "last_name": "Hopper",
        "date_joined_0": "2026-01-01",
        "date_joined_1": "00:00:00",
    }
    USERS.changeform_view(post(operator, form), str(user.pk))

    [event] = recorded_by(operator)
    changes = details_of(event)["changes"]
    assert changes["first_name"] == {"before": "[redacted]", "after": "[redacted]"}
    assert changes["last_name"] == {"before": "", "after": "Hopper"}


def test_a_new_password_is_recorded_without_the_password(operator):
    user = User.objects.create(username=f"user-{uuid4()}", password="x")
    form = {"password1": "correct-horse-1", "password2": "correct-horse-1", "usable_password": "true"}
    USERS.user_change_password(post(operator, form), str(user.pk))

    [event] = recorded_by(operator)
    user.refresh_from_db()
    assert user.check_password("correct-horse-1")
    assert (event.action, event.target_id) == ("console.changed", str(user.pk))
    assert b"horse" not in bytes(event.payload.body)
    assert user.password.encode() not in bytes(event.payload.body)


def sign_in(username: str, password: str, address: str = "127.0.0.1") -> Client:
    client = Client(headers={"host": "localhost"}, REMOTE_ADDR=address)
    client.post("/admin/login/", {"username": username, "password": password})
    return client


def test_signing_in_and_out_is_recorded():
    user = User.objects.create_user(f"staff-{uuid4()}", password="pw-pw-pw-pw", is_staff=True)
    client = sign_in(user.username, "pw-pw-pw-pw")
    client.post("/admin/logout/")

    assert [event.action for event in recorded_by(user)] == ["console.signed_in", "console.signed_out"]


def test_failed_sign_ins_of_an_address_are_counted_and_name_nobody():
    address = f"2001:db8::{uuid4().hex[:4]}:{uuid4().hex[:4]}"
    before = set(AuditEvent.objects.filter(action="console.sign_in_failed").values_list("pk", flat=True))
    for _ in range(3):
        sign_in("p4ssw0rd-typed-too-early", "wrong", address)
    sign_ins.flush(everything=True)

    events = AuditEvent.objects.filter(action="console.sign_in_failed").exclude(pk__in=before)
    first, *counted = sorted(events, key=lambda event: event.pk)
    assert first.outcome == "denied"
    assert first.fields()["actor_kind"] == "stranger"
    assert len(counted) in (1, 2)  # two when the minute turns in between
    assert all(b"typed-too-early" not in bytes(event.envelope) for event in events)
