"""The audit trail in the console: quick to search, impossible to change, and its readers are recorded."""

import html
import re
from itertools import count
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection, connections, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext

import audit
from audit.actor import Actor
from audit.entry import AuditEntry, Outcome, Target
from audit.models import AuditEvent

LIST = "/admin/audit/auditevent/"


def page_of(event_id: UUID) -> str:
    return f"{LIST}{event_id}/change/"


def text_of(response) -> str:
    """What a person reads on the page."""
    without_code = re.sub(r"(?s)<(script|style)\b.*?</\1>", " ", response.content.decode())
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", without_code)))


def listed(response) -> set[UUID]:
    """The events in a list."""
    return {UUID(found) for found in re.findall(rf"{LIST}([0-9a-f-]{{36}})/change", response.content.decode())}


def signed_in(*permissions: str, superuser: bool = False) -> tuple[Client, User]:
    user = User.objects.create(username=f"reader-{uuid4()}", is_staff=True, is_superuser=superuser)
    user.user_permissions.set(Permission.objects.filter(content_type__app_label="audit", codename__in=permissions))
    client = Client(headers={"host": "localhost"})
    client.force_login(user)
    return client, user


def record(**arguments) -> AuditEntry:
    with transaction.atomic():
        return audit.record(**{"action": "tool.called", "actor": Actor(id=str(uuid4())), **arguments})


def views_of(user: User) -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(actor_id=f"console:{user.pk}", action="console.viewed"))


@pytest.fixture(scope="module", autouse=True)
def full_table() -> None:
    """Enough rows, with statistics, that the planner chooses as it would in service."""
    with connections["owner"].cursor() as cursor:
        cursor.execute(
            "INSERT INTO audit_events SELECT overlay(gen_random_uuid()::text placing %s from 1 for 15)::uuid, now(), "
            "'default', gen_random_uuid()::text, '', CASE WHEN n %% 50 = 0 THEN 'tool.denied' ELSE 'model.turn' END, "
            "'tool', gen_random_uuid()::text, CASE WHEN n %% 50 = 0 THEN 'denied' ELSE 'success' END, '', "
            "gen_random_uuid(), gen_random_uuid(), gen_random_uuid()::text, '{}' FROM generate_series(1, 20000) AS n",
            [str(record().id)[:15]],
        )
        cursor.execute("ANALYZE audit_events")


SEARCHES = {
    "": "",
    f"q=actor:{uuid4()}": "actor_id",
    "q=action:tool.called": "action",
    "q=-outcome:success": "",
    f"q=run:{uuid4()}": "run_id",
    f"q=thread:{uuid4()}": "thread_id",
    f"q=request:{uuid4()}": "request_id",
    f"q=target:tool/{uuid4()}": "target_id",
    f"q=subject:{uuid4()}": "subject_id",
    "q=reason:role_required": "reason",
    f"q={uuid4()}": "run_id",
    "q=after:2026-01-31+before:2026-02-01": "",
    "outcome=denied&action=tool.denied&period=24h": "",
}


@pytest.mark.parametrize("search", SEARCHES, ids=count())
def test_every_search_is_answered_from_an_index_with_few_queries(search):
    client, _ = signed_in("view_auditevent")
    client.get(LIST)  # what is read once a process (content types) is read now

    with CaptureQueriesContext(connection) as captured:
        assert client.get(f"{LIST}?{search}").status_code == 200

    statements = [query["sql"] for query in captured if query["sql"].startswith(("SELECT", "INSERT"))]
    reads = [sql for sql in statements if 'FROM "audit_events"' in sql]
    assert len(statements) <= 12
    assert reads
    with transaction.atomic(using="owner"), connections["owner"].cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")  # empty partitions would be read whole otherwise, rightly
        for sql in reads:
            cursor.execute(f"EXPLAIN {sql}")
            plan = "\n".join(line for (line,) in cursor.fetchall())
            assert "Seq Scan" not in plan
            if SEARCHES[search]:
                assert re.search(rf"Index Cond: .*{SEARCHES[search]}", plan), plan


