"""Changing one tool from what it says now: switched on or off, or what an older version said; and checking what a form says.

Each holds the registry while it reads and writes, so that nothing undoes what somebody else has just done.
"""

from __future__ import annotations

from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db import transaction

from audit.actor import Actor
from tools.changes import checked, hold_registry, needs_second_person, submit
from tools.documents import Document, kind_named
from tools.models import ChangeRequest, ToolVersion
from tools.versions import Definition

TOOL_KIND: Final = "Tool"


def switch(name: str, *, enabled: bool, by: Actor, reason: str = "") -> ChangeRequest | None:
    """Switch a tool on or off, or propose it; see `tools.changes.submit`. Switching off is never held up."""
    return _change(name, {"enabled": enabled}, by=by, reason=reason)


def go_back(name: str, number: int, *, by: Actor, reason: str = "") -> ChangeRequest | None:
    """Serve again what version `number` said, as a new version, or propose it. Whether the tool is on stays as it is.

    Raises ToolVersion.DoesNotExist, or ValidationError when it can no longer be used.
    """
    old = ToolVersion.objects.get(tool__name=name, number=number)
    said = f"Back to version {number}." + (f" {reason}" if reason else "")
    return _change(name, Definition.of(old).as_dict(), by=by, reason=said)


def check_change(document: Document) -> None:
    """Raise ValidationError, keyed by field where it is about one, unless the document can be submitted now."""
    kind = kind_named(document.kind)
    after = checked(kind, document)
    if needs_second_person(kind) and after != kind.read(document.name) and pending_change(document.name):
        raise ValidationError("Another change of this tool waits for a second person.")


def pending_change(name: str) -> ChangeRequest | None:
    """The proposal about this tool that waits for a second person, if any."""
    waiting = ChangeRequest.objects.filter(kind=TOOL_KIND, name=name, status=ChangeRequest.Status.PENDING)
    return waiting.only("id", "proposed_by", "proposed_at", "reason").first()


def _change(name: str, changes: dict[str, Any], *, by: Actor, reason: str) -> ChangeRequest | None:
    with transaction.atomic():
        hold_registry()
        now = kind_named(TOOL_KIND).read(name)
        if now is None:
            raise ValidationError(f"{name} has no version yet: there is nothing to call.")
        return submit(Document(TOOL_KIND, name, {**now, **changes}), by=by, reason=reason)
