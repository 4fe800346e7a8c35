"""Starting and stopping the embedded server, shared by all processes that use it.

Each process holds a shared lock for as long as it uses the database; the last one out finds that it can have the lock for itself, and stops
the server. Locks are the kernel's (flock), so a process that is killed gives its own back. Starting and stopping happen under a second,
exclusive lock, so two processes never do either at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from agentbackend.embedded_postgres.binaries import Binaries
from agentbackend.embedded_postgres.location import DATABASE, OWNER, RUNTIME, SUPERUSER, Location

_START_SECONDS = 120
_DURABLE = ("max_connections=200", "shared_buffers=128MB", "synchronous_commit=on", "password_encryption=scram-sha-256")
_THROW_AWAY = ("max_connections=200", "fsync=off", "full_page_writes=off", "max_wal_size=4GB")


class EmbeddedDatabaseError(Exception):
    """The embedded database cannot be started; the text says what was tried and where the server's log is."""


class Cluster:
    """One embedded server. `throw_away`: for tests, without durability."""

    def __init__(self, location: Location, *, throw_away: bool = False) -> None:
        self.location = location
        self._throw_away = throw_away
        self._user = _server_user()
        self._users_lock: int | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Use the database: started on entry when nobody else had, stopped on exit by the last."""
        self.attach()
        try:
            yield
        finally:
            self.detach()

    def attach(self) -> None:
        """Begin to use the database; raises EmbeddedDatabaseError."""
        self._make_home()
        with self._exclusively():
            self._users_lock = os.open(self.location.home / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._users_lock, fcntl.LOCK_SH)
            try:
                self._make_running()
            except BaseException:
                os.close(self._users_lock)
                self._users_lock = None
                raise

    def detach(self) -> None:
        """Stop using the database; the last user stops the server."""
        lock, self._users_lock = self._users_lock, None
        if lock is None:
            return
        with self._exclusively():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                self.stop()
            finally:
                os.close(lock)

    def is_running(self) -> bool:
        """Whether the server answers on its socket."""
        try:
            self._connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """Stop the server whoever uses it, and leave nothing outside the home folder."""
        self._run("pg_ctl", "-D", self.location.data, "-m", "fast", "-w", "-t", "30", "stop", check=False)
        with contextlib.suppress(OSError):
            self.location.socket_directory.rmdir()

    # --- start

    def _make_running(self) -> None:
        if not (self.location.data / "PG_VERSION").exists():
            self._initialise()
        self._make_socket_directory()
        if not self.is_running():
            self._remove_stale_pid_file()
            self._start()
        self._make_roles_and_database()

    def _initialise(self) -> None:
        """Make the data folder aside and rename it when it is complete: an initdb that is killed leaves nothing that looks ready."""
        unfinished = self.location.home / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        options = ["--no-sync"] if self._throw_away else ["--data-checksums"]
        self._run("initdb", "-D", unfinished, "-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--locale=C", *options)
        unfinished.rename(self.location.data)

    def _start(self) -> None:
        settings = _THROW_AWAY if self._throw_away else _DURABLE
        options = " ".join(
            ["-h ''", f"-k {self.location.socket_directory}", *(f"-c {setting}" for setting in settings)]
        )
        log = self.location.home / "server.log"
        self._run(
            "pg_ctl", "-D", self.location.data, "-w", "-t", str(_START_SECONDS), "-l", log, "-o", options, "start"
        )

    def _remove_stale_pid_file(self) -> None:
        """A pid file of a server that was killed stops a new one when its number now belongs to another program."""
        pid_file = self.location.data / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
            pid = int(pid_file.read_text().splitlines()[0])
            if not _is_postgres(pid, self.location.data):
                pid_file.unlink()

    def _make_roles_and_database(self) -> None:
        with self._connect("postgres") as connection:
            existing = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
            for role in (OWNER, RUNTIME):
                if role not in existing:
                    connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
            if found is None:
                statement = sql.SQL("CREATE DATABASE {} OWNER {}")
                connection.execute(statement.format(sql.Identifier(DATABASE), sql.Identifier(OWNER)))

    def _connect(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=str(self.location.socket_directory),
            user=SUPERUSER,
            dbname=database,
            autocommit=True,
            connect_timeout=5,
        )

    # --- folders, locks, programs

    def _make_home(self) -> None:
        home = self.location.home
        home.mkdir(parents=True, exist_ok=True, mode=0o755)
        if self._user is not None:
            os.chown(home, self._user.pw_uid, self._user.pw_gid)

    def _make_socket_directory(self) -> None:
        directory = self.location.socket_directory
        directory.mkdir(mode=0o700, exist_ok=True)
        owner = os.geteuid() if self._user is None else self._user.pw_uid
        found = directory.lstat()
        if directory.is_symlink() or found.st_uid not in (os.geteuid(), owner):
            raise EmbeddedDatabaseError(
                f"{directory} belongs to somebody else; remove it or set AGENTBACKEND_DATA_DIR."
            )
        if self._user is not None:
            os.chown(directory, self._user.pw_uid, self._user.pw_gid)
        directory.chmod(0o700)

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        descriptor = os.open(self.location.home / "start.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _run(self, program: str, *arguments: object, check: bool = True) -> None:
        binaries = self._usable_binaries()
        identity: dict[str, Any] = {}
        if self._user is not None:
            identity = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        done = subprocess.run(  # noqa: S603 - PostgreSQL's own programs
            [binaries.program(program), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a pipe would be inherited by the server and never close
            stderr=subprocess.DEVNULL if program == "pg_ctl" else subprocess.PIPE,
            cwd="/",
            start_new_session=True,  # the terminal's ^C is not for the server
            check=False,
            **identity,
        )
        if check and done.returncode != 0:
            reason = (done.stderr or b"").decode(errors="replace").strip() or self._end_of_log()
            raise EmbeddedDatabaseError(f"{program} failed: {reason}")

    def _end_of_log(self) -> str:
        log = self.location.home / "server.log"
        lines = log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []
        return " | ".join([f"see {log}", *lines])

    def _usable_binaries(self) -> Binaries:
        """The programs, copied when the user that the server runs as cannot reach them (an environment in a closed home)."""
        binaries = self.location.binaries
        if self._user is None or not binaries.bundled or _may_run(binaries, self._user):
            return binaries
        return _copied(binaries, self.location.home / "programs")


def _server_user() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root: whom root runs it as, or None for an ordinary user."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise EmbeddedDatabaseError("As root the database needs a user `postgres` or `nobody` to run as.")


def _may_run(binaries: Binaries, user: pwd.struct_passwd) -> bool:
    try:
        done = subprocess.run(  # noqa: S603 - a program found before
            [binaries.program("postgres"), "--version"], capture_output=True, cwd="/", check=False,
            user=user.pw_uid, group=user.pw_gid, extra_groups=[],
        )  # fmt: skip
    except PermissionError:
        return False
    return done.returncode == 0


def _copied(binaries: Binaries, target: Path) -> Binaries:
    """A copy of the wheel's folder in the same arrangement, since its programs look for their libraries beside it."""
    installation = binaries.folder.parent
    package = installation.parent
    folder = target / package.name / installation.name
    if not (folder / ".complete").exists():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(installation, folder, symlinks=True)
        libraries = package.parent / f"{package.name}.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, target / libraries.name, symlinks=True)
        (folder / ".complete").touch()
    return Binaries(folder / "bin", binaries.major, bundled=True)


def _is_postgres(pid: int, data: Path) -> bool:
    command = Path(f"/proc/{pid}/cmdline")
    if command.parent.parent.joinpath("self").exists():
        return command.exists() and str(data).encode() in command.read_bytes()
    listed = subprocess.run(  # noqa: S603 - where there is no /proc
        ["/bin/ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False
    ).stdout
    return str(data) in listed
