"""The queue in the console: operators see what is queued, and nobody changes it there."""

from __future__ import annotations

import pytest
from django.db import connection

from agentbackend.console_groups import ADMINISTRATORS, COMPLIANCE, OPERATORS
from tests.console.support import member_of, superuser, text_of

JOBS = "/admin/procrastinate/procrastinatejob/"


@pytest.fixture
def job() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args, status) "
            "VALUES ('runs', 'runs.carry_out', '{\"run_id\": \"the-run\"}', 'failed') RETURNING id"
        )
        return int(cursor.fetchone()[0])


@pytest.mark.parametrize("group", [OPERATORS, ADMINISTRATORS])
def test_who_runs_the_service_sees_its_jobs(job: int, group: str):
    client = member_of(group)
    assert "runs.carry_out" in text_of(client.get(JOBS, {"status__exact": "failed"}))
    assert "run_id=the-run" in text_of(client.get(f"{JOBS}{job}/change/"))


def test_compliance_has_nothing_to_do_with_the_queue(job: int):
    assert member_of(COMPLIANCE).get(JOBS).status_code in (302, 403)


def test_not_even_a_superuser_changes_a_job_here(job: int):
    client = superuser()
    assert client.get(f"{JOBS}{job}/delete/").status_code == 403
    assert client.get(f"{JOBS}add/").status_code == 403
