"""Policies for tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tools.governance.guardrails.policy import Action, Policy, PolicyKind, Stage


def policy(
    kind: str, settings: Mapping[str, Any], action: Action = Action.BLOCK, *, stages: Iterable[Stage] | None = None
) -> Policy:
    """A policy named after its kind; for every stage that its kind can have, if none is given."""
    if stages is None:
        stages = Stage
    return Policy(kind, 1, "d" * 64, PolicyKind(kind), frozenset(stages), action, settings)
