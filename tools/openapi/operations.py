"""The operations of a document, each as a tool's definition, or with the reason why it cannot be one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from django.core.exceptions import ValidationError

from tools.calls import SideEffects
from tools.documents import Spec
from tools.models import HandlerType
from tools.openapi.answers import Answers, read_answers
from tools.openapi.arguments import Arguments, read_arguments
from tools.openapi.reading import DocumentError
from tools.openapi.references import BrokenReferenceError, References, check_inside
from tools.openapi.schemas import Budget, Direction, SchemaWriter, UnusableSchemaError
from tools.openapi.security import Scheme, placed_credentials, schemes_of
from tools.openapi.servers import NoServerError, base_url
from tools.openapi.unusable import UnusableOperationError
from tools.versions import Definition, check_fields

MAX_OPERATIONS: Final = 900
MAX_NAME: Final = 64

_METHODS = ("get", "head", "post", "put", "patch", "delete")
_OTHER_METHODS = ("options", "trace", "query")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]+")
_VERSION = re.compile(r"3\.(0|1|2)(\.|$)")
_GET_RETRIES = 1


@dataclass(frozen=True, slots=True)
class Choices:
    """What the person who imports says beside the document."""

    document_url: str = ""
    base_url: str = ""
    prefix: str = ""
    credentials: Mapping[str, str] = field(default_factory=dict)
    with_output_schemas: bool = True


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. `spec` is the tool that it would become; without one `problem` says why. `notes` are for who imports."""

    key: str
    name: str
    title: str
    spec: Spec | None = None
    problem: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Api:
    """What a document describes."""

    title: str
    version: str
    operations: tuple[Operation, ...]
    schemes: tuple[Scheme, ...]


def read_api(document: dict[str, Any], choices: Choices) -> Api:
    """The operations of a document; raises DocumentError when it is not one of OpenAPI 3.x, or refers outside itself."""
    _check_version(document)
    paths = document.get("paths", {})
    info = document.get("info")
    if not isinstance(info, dict) or not isinstance(paths, dict):
        raise DocumentError("The document is broken: it must have an object `info`, and an object `paths`.")
    check_inside(document)
    reader = _Reader(document, choices)
    operations = list(reader.operations(paths))
    if not operations:
        raise DocumentError("The document describes no operations: there is nothing to import.")
    return Api(
        title=str(info.get("title", ""))[:200],
        version=str(info.get("version", ""))[:40],
        operations=tuple(operations),
        schemes=tuple(reader.schemes.values()),
    )


def _check_version(document: dict[str, Any]) -> None:
    if "swagger" in document:
        raise DocumentError("The document is one of Swagger 2.0. Convert it to OpenAPI 3.x first.")
    version = document.get("openapi")
    if not isinstance(version, str) or not _VERSION.match(version):
        raise DocumentError("The document does not say that it is OpenAPI 3.x (`openapi: 3.1.0`).")


