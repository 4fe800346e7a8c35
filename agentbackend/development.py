"""Keys and logins for development, made at random once: `python -m agentbackend.development` writes `.local/development.env`.

They belong to the database as much as to the checkout: rows are signed and encrypted with the keys, and the logins are rows. The
embedded database is shared by all checkouts of a user, so a copy is kept beside it, and a new checkout takes that over. Both
folders' files are for their owner's eyes only (0600).
"""

from __future__ import annotations

import base64
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import environ
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agentbackend.embedded_postgres.location import base_folder

ROOT = Path(__file__).resolve().parent.parent
KEYS_FILE = "development.env"
LOGINS_FILE = "logins.txt"


def _key_ring() -> str:
    return f"development:{base64.b64encode(secrets.token_bytes(32)).decode()}"


def _signing_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    data = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return f"development:{base64.b64encode(data).decode()}"


def _password() -> str:
    return secrets.token_urlsafe(18)


KEYS: dict[str, Callable[[], str]] = {
    "DJANGO_SECRET_KEY": lambda: secrets.token_urlsafe(48),
    "VAULT_KEYS": _key_ring,
    "LEDGER_SIGNING_KEYS": _key_ring,
    "GATEWAY_SIGNING_KEYS": _key_ring,
    "A2A_SIGNING_KEYS": _signing_key,
    "MOCK_WEATHER_TOOL_API_KEY": lambda: "development-" + secrets.token_hex(12),
}
"""Settings that get a value here, and how it is made."""

LOGINS: dict[str, str] = {"admin": "Administrators", "compliance": "Compliance", "operator": "Operators"}
"""The console's first logins and their groups."""


class KeptValues:
    """Lines `name=value` in a checkout's `.local`, with a copy beside the database when that is shared. Nothing is overwritten."""

    def __init__(self, local: Path, shared: Path | None) -> None:
        self._folders = [folder for folder in (local, shared) if folder is not None]

    def completed(self, name: str, makers: dict[str, Callable[[], str]], comment: str) -> dict[str, str]:
        """All values of a file; those that no copy has are made, and each copy gets those that it lacks."""
        for folder in self._folders:
            if not folder.exists():
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(0o755)  # whatever the umask: the database's server must get through, as another user
        self._folders[0].chmod(0o700)
        with _locked(self._folders[-1]):
            found: dict[str, str] = {}
            for folder in self._folders:
                found = _read(folder / name) | found  # the checkout's own first
            values = found | {key: make() for key, make in makers.items() if key not in found}
            for folder in self._folders:
                _add(folder / name, values, comment)
        return values


def make_keys(kept: KeptValues) -> dict[str, str]:
    """The development values of settings; existing ones stay as they are."""
    return kept.completed(
        KEYS_FILE, KEYS, "Development values for this machine only, made at random. See .env.example."
    )


def make_passwords(kept: KeptValues) -> dict[str, str]:
    """The console's first logins and their passwords as they were made."""
    makers = dict.fromkeys(LOGINS, _password)
    kept_values = kept.completed(LOGINS_FILE, makers, "The console's first logins, as they were made.")
    return {name: kept_values[name] for name in LOGINS}


def kept_values(*, embedded: bool, data_dir: str) -> KeptValues:
    """Where this checkout's values are kept: with the embedded database, beside it as well."""
    return KeptValues(ROOT / ".local", base_folder(data_dir) if embedded else None)


def main() -> None:
    """Write `.local/development.env`, before any settings are read."""
    if (ROOT / ".env").is_file():
        environ.Env.read_env(str(ROOT / ".env"))
    embedded = not os.environ.get("SUPABASE_DATABASE_URL", "").strip()
    make_keys(kept_values(embedded=embedded, data_dir=os.environ.get("AGENTBACKEND_DATA_DIR", "").strip()))


def _read(file: Path) -> dict[str, str]:
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, value in pairs}


def _add(file: Path, values: dict[str, str], comment: str) -> None:
    """Append what the file lacks; a new file appears complete."""
    there = _read(file)
    missing = [f"{name}={value}\n" for name, value in values.items() if name not in there]
    if not missing:
        return
    before = file.read_text() if file.exists() else f"# {comment}\n"
    if not before.endswith("\n"):
        before += "\n"
    unfinished = file.with_name(f"{file.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
        output.write(before + "".join(missing))
    unfinished.replace(file)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
