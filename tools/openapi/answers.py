"""What an operation answers: the content types that its tool reads, and the schema of its result where there is exactly one."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from tools.http_endpoint.settings import DEFAULT_CONTENT_TYPES
from tools.openapi.references import BrokenReferenceError, References
from tools.openapi.schemas import SchemaWriter, UnusableSchemaError
from tools.openapi.unusable import UnusableOperationError
from tools.schemas import InvalidSchemaError, check_schema

_SUCCESS = re.compile(r"2(\d\d|XX)")
_READ_ANYWAY = re.compile(r"(application/json|[a-z0-9.+-]+/[a-z0-9.+-]*\+json|text/.*|\*/\*)")
_TEXTUAL = re.compile(r"application/(xml|[a-z0-9.-]+\+xml|yaml|x-yaml|x-ndjson|javascript)")


@dataclass(frozen=True, slots=True)
class Answers:
    """What comes back. `content_types`: what is read; empty: the handler's default."""

    schema: dict[str, Any] | None = None
    content_types: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_answers(responses: Any, references: References, writer: SchemaWriter, *, with_schema: bool) -> Answers:
    """What the operation's successful responses say; raises UnusableOperationError when none can be read by a tool."""
    if not isinstance(responses, dict):
        return Answers()
    described = [references.resolved(entry) for status, entry in responses.items() if _SUCCESS.fullmatch(str(status))]
    contents = [
        entry["content"] for entry in described if isinstance(entry, dict) and isinstance(entry.get("content"), dict)
    ]
    named = {_plain(name): media for content in contents for name, media in content.items()}
    if named and not any(_READ_ANYWAY.fullmatch(name) or _TEXTUAL.fullmatch(name) for name in named):
        raise UnusableOperationError(f"It answers with {', '.join(sorted(named))[:200]}, which a tool cannot read.")
    more = sorted(name for name in named if _TEXTUAL.fullmatch(name))
    types = [*DEFAULT_CONTENT_TYPES, *more] if more else []
    if not with_schema or len(described) != 1 or len(named) != 1:
        return Answers(content_types=types)
    [(name, media)] = named.items()
    schema = media.get("schema") if isinstance(media, dict) and "json" in name else None
    return Answers(content_types=types) if schema is None else _with_schema(schema, writer, types)


def _with_schema(schema: Any, writer: SchemaWriter, types: list[str]) -> Answers:
    """The schema where it can be used; without it results are not checked, and the tool works all the same."""
    try:
        found = writer.converted(schema)
        if not isinstance(found, dict) or not found:
            return Answers(content_types=types)
        definitions = writer.definitions()
        whole = {**found, "$defs": definitions} if definitions else found
        check_schema(whole, of_object=False)
    except (UnusableSchemaError, BrokenReferenceError, InvalidSchemaError) as error:
        return Answers(
            content_types=types, notes=[f"Its results are not checked, their schema cannot be used: {error}"[:300]]
        )
    return Answers(whole, types)


def _plain(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