def test_a_search_shows_what_matches_and_nothing_else():
    run_id = uuid4()
    started = record(action="run.started", run_id=run_id)
    denied = record(action="tool.denied", run_id=run_id, outcome=Outcome.DENIED, reason="role_required")
    record()
    client, _ = signed_in("view_auditevent")

    assert listed(client.get(LIST, {"q": f"run:{run_id}"})) == {started.id, denied.id}
    refusals = client.get(LIST, {"q": f"run:{run_id} -outcome:success"})
    assert listed(refusals) == {denied.id}
    assert "role_required" in text_of(refusals)


def test_a_mistake_in_a_search_is_explained():
    client, _ = signed_in("view_auditevent")

    assert "There is no field 'bogus'" in text_of(client.get(LIST, {"q": "bogus:x"}))


def test_other_columns_cannot_be_searched_through_the_address():
    client, _ = signed_in("view_auditevent")

    assert client.get(LIST, {"payload__body__contains": "x"}).status_code == 400
    assert client.get(LIST, {"reason__icontains": "x"}).status_code == 400


def test_the_last_page_that_can_be_reached_leads_on_to_older_events(monkeypatch):
    monkeypatch.setattr("audit.admin.MAX_ROWS_PAGED", 100)
    client, _ = signed_in("view_auditevent")

    first, last = (client.get(LIST, {"outcome": "success", "p": page}) for page in (1, 2))
    [older] = re.findall(r'href="\?(outcome=success&amp;q=before%3A[^"]+)"', last.content.decode())

    assert "Continue with older events" not in text_of(first)
    oldest = UUID(older.rpartition("%3A")[2])
    following = listed(client.get(f"{LIST}?{html.unescape(older)}"))
    assert min(listed(last)) == oldest
    assert following
    assert max(following) < oldest


def test_a_search_that_takes_too_long_asks_to_be_narrowed(monkeypatch):
    monkeypatch.setattr("audit.admin.LIST_TIMEOUT_MS", 50)
    client, _ = signed_in("view_auditevent")
    with transaction.atomic(using="owner"), connections["owner"].cursor() as cursor:
        cursor.execute("LOCK TABLE audit_events IN ACCESS EXCLUSIVE MODE")
        answer = client.get(LIST)

    assert answer.status_code == 200
    assert "Narrow it" in text_of(answer)


@pytest.mark.parametrize("path", ["add/", "{id}/delete/"])
def test_there_is_no_way_to_add_or_delete(path):
    event_id = record().id
    client, _ = signed_in(superuser=True)

    assert client.get(f"{LIST}{path.format(id=event_id)}").status_code == 403
    assert client.post(f"{LIST}{path.format(id=event_id)}", {"post": "yes"}).status_code == 403


def test_there_is_no_way_to_change():
    event_id = record().id
    client, _ = signed_in(superuser=True)

    assert client.post(page_of(event_id), {"reason": "changed"}).status_code == 403
    client.post(LIST, {"action": "delete_selected", "_selected_action": str(event_id), "post": "yes"})
    assert AuditEvent.objects.get(pk=event_id).reason == ""


def test_a_page_shows_envelope_and_payload_and_that_they_match():
    made = record(details={"city": "London"}, target=Target("tool", "get_weather_tool"))
    client, _ = signed_in("view_auditevent", "view_auditpayload")
    text = text_of(client.get(page_of(made.id)))

    assert '"city": "London"' in text
    assert '"target_id": "get_weather_tool"' in text
    assert "payload matches its commitment" in text


def test_a_payload_is_shown_by_permission_only():
    made = record(details={"city": "London"})
    client, user = signed_in("view_auditevent")
    text = text_of(client.get(page_of(made.id)))

    assert "London" not in text
    assert "hidden" in text
    assert [view.reason for view in views_of(user)] == ["without_payload"]