class _Reader:
    """One reading of a document."""

    def __init__(self, document: dict[str, Any], choices: Choices) -> None:
        self._document = document
        self._choices = choices
        self._references = References(document)
        self._budget = Budget()
        self._names: set[str] = set()
        self.schemes = schemes_of(document, self._references)

    def operations(self, paths: dict[str, Any]) -> Iterator[Operation]:
        """All operations in the document's order."""
        number = 0
        for path, entry in paths.items():
            if path.startswith("x-"):
                continue
            for method, described in self._methods(path, entry):
                number += 1
                if number > MAX_OPERATIONS:
                    raise DocumentError(
                        f"The document describes more than {MAX_OPERATIONS} operations: take a part of it."
                    )
                yield self._operation(path, method, entry, described)

    def _methods(self, path: str, entry: Any) -> Iterator[tuple[str, Any]]:
        try:
            item = self._references.resolved(entry)
        except BrokenReferenceError:
            yield "", None
            return
        if not isinstance(item, dict):
            raise DocumentError(f"The document is broken: the path {path[:100]!r} is not an object.")
        yield from ((method, item[method]) for method in (*_METHODS, *_OTHER_METHODS) if method in item)

    def _operation(self, path: str, method: str, entry: Any, described: Any) -> Operation:
        shown = f"{method.upper()} {path}".strip()[:300]
        operation = described if isinstance(described, dict) else {}
        name = self._name(operation, method, path)
        found = Operation(shown, name, _title(operation, name))
        self._budget.renew()
        try:
            if method in _OTHER_METHODS:
                raise UnusableOperationError(f"{method.upper()} requests are not made.")
            item = self._references.resolved(entry)
            if not isinstance(described, dict) or not isinstance(item, dict):
                raise UnusableOperationError("The document is broken here: expected an object.")
            return self._usable(found, path, method, item, operation)
        except (UnusableOperationError, UnusableSchemaError, BrokenReferenceError, NoServerError) as error:
            return replace(found, problem=str(error))
        except ValidationError as error:
            told = [f"{field}: {text}" for field, texts in error.message_dict.items() for text in texts]
            return replace(found, problem=" ".join(told)[:600])

    def _usable(
        self, found: Operation, path: str, method: str, item: Mapping[str, Any], operation: Mapping[str, Any]
    ) -> Operation:
        arguments = self._arguments(path, method, item, operation)
        answers = read_answers(
            operation.get("responses"),
            self._references,
            SchemaWriter(self._references, Direction.RESPONSE, self._budget),
            with_schema=self._choices.with_output_schemas and method != "head",
        )
        security = operation.get("security", self._document.get("security"))
        credentials, problem = placed_credentials(security, self.schemes, self._choices.credentials)
        if problem:
            raise UnusableOperationError(problem)
        levels = [operation.get("servers"), item.get("servers"), self._document.get("servers")]
        base = base_url(levels, document_url=self._choices.document_url, chosen=self._choices.base_url)
        handler = _handler(method, base + arguments.path, arguments, answers, credentials)
        definition = _definition(found, method, path, operation, handler, arguments, answers)
        check_fields(definition)
        notes = [*arguments.notes, *answers.notes]
        if operation.get("deprecated") is True:
            notes.append("The document calls this operation deprecated.")
        about = {"enabled": False, "owner": "", "tags": _tags(operation)}
        return replace(found, spec={**about, **definition.as_dict()}, notes=tuple(notes))

    def _arguments(self, path: str, method: str, item: Mapping[str, Any], operation: Mapping[str, Any]) -> Arguments:
        writer = SchemaWriter(self._references, Direction.REQUEST, self._budget)
        return read_arguments(path, method, item, operation, self._references, writer)

    def _name(self, operation: Mapping[str, Any], method: str, path: str) -> str:
        """A name that fits a tool, and that no operation before has."""
        stated = operation.get("operationId")
        said = stated if isinstance(stated, str) and stated else f"{method}_{path}"
        plain = re.sub("__+", "_", _NOT_IN_NAMES.sub("_", said)).strip("_-")
        base = self._choices.prefix + (plain or "operation")
        name, number = base[:MAX_NAME], 2
        while name in self._names:
            ending = f"_{number}"
            name, number = base[: MAX_NAME - len(ending)] + ending, number + 1
        self._names.add(name)
        return name


def _handler(
    method: str, url: str, arguments: Arguments, answers: Answers, credentials: list[dict[str, str]]
) -> dict[str, Any]:
    """The handler's settings; what is as it would be anyway is left out."""
    settings: dict[str, Any] = {"method": method.upper(), "url": url}
    optional = {
        "parameters": arguments.places,
        "body": arguments.body,
        "body_argument": arguments.body_argument,
        "headers": arguments.headers,
        "credentials": credentials,
        "content_types": answers.content_types,
    }
    return {**settings, **{name: value for name, value in optional.items() if value}}


def _definition(
    found: Operation, method: str, path: str, operation: Mapping[str, Any], handler: dict[str, Any],
    arguments: Arguments, answers: Answers,
) -> Definition:  # fmt: skip
    """Side effects: only what reads is taken to be repeatable.

    PUT and DELETE are idempotent for HTTP, but a repeated one that comes late may undo what somebody did in between: a person
    decides, or who knows the service says otherwise later.
    """
    reads = method in ("get", "head")
    names = dict.fromkeys(entry["name"] for entry in handler.get("credentials", []))
    return Definition(
        title=found.title,
        description=_description(operation, method, path),
        input_schema=arguments.schema,
        output_schema=answers.schema,
        side_effects=(SideEffects.IDEMPOTENT if reads else SideEffects.UNSAFE).value,
        handler_type=HandlerType.HTTP_ENDPOINT.value,
        handler=handler,
        required_credentials=list(names),
        max_retries=_GET_RETRIES if reads else 0,
    )


def _title(operation: Mapping[str, Any], name: str) -> str:
    stated = operation.get("summary")
    return _one_line(stated if isinstance(stated, str) else "", 120) or name


def _description(operation: Mapping[str, Any], method: str, path: str) -> str:
    texts = [operation.get(name) for name in ("summary", "description")]
    said = list(dict.fromkeys(text.strip() for text in texts if isinstance(text, str) and text.strip()))
    return "\n\n".join(said)[:2000].replace("\0", "") or f"{method.upper()} {path}"[:300]


def _tags(operation: Mapping[str, Any]) -> list[str]:
    stated = operation.get("tags")
    tags = [_one_line(tag, 40) for tag in stated if isinstance(tag, str)] if isinstance(stated, list) else []
    return list(dict.fromkeys(tag for tag in tags if tag))[:5]


def _one_line(text: str, limit: int) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text[: 4 * limit]).split())[:limit]
