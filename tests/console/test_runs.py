"""Runs, threads and turns in the console: found quickly, never changed, read by those who may."""

from __future__ import annotations

from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from orchestration.admin.runs import MOST_EVENTS
from orchestration.models import ConversationSummary, Run
from tests.console.support import SECRET, client_of, console_user, member_of, stored_run, superuser, text_of, views_of

RUNS = "/admin/orchestration/run/"
THREADS = "/admin/orchestration/thread/"
TURNS = "/admin/orchestration/conversationturn/"


def pages_of(run: Run) -> dict[str, str]:
    return {"run": f"{RUNS}{run.pk}/change/", "thread": f"{THREADS}{run.thread_id}/change/"}


@pytest.mark.parametrize("identifier", ["pk", "public_id", "owner_id", "thread_id"])
def test_a_run_is_found_by_each_of_its_identifiers(identifier: str):
    run, other = stored_run(), stored_run()
    found = superuser().get(RUNS, {"q": str(getattr(run, identifier))}).content.decode()
    assert f"{RUNS}{run.pk}/change/" in found
    assert f"{RUNS}{other.pk}/change/" not in found


def test_a_search_for_nothing_known_finds_nothing():
    response = superuser().get(RUNS, {"q": str(uuid4())})
    assert response.status_code == 200
    assert "/change/" not in response.content.decode()


@pytest.mark.parametrize(
    ("status", "shown"), [("active", {"queued"}), ("failed", {"failed"}), ("no-such-status", {"queued", "failed"})]
)
def test_runs_are_filtered_by_where_they_stand(status: str, shown: set[str]):
    runs = {kind: stored_run(status=kind) for kind in ("queued", "failed")}
    page = superuser().get(RUNS, {"status": status, "period": "1h"}).content.decode()
    assert {kind for kind, run in runs.items() if str(run.pk) in page} == shown


@pytest.mark.parametrize("page", [RUNS, THREADS, TURNS])
def test_a_list_takes_the_same_few_queries_however_long_it_is(page: str):
    client = superuser()
    stored_run()
    client.get(page)
    counts = []
    for _ in range(2):
        with CaptureQueriesContext(
            connection,
        ) as captured:
            client.get(page)
        counts.append(len([query for query in captured if query["sql"].startswith("SELECT")]))
        for _ in range(3):
            stored_run()
    assert counts[0] == counts[1]
    assert counts[0] <= 8


def test_the_page_of_a_run_shows_messages_steps_and_events():
    run = stored_run()
    shown = text_of(superuser().get(pages_of(run)["run"]))
    for part in (run.public_id, "I see.", "a_tool", "TEXT_MESSAGE_CONTENT", SECRET):
        assert part in shown


@pytest.mark.parametrize("kind", ["run", "thread"])
@pytest.mark.parametrize("group", ["Operators", "Administrators"])
def test_who_may_not_read_conversations_sees_that_a_run_was_but_nothing_that_was_said(kind: str, group: str):
    run = stored_run()
    response = member_of(group).get(pages_of(run)[kind])
    assert response.status_code == 200
    assert run.owner_id in text_of(response)
    assert SECRET not in response.content.decode()
    assert "I see." not in response.content.decode()


@pytest.mark.parametrize("page", [RUNS, THREADS])
def test_no_list_shows_what_was_said(page: str):
    stored_run()
    assert SECRET not in member_of("Operators").get(page).content.decode()


@pytest.mark.parametrize(
    ("page", "condition"),
    [
        (RUNS, "turn__user_message__contains"),
        (RUNS, "input__icontains"),
        (RUNS, "error_message__contains"),
        (THREADS, "title__startswith"),
        (THREADS, "turns__messages__icontains"),
        ("/admin/tools/note/", "content__contains"),
    ],
)
def test_no_condition_in_the_address_tells_what_a_hidden_column_holds(page: str, condition: str):
    stored_run()
    assert superuser().get(page, {condition: SECRET[:4]}).status_code == 400


def test_the_list_of_turns_is_for_those_who_may_read_conversations():
    stored_run()
    assert member_of("Operators").get(TURNS).status_code == 403
    assert SECRET in member_of("Compliance").get(TURNS).content.decode()


@pytest.mark.parametrize(("group", "reason"), [("Compliance", "with_content"), ("Operators", "without_content")])
def test_that_somebody_read_a_run_is_recorded(group: str, reason: str):
    run, user = stored_run(), console_user(group)
    client_of(user).get(pages_of(run)["run"])
    [view] = views_of(user)
    assert (view.target_kind, view.target_id, view.reason) == ("run", str(run.pk), reason)


def test_the_event_log_is_shown_as_far_as_a_page_can_hold_it():
    run = stored_run(events=MOST_EVENTS + 5)
    page = superuser().get(pages_of(run)["run"]).content.decode()
    assert page.count('class="console-event"') == MOST_EVENTS
    assert f"The first {MOST_EVENTS} events are shown." in page


def test_what_was_said_is_shown_as_text_and_not_as_markup():
    run = stored_run()
    run.turn.messages = [{"id": "1", "role": "user", "content": "<img src=x onerror=alert(1)>"}]
    run.turn.save()
    page = superuser().get(pages_of(run)["run"]).content.decode()
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page


@pytest.mark.parametrize("path", ["add/", "{pk}/delete/"])
@pytest.mark.parametrize("page", [RUNS, THREADS, TURNS])
def test_not_even_a_superuser_adds_or_deletes(page: str, path: str):
    run = stored_run()
    keys = {RUNS: run.pk, THREADS: run.thread_id, TURNS: run.turn.pk}
    assert superuser().get(page + path.format(pk=keys[page])).status_code == 403


def test_a_run_cannot_be_changed_through_its_page():
    run = stored_run()
    assert superuser().post(pages_of(run)["run"], {"status": "failed"}).status_code == 403
    run.refresh_from_db()
    assert run.status == "finished"


def test_a_stranger_is_sent_to_the_login():
    assert Client(headers={"host": "localhost"}).get(RUNS).status_code == 302


def test_a_threads_summaries_are_shown_to_who_may_read_what_was_said():
    run = stored_run()
    ConversationSummary.objects.create(
        thread=run.thread, up_to_position=7, last_message_id="2", text="They like tea.", token_estimate=4, model="m"
    )
    page = pages_of(run)["thread"]
    read = text_of(member_of("Compliance").get(page))
    assert "Turns 1 to 7 as m has summed them up" in read
    assert "They like tea." in read
    assert "They like tea." not in text_of(member_of("Operators").get(page))
