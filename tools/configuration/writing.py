"""Writing what the registry holds as files: the same registry gives the same bytes, and a small change a small difference."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tools.configuration.json_schema import API_VERSION
from tools.configuration.kinds import completed_spec, configuration_of, exported_kinds, fields_of
from tools.configuration.secrets import SecretInDocumentError, known_secrets
from tools.configuration.texts import did_you_mean
from tools.configuration.yaml_values import arranged, write_yaml
from tools.documents import DocumentKind, Spec


class NothingOfThisNameError(LookupError):
    """A name was asked for that nothing has; the text is for who asked."""


@dataclass(frozen=True, slots=True)
class WrittenDocument:
    """A thing of the registry as text."""

    kind: DocumentKind
    name: str
    text: str


def written_documents(kinds: Iterable[str], names: Iterable[str], *, full: bool) -> list[WrittenDocument]:
    """What the registry holds, in the order of kinds and names; only of these kinds and names, where some are given.

    `full` writes out defaults, too. Raises NothingOfThisNameError, and SecretInDocumentError for a thing that holds the value of
    a credential.
    """
    wanted_kinds, wanted = set(kinds), set(names)
    chosen = [kind for kind in exported_kinds() if not wanted_kinds or kind.name in wanted_kinds]
    found = [(kind, name) for kind in chosen for name in kind.names()]
    there = {name for _, name in found}
    if missing := sorted(wanted - there):
        raise NothingOfThisNameError(
            f"There is nothing called {missing[0]!r}.{did_you_mean(missing[0], sorted(there))}"
        )
    secrets = known_secrets()
    written: list[WrittenDocument] = []
    for kind, name in found:
        spec = kind.read(name) if not wanted or name in wanted else None
        if spec is None:
            continue
        if secrets.held_by(spec):
            raise SecretInDocumentError(
                f"{kind.name} {name} holds the value of a credential: take it out of there first."
            )
        written.append(WrittenDocument(kind, name, document_text(kind, name, spec, full=full)))
    return written


def document_text(kind: DocumentKind, name: str, spec: Spec, *, full: bool = False) -> str:
    """One thing as a YAML document."""
    said = spec if full else minimal_spec(kind, name, spec)
    ordered = {field: arranged(said[field]) for field in fields_of(kind) if field in said}
    return write_yaml({"apiVersion": API_VERSION, "kind": kind.name, "name": name, "spec": ordered})


def minimal_spec(kind: DocumentKind, name: str, spec: Spec) -> Spec:
    """The spec without what is understood: `completed_spec` gives it back."""
    required = {field: spec[field] for field, (_, default) in fields_of(kind).items() if default is ...}
    from_code = configuration_of(kind).defaults(name)
    understood = completed_spec(kind, name, {} if from_code else required)
    kept = set() if from_code else set(required)
    return {field: value for field, value in spec.items() if field in kept or value != understood[field]}


def in_one_file(documents: Iterable[WrittenDocument]) -> str:
    """All documents in one text."""
    return "---\n".join(document.text for document in documents)


def write_file(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_folder(folder: Path, documents: Iterable[WrittenDocument]) -> list[Path]:
    """Write each document into a file of its own; returns the .yaml files there that are none of these."""
    written = {}
    for path, document in _placed(folder, documents):
        if not path.is_file() or path.read_bytes() != document.text.encode():
            write_file(path, document.text)
        written[path] = document
    return sorted(path for path in folder.rglob("*.yaml") if path not in written)


def _placed(folder: Path, documents: Iterable[WrittenDocument]) -> Iterator[tuple[Path, WrittenDocument]]:
    """A path for each: by kind and name; a number where names differ only in what file systems ignore."""
    taken: set[str] = set()
    for document in documents:
        parts = ["any" if part == "*" else quote(part, safe="") for part in document.name.split("/")]
        stem = f"{configuration_of(document.kind).folder}/{'.'.join(parts)}"
        path, number = stem, 1
        while path.lower() in taken:
            number += 1
            path = f"{stem}-{number}"
        taken.add(path.lower())
        yield folder / f"{path}.yaml", document


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
