"""The console's first page, its navigation, and what each group is shown of both."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from tests.console.support import member_of, stored_run, superuser, text_of

INDEX = "/admin/"


def sidebar(response: Any) -> set[str]:
    return set(re.findall(r'href="(/admin/[a-z]+/[a-z]+/)"', response.content.decode()))


def test_the_dashboard_shows_the_last_runs_without_what_was_said():
    run = stored_run()
    page = member_of("Operators").get(INDEX)
    assert run.public_id in text_of(page)
    assert "the-launch" not in page.content.decode()


def test_the_dashboard_counts_what_is_going_on():
    stored_run(status="failed")
    page = text_of(superuser().get(INDEX))
    for title in ("Runs", "Active", "Failed", "Tool calls", "Denied calls", "Errors in streams"):
        assert re.search(rf"{title} [\d,]+\+? (in the last 24 hours|going on)", page), title


def test_the_dashboard_takes_a_fixed_number_of_queries():
    client = superuser()
    client.get(INDEX)
    counts = []
    for _ in range(2):
        with CaptureQueriesContext(connection) as captured:
            client.get(INDEX)
        counts.append(len(captured))
        stored_run()
    assert counts[0] == counts[1]
    assert counts[0] <= 12


def test_every_page_says_that_the_demo_model_answers(settings: Any):
    client = superuser()
    assert all("Demo model" in text_of(client.get(page)) for page in (INDEX, "/admin/orchestration/run/"))
    settings.MODEL_IS_DEMO = False
    assert "Demo model" not in text_of(client.get(INDEX))


@pytest.mark.parametrize(
    ("group", "hidden"),
    [
        ("Operators", {"/admin/orchestration/conversationturn/", "/admin/auth/user/", "/admin/tools/note/"}),
        ("Administrators", {"/admin/orchestration/conversationturn/", "/admin/tools/note/"}),
        ("Compliance", set()),
    ],
)
def test_the_navigation_leads_only_where_one_may_go(group: str, hidden: set[str]):
    client = member_of(group)
    linked = sidebar(client.get(INDEX))
    assert linked & hidden == set()
    assert {page for page in linked if client.get(page).status_code != 200} == set()
    assert {"/admin/orchestration/run/", "/admin/audit/auditevent/"} <= linked
