"""The committed JSON editor of the console is what the sources and the lock file make."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.node_packages import executable, installed

LARGEST_GZIPPED = 130_000
SOURCES = ("package.json", "package-lock.json", "build.mjs", "src")
BUILT = ("json_editor.js", "LICENSES")


@pytest.fixture
def source_folder(project_root: Path) -> Path:
    return project_root / "tools" / "console"


@pytest.fixture
def bundle_folder(project_root: Path) -> Path:
    return project_root / "tools" / "static" / "tools"


@pytest.mark.node
@pytest.mark.timeout(300)
def test_a_build_from_the_lock_file_gives_the_committed_files(source_folder: Path, bundle_folder: Path, tmp_path: Path):
    folder = tmp_path / "console"
    folder.mkdir()
    for name in SOURCES:
        source = source_folder / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    shutil.copytree(installed(source_folder) / "node_modules", folder / "node_modules", symlinks=True)
    command = [executable("node"), "build.mjs", str(tmp_path / "built")]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    for name in BUILT:
        assert (tmp_path / "built" / name).read_bytes() == (bundle_folder / name).read_bytes(), f"{name}: make editor"


def test_the_editor_is_small_enough_for_a_first_visit(bundle_folder: Path):
    assert len(gzip.compress((bundle_folder / "json_editor.js").read_bytes())) < LARGEST_GZIPPED


def test_the_editor_makes_no_code_from_text(bundle_folder: Path):
    bundle = (bundle_folder / "json_editor.js").read_text()
    assert "new Function" not in bundle
    assert "eval(" not in bundle


def test_every_bundled_package_stands_in_the_licences(source_folder: Path, bundle_folder: Path):
    licences = (bundle_folder / "LICENSES").read_text()
    for name, version in json.loads((source_folder / "package.json").read_text())["dependencies"].items():
        assert f"\n{name} {version}: MIT" in licences
