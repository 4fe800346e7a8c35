"""Starting and stopping the embedded server, shared by all processes that use it.

Each process holds a shared lock for as long as it uses the database; the last one out finds that it can have the lock for itself, and stops
the server. Locks are the kernel's (flock), so a process that is killed gives its own back. Starting and stopping happen under a second,
exclusive lock, so two processes never do either at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import time
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
        try:
            self._make_home()
            with self._exclusively() as start_lock:
                users_lock = self._open_lock("users.lock")
                try:
                    fcntl.flock(users_lock, fcntl.LOCK_SH)
                    self._make_running(start_lock)
                except BaseException:
                    os.close(users_lock)
                    raise
                self._users_lock = users_lock
        except OSError as error:
            raise EmbeddedDatabaseError(f"{self.location.home} cannot be used: {error}") from error

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
                self._stop()
            finally:
                os.close(lock)

    def is_running(self) -> bool:
        """Whether the server of this data folder answers on its socket."""
        if not self._pid_file.exists():
            return False
        try:
            self._connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """Stop the server whoever uses it."""
        if self.location.home.is_dir():
            with self._exclusively():
                self._stop()

    def _stop(self) -> None:
        """Stop the server and leave nothing outside the home folder."""
        self._run("pg_ctl", "-D", self.location.data, "-m", "fast", "-w", "-t", "30", "stop", check=False)
        with contextlib.suppress(OSError):
            self.location.socket_directory.rmdir()

    # --- start

    def _make_running(self, start_lock: int) -> None:
        self._make_socket_directory()
        if not self._is_left_running():
            if not self.location.data.exists():
                self._initialise(start_lock)
            # Files of a killed server: its number may belong to another program by now, or to its own unreaped remains.
            for file in (self._pid_file, self._socket_lock):
                file.unlink(missing_ok=True)
            self._start()
        self._make_roles_and_database()

    def _is_left_running(self) -> bool:
        """Wait until a server that others left starting, recovering or stopping is ready (True) or gone (False)."""
        deadline = time.monotonic() + _START_SECONDS
        while not self.is_running():
            pid = self._live_server()
            if pid is None:
                return False
            if time.monotonic() > deadline:
                raise EmbeddedDatabaseError(f"The server {pid} neither answers nor ends: {self._end_of_log()}")
            end_with = self._signal_when_cut_off()
            if end_with is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, end_with)
            time.sleep(0.1)
        return True

    def _live_server(self) -> int | None:
        """The process id of a server of this data folder, in whatever state."""
        for file in (self._pid_file, self._socket_lock):
            with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
                pid = int(file.read_text().splitlines()[0])
                if _is_postgres(pid, self.location.data):
                    return pid
        return None

    def _signal_when_cut_off(self) -> signal.Signals | None:
        """How to end a server that nobody can reach any more because its data folder or its socket was removed under it."""
        try:
            is_ready = self._pid_file.read_text().splitlines()[7].strip() == "ready"
        except FileNotFoundError:
            return signal.SIGQUIT  # an orderly end would write into the folder that is made next
        except IndexError:
            return None
        socket = self.location.socket_directory / ".s.PGSQL.5432"
        return signal.SIGINT if is_ready and not socket.exists() else None

    @property
    def _pid_file(self) -> Path:
        return self.location.data / "postmaster.pid"

    @property
    def _socket_lock(self) -> Path:
        return self.location.socket_directory / ".s.PGSQL.5432.lock"

    def _initialise(self, start_lock: int) -> None:
        """Make the data folder aside and rename it when it is complete: an initdb that is killed leaves nothing that looks ready.

        initdb holds the start lock too: when only its parent is killed, the next one waits for its end.
        """
        unfinished = self.location.home / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        options = ["--no-sync"] if self._throw_away else ["--data-checksums"]
        self._run(
            "initdb", "-D", unfinished, "-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--locale=C", *options,
            keep_open=(start_lock,),
        )  # fmt: skip
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
        missing = [folder for folder in (home, *home.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            if self._user is not None:
                folder.chmod(0o755)  # whatever the umask: the server's user must get through
        if self._user is not None:
            _require_way_to(home, self._user)
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
    def _exclusively(self) -> Iterator[int]:
        descriptor = self._open_lock("start.lock")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _open_lock(self, name: str) -> int:
        # The folder is the server's, root may be who opens: no link leads elsewhere.
        return os.open(self.location.home / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)

    def _run(self, program: str, *arguments: object, check: bool = True, keep_open: tuple[int, ...] = ()) -> None:
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
            pass_fds=keep_open,
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
        return _copied(binaries, self.location.home)


def _server_user() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root: whom root runs it as, or None for an ordinary user."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise EmbeddedDatabaseError("As root the database needs a user `postgres` or `nobody` to run as.")


def _require_way_to(home: Path, user: pwd.struct_passwd) -> None:
    """Raise EmbeddedDatabaseError naming the first folder above `home` that the server's user may not enter."""
    for folder in reversed(home.parents):
        found = folder.stat()
        if not found.st_mode & 0o001 and not (found.st_uid == user.pw_uid and found.st_mode & 0o100):
            raise EmbeddedDatabaseError(
                f"AGENTBACKEND_DATA_DIR: as root the database runs as {user.pw_name}, who may not enter {folder}. "
                "Choose a folder that is open to it."
            )


def _may_run(binaries: Binaries, user: pwd.struct_passwd) -> bool:
    try:
        done = subprocess.run(  # noqa: S603 - a program found before
            [binaries.program("postgres"), "--version"], capture_output=True, cwd="/", check=False,
            user=user.pw_uid, group=user.pw_gid, extra_groups=[],
        )  # fmt: skip
    except PermissionError:
        return False
    return done.returncode == 0


def _copied(binaries: Binaries, home: Path) -> Binaries:
    """A copy of the wheel's folder in the same arrangement, since its programs look for their libraries beside it."""
    installation = binaries.folder.parent
    package = installation.parent
    made = f"{installation} {Path(binaries.program('postgres')).stat().st_mtime_ns}"
    target = home / f"programs-{hashlib.sha256(made.encode()).hexdigest()[:12]}"
    folder = target / package.name / installation.name
    if not (target / "complete").exists():
        for other in home.glob("programs-*"):
            shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(installation, folder, symlinks=True)
        libraries = package.parent / f"{package.name}.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, target / libraries.name, symlinks=True)
        _open_to_all(target)
        (target / "complete").touch()
    return Binaries(folder / "bin", binaries.major, bundled=True)


def _open_to_all(folder: Path) -> None:
    """Let everybody read what the owner may read, and run what the owner may run."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o055 if mode & 0o100 else 0o044))


def _is_postgres(pid: int, data: Path) -> bool:
    command = Path(f"/proc/{pid}/cmdline")
    if command.parent.parent.joinpath("self").exists():
        return command.exists() and str(data).encode() in command.read_bytes()
    listed = subprocess.run(  # noqa: S603 - where there is no /proc
        ["/bin/ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False
    ).stdout
    return str(data) in listed
