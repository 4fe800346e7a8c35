"""The identifiers that callers know, for those who search by them: the audit trail holds our own."""

from __future__ import annotations

from uuid import UUID

from orchestration.models import Run, Thread

MOST = 50
"""A run's public id is unique for its owner only: several owners may have used the same."""


def runs_named(public_id: str) -> list[UUID]:
    """Our ids of the runs that callers know by this one."""
    return list(Run.objects.filter(public_id=public_id).values_list("id", flat=True)[:MOST])


def threads_named(public_id: str) -> list[UUID]:
    """Our ids of the threads that callers know by this one."""
    return list(Thread.objects.filter(public_id=public_id).values_list("id", flat=True)[:MOST])
