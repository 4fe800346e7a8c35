"""Documents, and the register of their kinds."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from audit.actor import Actor
from tools.json_values import same_json

Spec: TypeAlias = dict[str, Any]
"""What a thing says, as JSON values under the names of its fields; complete, with every default written out."""


class UnknownKindError(LookupError):
    """There is no kind of this name; the text is for whoever wrote the document."""


@dataclass(frozen=True, slots=True)
class Document:
    """What one thing says, or shall say. `spec` None: it shall not be there."""

    kind: str
    name: str
    spec: Spec | None


class DocumentKind(Protocol):
    """How the things of one kind are read, checked and written. All methods use the ORM and belong into a thread.

    `name` is what documents write under `kind`; `group` is what FOUR_EYES calls the kinds that are guarded together. `exported`:
    whether configuration as code has it.
    """

    name: str
    group: str
    exported: bool

    def names(self) -> list[str]:
        """All things of this kind, sorted."""
        ...

    def read(self, name: str) -> Spec | None:
        """What the thing says now; None when it is not there."""
        ...

    def complete(self, spec: Spec) -> Spec:
        """The spec with all defaults; raises ValidationError, keyed by field, for unknown fields and wrong types."""
        ...

    def check(self, name: str, spec: Spec) -> None:
        """Raise ValidationError, keyed by field, unless a complete spec can be written under this name."""
        ...

    def write(self, name: str, spec: Spec, *, by: Actor, note: str) -> None:
        """Make the thing say this, and record it; inside `atomic`, after `check`."""
        ...

    def delete(self, name: str, *, by: Actor, note: str) -> None:
        """Remove the thing and record it; inside `atomic`. Raises ValidationError where that is not possible."""
        ...


_kinds: dict[str, DocumentKind] = {}


def register_kind(kind: DocumentKind) -> None:
    """Add a kind; rooms above this one call it when their app is ready. The same name again takes its place."""
    _kinds[kind.name] = kind


def registered_kinds() -> list[DocumentKind]:
    """All kinds, in the order in which documents of them can be written: what others refer to first."""
    return list(_kinds.values())


def kind_named(name: str) -> DocumentKind:
    """The kind of this name; raises UnknownKindError."""
    try:
        return _kinds[name]
    except KeyError:
        raise UnknownKindError(f"There is no kind {name!r}; the kinds are {', '.join(_kinds)}.") from None


def differences(before: Spec | None, after: Spec | None) -> dict[str, dict[str, Any]]:
    """What changes, by field: `{"before": ..., "after": ...}`; a thing that comes or goes has None on the other side."""
    old, new = before or {}, after or {}
    return {
        name: {"before": old.get(name), "after": new.get(name)}
        for name in dict.fromkeys([*old, *new])
        if (name in old) != (name in new) or not same_json(old.get(name), new.get(name))
    }


def fingerprint(spec: Spec | None) -> str:
    """A short text that is another one when the spec is; empty for what is not there."""
    if spec is None:
        return ""
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:32]
