"""The SDK's top-level package is named as our room is: no module may hide another."""

from __future__ import annotations

import ast
import sysconfig
from pathlib import Path
from pkgutil import iter_modules

OURS = Path(__file__).resolve().parents[2] / "a2a"
THEIRS = Path(sysconfig.get_path("purelib")) / "a2a"
SHARED = {"migrations"}  # the SDK's serves only its own command


def test_no_module_of_ours_has_the_name_of_one_of_the_sdks() -> None:
    theirs = {module.name for module in iter_modules([str(THEIRS)])}
    assert {"client", "server", "types"} <= theirs, "the SDK is where this test looks"
    assert {module.name for module in iter_modules([str(OURS)])} & theirs <= SHARED


def test_only_modules_that_say_so_touch_the_sdk() -> None:
    theirs = {module.name for module in iter_modules([str(THEIRS)])} - SHARED
    touching = {
        str(file.relative_to(OURS))
        for file in OURS.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if theirs & _modules(node)
    }
    assert touching
    assert all(Path(name).name.startswith("sdk_") for name in touching), touching


def _modules(node: ast.AST) -> set[str]:
    """The modules directly below `a2a` that an import names."""
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
        names = [f"a2a.{alias.name}" for alias in node.names] if node.module == "a2a" else [node.module]
    return {name.split(".")[1] for name in names if name.startswith("a2a.")}
