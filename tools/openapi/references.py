"""`$ref` within a document, and nowhere else: a document that refers outside itself is not imported."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote

from tools import json_pointer
from tools.openapi.reading import DocumentError

_LONGEST_CHAIN: Final = 20
_WITHOUT_REFERENCES: Final = frozenset({"example", "examples", "default", "enum", "const", "value"})


class BrokenReferenceError(Exception):
    """A reference leads to nothing, or in a circle; the text names it."""


def check_inside(document: dict[str, Any]) -> None:
    """Raise DocumentError when the document refers outside itself; names the first few."""
    outside: list[str] = []
    left: list[Any] = [document]
    while left and len(outside) < 3:
        node = left.pop()
        if isinstance(node, list):
            left.extend(node)
        elif isinstance(node, dict):
            target = node.get("$ref")
            if isinstance(target, str) and not target.startswith("#"):
                outside.append(target[:100])
            left.extend(item for name, item in node.items() if name not in _WITHOUT_REFERENCES)
    if outside:
        named = ", ".join(repr(target) for target in outside)
        raise DocumentError(
            f"The document refers outside itself ({named}), and nothing else is read for it. Bundle it into one document first."
        )


class References:
    """Follows the references of one document."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document

    def resolved(self, node: Any) -> Any:
        """The node, or what it refers to in the end; raises BrokenReferenceError."""
        for _ in range(_LONGEST_CHAIN):
            if not isinstance(node, dict) or not isinstance(node.get("$ref"), str):
                return node
            node = self.target(node["$ref"])
        raise BrokenReferenceError(f"The reference {node['$ref'][:100]!r} leads in a circle.")

    def target(self, reference: str) -> Any:
        """What a reference names; raises BrokenReferenceError."""
        try:
            return json_pointer.find(self._document, tokens_of(reference))
        except json_pointer.NothingThereError as error:
            raise BrokenReferenceError(f"The reference {reference[:100]!r} leads to nothing.") from error


def tokens_of(reference: str) -> tuple[str, ...]:
    """The JSON Pointer within a reference like `#/components/schemas/Pet`; raises BrokenReferenceError."""
    if not reference.startswith("#/"):
        raise BrokenReferenceError(f"The reference {reference[:100]!r} is none by JSON Pointer (#/...).")
    try:
        return json_pointer.parse(unquote(reference[1:]))
    except json_pointer.InvalidPointerError as error:
        raise BrokenReferenceError(str(error)) from error
