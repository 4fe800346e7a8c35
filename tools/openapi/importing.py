"""Making tools of chosen operations: switched off, through the same door as every other change of the registry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction

import audit
from audit import actions
from audit.actor import Actor
from audit.entry import Target
from tools.changes import hold_registry, submit
from tools.documents import Document
from tools.models import ChangeRequest, Tool
from tools.openapi.operations import Operation


class Result(StrEnum):
    """What became of an operation."""

    CREATED = "created"
    PROPOSED = "proposed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Imported:
    """One operation, and what became of it."""

    operation: Operation
    result: Result
    message: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a document came from: its address without what may be secret, or a file's name; and the digest of its content."""

    name: str
    digest: str
    title: str = ""
    version: str = ""


def taken_names(names: Iterable[str]) -> frozenset[str]:
    """Those of the names that a tool has already, or that a proposal waits for."""
    wanted = list(names)
    proposed = ChangeRequest.objects.filter(kind="Tool", name__in=wanted, status=ChangeRequest.Status.PENDING)
    return frozenset(
        [*Tool.objects.filter(name__in=wanted).values_list("name", flat=True), *proposed.values_list("name", flat=True)]
    )


def import_operations(
    operations: Iterable[Operation], source: Source, *, by: Actor, reason: str = ""
) -> list[Imported]:
    """Create the tools, or propose them where changes of tools need a second person; one that fails stops no other.

    Nothing is created that is not recorded: all stands in one transaction with its audit entry.
    """
    note = reason or f"Imported from {source.name}"
    with transaction.atomic():
        hold_registry()
        done = [_import(operation, by=by, note=note[:500]) for operation in operations]
        audit.record(
            actions.OPENAPI_IMPORTED,
            actor=by,
            target=Target("openapi_document", source.digest),
            details=_details(source, done, reason),
        )
    return done


def _import(operation: Operation, *, by: Actor, note: str) -> Imported:
    if operation.spec is None:
        return Imported(operation, Result.FAILED, operation.problem)
    try:
        with transaction.atomic():
            if taken_names([operation.name]):
                return Imported(
                    operation, Result.FAILED, "There is a tool of this name already, or a proposal for one."
                )
            request = submit(Document("Tool", operation.name, operation.spec), by=by, reason=note)
    except ValidationError as error:
        return Imported(operation, Result.FAILED, " ".join(error.messages)[:600])
    return Imported(operation, Result.CREATED if request is None else Result.PROPOSED)


def _details(source: Source, done: list[Imported], reason: str) -> dict[str, Any]:
    by_result = {result.value: [item.operation.name for item in done if item.result is result] for result in Result}
    about = {"source": source.name, "title": source.title, "version": source.version, "reason": reason}
    return {**about, **{name: names for name, names in by_result.items() if names}}
