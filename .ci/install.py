"""Makes `.venv` and installs a requirements file into it, when it is not there already: `python .ci/install.py requirements.txt`.

Standard library only. Several at once wait for each other; one that is interrupted is repeated by the next.
"""

# ruff: noqa: S603, T201 - a program of the command line that runs pip and uv
from __future__ import annotations

import ast
import fcntl
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
UV = "uv>=0.5"
# pip's configuration, by the names that uv knows it by. Lists are separated by the given character.
UV_NAMES = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "no-index": ("UV_NO_INDEX", " "),
    "cert": ("SSL_CERT_FILE", " "),
}


def main() -> None:
    """Install what the named file asks for, unless its stamp says that this was done."""
    wanted = ROOT / sys.argv[1]
    fcntl.flock(os.open(ROOT, os.O_RDONLY), fcntl.LOCK_EX)  # until this process ends
    make_environment()
    stamp = ENVIRONMENT / f"installed-{wanted.stem}"
    digest = digest_of(wanted)
    if stamp.exists() and stamp.read_text() == digest:
        return
    stamp.unlink(missing_ok=True)
    print(f"Installing {wanted.name} into .venv ...", flush=True)
    install(wanted)
    stamp.write_text(digest)


def make_environment() -> None:
    """A virtual environment whose Python runs; one that is half made, or whose Python is gone, is made again."""
    made = ENVIRONMENT / "made"
    if made.exists() and subprocess.run([PYTHON, "-c", ""], check=False, capture_output=True).returncode == 0:
        return
    print(f"Making .venv with Python {sys.version.split()[0]} ...", flush=True)
    venv.create(ENVIRONMENT, clear=ENVIRONMENT.exists(), with_pip=True)
    made.touch()


def digest_of(requirements: Path) -> str:
    """A digest of a requirements file and of those it includes."""
    digest = hashlib.sha256()
    for line in requirements.read_text().splitlines():
        digest.update(line.encode() + b"\n")
        if line.startswith("-r "):
            digest.update(digest_of(ROOT / line.removeprefix("-r ").strip()).encode())
    return digest.hexdigest()


def install(requirements: Path) -> None:
    """With uv, which is quick, where it can be had and finds everything; else with pip."""
    pip = [PYTHON, "-m", "pip", "--disable-pip-version-check"]
    found = subprocess.run([*pip, "install", "--quiet", UV], check=False, capture_output=True)
    if found.returncode == 0:
        uv = [ENVIRONMENT / "bin" / "uv", "pip", "install", "--python", PYTHON, "--index-strategy", "unsafe-best-match"]
        done = subprocess.run([*uv, "--quiet", "-r", requirements], check=False, env=uv_environment(pip))
        if done.returncode == 0:
            return
        print("uv could not install everything; trying pip.", flush=True)
    if subprocess.run([*pip, "install", "--quiet", "-r", requirements], check=False).returncode != 0:
        sys.exit(f"{requirements.name} could not be installed.")


def uv_environment(pip: list[object]) -> dict[str, str]:
    """This environment with pip's package sources under uv's names; what is set for uv stays."""
    listed = subprocess.run([*pip, "config", "list"], check=False, capture_output=True, text=True).stdout
    values: dict[str, str] = {}
    for line in sorted(listed.splitlines(), key=strength):
        key, _, value = line.partition("=")
        values[key.rpartition(".")[2]] = str(ast.literal_eval(value))
    translated = {
        name: separator.join(values[key].split()) for key, (name, separator) in UV_NAMES.items() if values.get(key)
    }
    return {**translated, **os.environ}


def strength(line: str) -> int:
    """What counts more comes later: [global], then [install], then the environment."""
    return 2 if line.startswith(":env:") else int(line.startswith("install."))


if __name__ == "__main__":
    main()
