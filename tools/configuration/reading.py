"""Reading files into documents, with everything that is wrong with their form.

Nothing is asked of the database here: whether a document can be written `tools.configuration.applying` finds out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from django.core.exceptions import ValidationError

from tools.configuration.json_schema import API_VERSION
from tools.configuration.kinds import completed_spec, configuration_of, exported_kind, fields_of
from tools.configuration.texts import did_you_mean
from tools.configuration.yaml_values import YamlDocument, read_yaml
from tools.documents import DocumentKind, Spec, UnknownKindError

MAX_FILE_BYTES: Final = 1024 * 1024
MAX_FILES: Final = 1000
MAX_DOCUMENTS: Final = 2000
STANDARD_INPUT: Final = "-"

_ENDINGS = (".yaml", ".yml")
_TOP_FIELDS = ("apiVersion", "kind", "name", "spec")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where; `line` and `document` count from 1, 0 says of none in particular."""

    message: str
    file: str = ""
    line: int = 0
    document: int = 0
    kind: str = ""
    name: str = ""
    field: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        what = [f"document {self.document}"] if self.document else []
        what += [f"{self.kind} {self.name}".strip()] if self.kind or self.name else []
        what += [self.field] if self.field else []
        return ": ".join(part for part in (place, ", ".join(what), self.message) if part)


@dataclass(frozen=True, slots=True)
class FileDocument:
    """A document of a file: what it says, complete, and where each of its fields stands."""

    kind: DocumentKind
    name: str
    spec: Spec
    file: str
    number: int
    line: int
    lines: dict[tuple[str, ...], int] = field(compare=False, repr=False)

    def problems(self, error: ValidationError) -> list[Problem]:
        """What an error keyed by field says, at the fields' lines."""
        return [self.problem(message, name) for name, message in messages_by_field(error)]

    def problem(self, message: str, name: str = "") -> Problem:
        """A problem of this document, or of one of its fields."""
        line = self.lines.get(("spec", name)) or self.lines.get((name,)) or self.line
        return Problem(message, self.file, line, self.number, self.kind.name, self.name, name)


