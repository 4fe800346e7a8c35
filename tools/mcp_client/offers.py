"""What a server says of a tool: its digest, what of it can be kept, and whether it can be used here."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from tools.mcp_client.contract import OfferedTool
from tools.mcp_client.dialects import usable_schema
from tools.schemas import InvalidSchemaError

MAX_NAME: Final = 200
MAX_TITLE: Final = 200
MAX_DESCRIPTION: Final = 10_000
_MAX_PROBLEM = 300

# bidirectional controls, other invisible marks, tags, and the private planes: a person would not see what a model reads
INVISIBLE = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e0fff\U000f0000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool of a server as it is kept; `problem` says why it cannot be used, empty when it can."""

    name: str
    title: str
    description: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None
    annotations: dict[str, Any]
    digest: str
    problem: str


def offers_of(tools: Iterable[OfferedTool]) -> dict[str, Offer]:
    """Offers by name. Names that cannot be kept are left out; one that stands for two different tools can be used by neither."""
    found: dict[str, Offer] = {}
    for tool in tools:
        if not 0 < len(tool.name) <= MAX_NAME or _cleaned(tool.name) != tool.name:
            continue
        offer = _offer(tool)
        before = found.get(tool.name)
        found[tool.name] = offer if before is None or before.digest == offer.digest else _ambiguous(before, offer)
    return found


def digest_of(tool: OfferedTool) -> str:
    """SHA-256, in hexadecimal, of what a server says of a tool: JSON with sorted keys and without white space."""
    said = {
        "name": tool.name,
        "title": tool.title,
        "description": tool.description,
        "input_schema": tool.input_schema,
        "output_schema": tool.output_schema,
    }
    return _sha256(json.dumps(said, sort_keys=True, separators=(",", ":")))


def _offer(tool: OfferedTool) -> Offer:
    return Offer(
        name=tool.name,
        title=_cleaned(tool.title)[:MAX_TITLE],
        description=_cleaned(tool.description)[:MAX_DESCRIPTION],
        input_schema=_storable(tool.input_schema) or {},
        output_schema=None if tool.output_schema is None else _storable(tool.output_schema) or {},
        annotations=_storable(tool.annotations) or {},
        digest=digest_of(tool),
        problem=_problem(tool)[:_MAX_PROBLEM],
    )


def _ambiguous(first: Offer, second: Offer) -> Offer:
    return Offer(
        name=first.name,
        title=first.title,
        description=first.description,
        input_schema=first.input_schema,
        output_schema=first.output_schema,
        annotations=first.annotations,
        digest=_sha256(first.digest + second.digest),
        problem="The server offers more than one tool of this name.",
    )


def _problem(tool: OfferedTool) -> str:
    if len(tool.description) > MAX_DESCRIPTION:
        return f"Its description has {len(tool.description)} characters; {MAX_DESCRIPTION} are allowed."
    if INVISIBLE.search(tool.title + tool.description):
        return "Its title or description holds characters that a person cannot see."
    if "\0" in tool.title + tool.description:
        return "Its title or description holds a NUL character."
    return _schema_problem("arguments", tool.input_schema) or _schema_problem("result", tool.output_schema)


def _schema_problem(of: str, schema: dict[str, Any] | None) -> str:
    if schema is None:
        return ""
    if schema and _storable(schema) is None:
        return f"The schema of its {of} cannot be kept."
    try:
        usable_schema(schema, of_object=of == "arguments")
    except InvalidSchemaError as error:
        return f"The schema of its {of}: {error}"
    return ""


def _storable(document: dict[str, Any]) -> dict[str, Any] | None:
    """The document as the database can hold it, or None: too deep, too large numbers, NUL characters."""
    try:
        written = orjson.dumps(document)
        found: dict[str, Any] = orjson.loads(written)
    except (orjson.JSONEncodeError, orjson.JSONDecodeError):
        return None
    return None if b"\\u0000" in written else found


def _cleaned(text: str) -> str:
    """Without NUL and lone surrogates, which cannot be stored."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
