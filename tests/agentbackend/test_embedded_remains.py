"""What earlier processes, upgrades and clean-ups leave behind, and how the embedded database begins all the same."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from django.conf import settings

from agentbackend.databases import plan_databases
from agentbackend.embedded_postgres.binaries import installations
from agentbackend.embedded_postgres.cluster import Cluster
from agentbackend.embedded_postgres.location import SUPERUSER, Location, default_location


@pytest.fixture
def location(cluster: Cluster) -> Iterator[Location]:
    """A place for a server of this test's own, emptied at the end."""
    home = cluster.location.home.parent / f"postgresql-{uuid4().hex[:12]}"
    yield replace(cluster.location, home=home)
    Cluster(replace(cluster.location, home=home), throw_away=True).stop()
    shutil.rmtree(home, ignore_errors=True)


def attached(location: Location, until: ExitStack) -> Cluster:
    """One user of the database, as a process would be: with locks of its own."""
    user = Cluster(location, throw_away=True)
    until.enter_context(user.attached())
    return user


def ask(location: Location, question: str) -> str:
    with closing(
        psycopg.connect(host=str(location.socket_directory), user=SUPERUSER, dbname="postgres", autocommit=True)
    ) as connection:
        row = connection.execute(question.encode()).fetchone()
    assert row is not None
    return str(row[0])


def server_pid(location: Location) -> int:
    return int((location.data / "postmaster.pid").read_text().splitlines()[0])


def test_a_server_that_was_killed_is_started_again_beside_its_remains(location: Location) -> None:
    with ExitStack() as until:
        attached(location, until)
        os.kill(server_pid(location), signal.SIGKILL)
        attached(location, until)
        assert ask(location, "SELECT 1") == "1"


def test_a_server_whose_socket_was_cleaned_away_is_replaced(location: Location) -> None:
    with ExitStack() as until:
        attached(location, until)
        before = server_pid(location)
        shutil.rmtree(location.socket_directory)
        attached(location, until)
        assert ask(location, "SELECT 1") == "1"
        assert server_pid(location) != before


def test_a_server_whose_data_was_removed_does_not_spoil_the_next_ones(location: Location) -> None:
    with ExitStack() as until:
        attached(location, until)
        before = ask(location, "SELECT system_identifier FROM pg_control_system()")
        shutil.rmtree(location.data)
        attached(location, until)
        assert ask(location, "SELECT system_identifier FROM pg_control_system()") != before


def test_the_first_to_leave_leaves_the_server_to_the_second(location: Location) -> None:
    first, second = Cluster(location, throw_away=True), Cluster(location, throw_away=True)
    with second.attached():
        with first.attached():
            pass
        assert second.is_running()
    assert not second.is_running()
    assert not location.socket_directory.exists()


def test_data_that_is_there_goes_before_a_version_that_would_be_chosen_for_new_data(tmp_path: Path) -> None:
    majors = {binaries.major for binaries in installations()}
    if len(majors) < 2:
        pytest.skip("only one version of PostgreSQL is installed here")
    chosen = default_location(str(tmp_path)).binaries.major
    other = next(iter(majors - {chosen}))
    (tmp_path / f"postgresql-{other}" / "data").mkdir(parents=True)

    assert default_location(str(tmp_path)).binaries.major == other


def test_data_of_a_version_that_is_not_installed_is_left_aside_with_a_warning(tmp_path: Path) -> None:
    old = tmp_path / "postgresql-9" / "data"
    old.mkdir(parents=True)
    (old / "PG_VERSION").write_text("9\n")
    plan = plan_databases(url="", owner_url="", data_dir=str(tmp_path))

    [warning] = plan.warnings
    assert warning.startswith("AGENTBACKEND_DATA_DIR: ")
    assert str(old) in warning
    assert default_location(str(tmp_path)).data != old


def test_two_spellings_of_one_folder_lead_to_one_socket(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)

    assert default_location(str(tmp_path / "link")) == default_location(str(tmp_path))
    assert len(str(default_location(settings.AGENTBACKEND_DATA_DIR).socket_directory / ".s.PGSQL.5432.lock")) < 100