def messages_by_field(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Each message of an error with its field; empty for those about the whole."""
    if not hasattr(error, "error_dict"):
        yield from (("", message) for message in error.messages)
        return
    for name, messages in error.message_dict.items():
        yield from (("" if name == "__all__" else name, message) for message in messages)


def read_files(paths: Sequence[str]) -> tuple[list[FileDocument], list[Problem]]:
    """All documents of files and folders (`-`: the standard input), and everything that is wrong with their form.

    Of folders every .yaml and .yml file is read, those of their folders included, hidden ones not.
    """
    documents: list[FileDocument] = []
    problems: list[Problem] = []
    files = list(_files(paths, problems))
    if len(files) > MAX_FILES:
        return [], [Problem(f"There are more than {MAX_FILES} files.")]
    for shown, path in files:
        text = _text(shown, path, problems)
        if text is not None:
            _read_documents(shown, text, documents, problems)
        if len(documents) > MAX_DOCUMENTS:
            return [], [*problems, Problem(f"There are more than {MAX_DOCUMENTS} documents.", shown)]
    problems += _twins(documents)
    return documents, problems


def _files(paths: Iterable[str], problems: list[Problem]) -> Iterator[tuple[str, Path | None]]:
    """Each file once, as it is called to people and as it is opened (None: the standard input)."""
    seen: set[Path] = set()
    for given in paths:
        if given == STANDARD_INPUT:
            yield "standard input", None
            continue
        path = Path(given)
        if not path.exists():
            problems.append(Problem("There is no such file or folder.", given))
            continue
        found = sorted(_in_folder(path)) if path.is_dir() else [path]
        if not found:
            problems.append(Problem(f"There is no {' or '.join(_ENDINGS)} file in this folder.", given))
        for file in found:
            if (real := file.resolve()) not in seen:
                seen.add(real)
                yield str(file), file


def _in_folder(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in _ENDINGS and not hidden and path.is_file():
            yield path


def _text(shown: str, path: Path | None, problems: list[Problem]) -> str | None:
    try:
        if path is None:
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        problems.append(Problem(f"It cannot be read: {error.strerror}.", shown))
        return None
    if len(data) > MAX_FILE_BYTES:
        problems.append(Problem(f"It is larger than {MAX_FILE_BYTES} bytes.", shown))
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        problems.append(Problem("It is not UTF-8.", shown, line))
        return None


def _read_documents(shown: str, text: str, documents: list[FileDocument], problems: list[Problem]) -> None:
    found, unreadable = read_yaml(text)
    problems += [Problem(problem.message, shown, problem.line, problem.document) for problem in unreadable]
    for document in found:
        envelope = _Envelope(shown, document)
        read = envelope.document()
        problems += envelope.problems
        if read is not None:
            documents.append(read)


class _Envelope:
    """Reads `apiVersion`, `kind`, `name` and `spec` of one document."""

    def __init__(self, file: str, source: YamlDocument) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._source = source
        self._kind = self._name = ""

    def document(self) -> FileDocument | None:
        """The document, unless something of its form is wrong."""
        said = self._source.value
        if not isinstance(said, dict):
            self._problem(f"Expected an object with {', '.join(_TOP_FIELDS)}.")
            return None
        for unknown in [name for name in said if name not in _TOP_FIELDS]:
            self._problem(f"There is no field {unknown!r} here.{did_you_mean(unknown, _TOP_FIELDS)}", unknown)
        self._kind = _shortened(said.get("kind"))
        self._name = _shortened(said.get("name"))
        if said.get("apiVersion") != API_VERSION:
            self._problem(f"Expected {API_VERSION}.", "apiVersion")
        if not isinstance(said.get("name"), str) or not said["name"]:
            self._problem("Expected a text: what the thing is called.", "name")
        kind = self._kind_of(said.get("kind"))
        spec = {} if said.get("spec") is None else said["spec"]
        if not isinstance(spec, dict):
            self._problem("Expected an object.", "spec")
        elif kind is not None and not self._unknown_fields(kind, spec) and self._name:
            return self._completed(kind, spec)
        return None

    def _kind_of(self, said: Any) -> DocumentKind | None:
        if not isinstance(said, str):
            self._problem("Expected a text: the kind of thing, like Tool.", "kind")
            return None
        try:
            return exported_kind(said)
        except UnknownKindError as error:
            self._problem(str(error), "kind")
            return None

    def _unknown_fields(self, kind: DocumentKind, spec: Spec) -> bool:
        fields = fields_of(kind)
        unknown = [name for name in spec if name not in fields]
        for name in unknown:
            self._problem(f"There is no field {name!r} of the kind {kind.name}.{did_you_mean(name, fields)}", name)
        return bool(unknown)

    def _completed(self, kind: DocumentKind, spec: Spec) -> FileDocument | None:
        try:
            complete = completed_spec(kind, self._name, spec)
        except ValidationError as error:
            for name, message in messages_by_field(error):
                hint = configuration_of(kind).hint_of_required if name not in spec else ""
                self._problem(f"{message} {hint}".strip(), name)
            return None
        if self.problems:
            return None
        source = self._source
        return FileDocument(kind, self._name, complete, self._file, source.number, source.line, source.lines)

    def _problem(self, message: str, field: str = "") -> None:
        source = self._source
        line = source.lines.get(("spec", field)) or source.lines.get((field,)) or source.line
        self.problems.append(Problem(message, self._file, line, source.number, self._kind, self._name, field))


def _twins(documents: Iterable[FileDocument]) -> Iterator[Problem]:
    first: dict[tuple[str, str], FileDocument] = {}
    for document in documents:
        twin = first.setdefault((document.kind.name, document.name), document)
        if twin is not document:
            where = f"{twin.file}:{twin.line}"
            yield document.problem(f"The same thing stands in document {twin.number} of {where} already.")


def _shortened(value: Any) -> str:
    return value[:200] if isinstance(value, str) else ""
