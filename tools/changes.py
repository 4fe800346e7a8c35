"""Changing the registry, with one pair of eyes or two.

Whoever changes something calls `submit`. Where FOUR_EYES names the kind's group, the change becomes a proposal (ChangeRequest) that a
second person approves or refuses; else it is written at once. Either way it is checked first, written in one transaction, and audited.
A proposal says what the thing said before: when that is no longer true at the decision, the proposal is outdated and nothing is written.

Switching a tool or a server off is never held up: who sees harm stops it alone.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

import audit
from audit import actions
from audit.actor import Actor
from audit.entry import Target
from tools.documents import Document, DocumentKind, Spec, differences, kind_named
from tools.models import ChangeRequest

Status = ChangeRequest.Status


class NotYoursError(Exception):
    """This person may not decide this proposal; the text says why."""


def needs_second_person(kind: DocumentKind) -> bool:
    """Whether changes of this kind are proposed first."""
    return kind.group in settings.FOUR_EYES


def submit(document: Document, *, by: Actor, reason: str = "") -> ChangeRequest | None:
    """Write what the document says, or propose it; returns the proposal, None when it is written (or nothing changes).

    `spec` None removes the thing. Raises UnknownKindError, and ValidationError keyed by field when it cannot be written, or when
    another proposal about the same thing waits.
    """
    kind = kind_named(document.kind)
    with transaction.atomic():
        before = kind.read(document.name)
        after = checked(kind, document)
        if before == after:
            return None
        if needs_second_person(kind) and not _only_switches_off(before, after):
            return _propose(kind, document.name, before, after, by=by, reason=reason)
        _write(kind, document.name, after, by=by, note=reason)
    return None


def checked(kind: DocumentKind, document: Document) -> Spec | None:
    """The document's spec, complete and fit to be written; None when the thing shall go. Raises ValidationError."""
    if document.spec is None:
        return None
    spec = kind.complete(document.spec)
    kind.check(document.name, spec)
    return spec


def approve(request: ChangeRequest, *, by: Actor, reason: str = "") -> bool:
    """Write a proposal in the name of who decides; False when it is outdated, and then it says so.

    Raises NotYoursError for who proposed it, ValidationError when it is decided already or cannot be written any more.
    """
    with transaction.atomic():
        held = _pending(request)
        if held.proposed_by == by.id:
            raise NotYoursError("Who proposed a change cannot approve it: a second person must.")
        kind = kind_named(held.kind)
        if kind.read(held.name) != held.before:
            _decide(held, Status.OUTDATED, by=by, reason=reason, action=actions.CHANGE_OUTDATED)
            return False
        if held.after is not None:
            kind.check(held.name, held.after)
        _decide(held, Status.APPROVED, by=by, reason=reason, action=actions.CHANGE_APPROVED)
        _write(kind, held.name, held.after, by=by, note=held.reason)
    return True


def refuse(request: ChangeRequest, *, by: Actor, reason: str) -> None:
    """Refuse a proposal of somebody else's, with a reason. Raises NotYoursError, or ValidationError when it is decided already."""
    with transaction.atomic():
        held = _pending(request)
        if held.proposed_by == by.id:
            raise NotYoursError("Withdraw your own proposal instead.")
        if not reason.strip():
            raise ValidationError({"reason": ["Say why: who proposed it reads it."]})
        _decide(held, Status.REFUSED, by=by, reason=reason, action=actions.CHANGE_REFUSED)


def withdraw(request: ChangeRequest, *, by: Actor) -> None:
    """Take back one's own proposal. Raises NotYoursError, or ValidationError when it is decided already."""
    with transaction.atomic():
        held = _pending(request)
        if held.proposed_by != by.id:
            raise NotYoursError("Only who proposed a change can withdraw it.")
        _decide(held, Status.WITHDRAWN, by=by, reason="", action=actions.CHANGE_WITHDRAWN)


def changes_of(request: ChangeRequest) -> dict[str, dict[str, Any]]:
    """What a proposal changes, by field, as pages show it."""
    return differences(request.before, request.after)


def _propose(
    kind: DocumentKind, name: str, before: Spec | None, after: Spec | None, *, by: Actor, reason: str
) -> ChangeRequest:
    if ChangeRequest.objects.filter(kind=kind.name, name=name, status=Status.PENDING).exists():
        raise ValidationError(f"Another change of {name} waits for a decision already.")
    request = ChangeRequest.objects.create(
        kind=kind.name, name=name, before=before, after=after, reason=reason[:500], proposed_by=by.id
    )
    _record(request, actions.CHANGE_PROPOSED, by, {"reason": reason, "changes": changes_of(request)})
    return request


def _pending(request: ChangeRequest) -> ChangeRequest:
    held = ChangeRequest.objects.select_for_update().get(pk=request.pk)
    if held.status != Status.PENDING:
        raise ValidationError(f"It was decided already: {held.get_status_display()}.")
    return held


def _decide(held: ChangeRequest, status: str, *, by: Actor, reason: str, action: str) -> None:
    held.status = status
    held.decided_by, held.decided_at, held.decision_reason = by.id, timezone.now(), reason[:500]
    held.save(update_fields=["status", "decided_by", "decided_at", "decision_reason"])
    _record(held, action, by, {"reason": reason, "proposed_by": held.proposed_by})


def _write(kind: DocumentKind, name: str, after: Spec | None, *, by: Actor, note: str) -> None:
    if after is None:
        kind.delete(name, by=by, note=note)
    else:
        kind.write(name, after, by=by, note=note)


def _only_switches_off(before: Spec | None, after: Spec | None) -> bool:
    return set(differences(before, after)) == {"enabled"} and after is not None and after["enabled"] is False


def _record(request: ChangeRequest, action: str, by: Actor, details: dict[str, Any]) -> None:
    about = {"kind": request.kind, "name": request.name}
    audit.record(action, actor=by, target=Target("change", str(request.pk)), details={**about, **details})
