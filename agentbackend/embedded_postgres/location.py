"""Where the embedded database lives, and the names in it. No side effects: settings read this."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from agentbackend.embedded_postgres.binaries import Binaries, find_binaries

DATABASE = "agentbackend"
SUPERUSER = "postgres"
OWNER = "agentbackend_owner"
RUNTIME = "agentbackend_runtime"


@dataclass(frozen=True, slots=True)
class Location:
    """The folders of one embedded database: `home` holds everything that lasts, the socket stands apart because its path is short."""

    home: Path
    binaries: Binaries

    @property
    def data(self) -> Path:
        """PostgreSQL's data folder; complete once it exists."""
        return self.home / "data"

    @property
    def socket_directory(self) -> Path:
        """Access to the database: only its owner may enter, and authentication within is trust."""
        digest = hashlib.sha256(str(self.home).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"agentbackend-{os.geteuid()}-{digest}"


def default_location(data_dir: str = "") -> Location:
    """The embedded database of this user and PostgreSQL version; `data_dir` replaces the base folder."""
    binaries = _binaries()
    return Location(_base(data_dir) / f"postgresql-{binaries.major}", binaries)


@lru_cache(maxsize=1)
def _binaries() -> Binaries:
    return find_binaries()


def _base(data_dir: str) -> Path:
    if data_dir:
        return Path(data_dir).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/agentbackend")  # root's home is closed to the user that the server runs as
    share = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(share) / "agentbackend"