def test_a_deleted_payload_is_said_to_be_deleted():
    made = record(details={"city": "London"})
    with connections["owner"].cursor() as cursor:
        cursor.execute("DELETE FROM audit_payload WHERE event_id = %s", [made.id])
    client, _ = signed_in("view_auditevent", "view_auditpayload")

    assert "payload deleted" in text_of(client.get(page_of(made.id)))


def insert_forged(made: AuditEntry, *, reason: str, body: bytes) -> UUID:
    """A row as somebody with the database's password could write it: other values, the old envelope."""
    event_id = uuid4()
    envelope = made.envelope.replace(str(made.id).encode(), str(event_id).encode())
    with connections["owner"].cursor() as cursor:
        cursor.execute(
            "INSERT INTO audit_events SELECT %s, recorded_at, tenant, actor_id, subject_id, action, target_kind, "
            "target_id, outcome, %s, run_id, thread_id, request_id, %s FROM audit_events WHERE id = %s",
            [event_id, reason, envelope, made.id],
        )
        cursor.execute("INSERT INTO audit_payload VALUES (%s, %s, %s)", [event_id, made.payload_row[1], body])
    return event_id


def test_a_page_shows_when_payload_or_columns_do_not_match_the_envelope():
    made = record(details={"city": "London"})
    client, _ = signed_in("view_auditevent", "view_auditpayload")
    other_payload = insert_forged(made, reason="", body=b'{"city":"Paris"}')
    other_column = insert_forged(made, reason="forged", body=made.payload_row[2])

    assert "PAYLOAD DOES NOT MATCH" in text_of(client.get(page_of(other_payload)))
    assert "COLUMNS DO NOT MATCH THE ENVELOPE" in text_of(client.get(page_of(other_column)))


def test_an_envelope_that_cannot_be_read_is_shown_with_an_alarm():
    made = record(details={"city": "London"})
    client, _ = signed_in("view_auditevent", "view_auditpayload")
    event_id = uuid4()
    with connections["owner"].cursor() as cursor:
        cursor.execute(
            "INSERT INTO audit_events SELECT %s, recorded_at, tenant, actor_id, subject_id, action, target_kind, "
            "target_id, outcome, reason, run_id, thread_id, request_id, '{broken' FROM audit_events WHERE id = %s",
            [event_id, made.id],
        )

    assert "ENVELOPE UNREADABLE" in text_of(client.get(page_of(event_id)))


def test_reading_an_event_and_searching_are_recorded():
    made = record()
    client, user = signed_in("view_auditevent", "view_auditpayload")
    client.get(LIST)
    assert views_of(user) == []

    client.get(LIST, {"q": f"id:{made.id}"})
    client.get(page_of(made.id))

    searched, read = sorted(views_of(user), key=lambda view: view.recorded_at)
    assert b"id:" + str(made.id).encode() in bytes(searched.payload.body)
    assert (read.target_kind, read.target_id, read.reason) == ("audit.auditevent", str(made.id), "with_payload")


def test_a_console_user_without_the_permission_sees_nothing():
    event_id = record().id
    client, user = signed_in("view_auditpayload")

    assert client.get(LIST, {"q": "outcome:denied"}).status_code == 403
    assert client.get(page_of(event_id)).status_code == 403
    assert views_of(user) == []


def test_runs_and_targets_link_to_their_pages_where_the_setting_knows_them(settings):
    settings.AUDIT_LINKS = {"auth.user": "admin:auth_user_change", "run": "no-such-page"}
    made = record(target=Target("auth.user", "7"), run_id=uuid4())
    client, _ = signed_in("view_auditevent")
    content = client.get(page_of(made.id)).content.decode()

    assert 'href="/admin/auth/user/7/change/"' in content
    assert f'href="{LIST}?q=run%3A{made.event_row[-4]}"' in content


def test_a_search_that_finds_nothing_says_what_is_searched():
    client, _ = signed_in(superuser=True)
    page = client.get(LIST, {"q": "weather-in-london"}).content.decode()
    assert "texts are not" in page
