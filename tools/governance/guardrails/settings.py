"""Whether a policy's settings can be used: what a person who writes one is told, field by field."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from tools.governance.guardrails.policy import Action, PolicyKind, Stage


def check_settings(
    kind: PolicyKind, stages: Set[Stage], action: Action, settings: Mapping[str, Any]
) -> dict[str, list[str]]:
    """The problems by field (`stages`, `action`, or a key of the settings); empty when the policy can be used."""
    return {}
