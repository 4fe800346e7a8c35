"""What guardrail policies found, as it is counted and recorded: by policy, version, stage and category, the text masked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from agentbackend.foundation import metrics
from audit import actions
from audit.entry import AuditEntry, Outcome, entry
from tools.governance.guardrails.policy import Action, Finding

MOST_IN_ONE_ENTRY: Final = 20


def as_details(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """As the audit trail and tools' results carry them; excerpts are masked by the engine."""
    return [
        {
            "policy": finding.policy.name,
            "version": finding.policy.version,
            "stage": finding.stage.value,
            "action": finding.policy.action.value,
            "category": finding.category,
            "excerpt": finding.excerpt,
        }
        for finding in findings[:MOST_IN_ONE_ENTRY]
    ]


def blocking(findings: Iterable[Finding]) -> Finding | None:
    """The first that lets nothing pass."""
    return _first(findings, Action.BLOCK)


def asking(findings: Iterable[Finding]) -> tuple[str, ...]:
    """The versions of the policies that want a person's word, as the audit trail names them."""
    return tuple(dict.fromkeys(found.policy.policy_version for found in findings if found.policy.action is Action.ASK))


def has_redacted(findings: Iterable[Finding]) -> bool:
    """Whether the text was changed."""
    return _first(findings, Action.REDACT) is not None


def has_warned(findings: Iterable[Finding]) -> bool:
    """Whether the text is to be taken with care."""
    return _first(findings, Action.WARN) is not None


def count(findings: Iterable[Finding]) -> None:
    """Count them in the metrics."""
    for finding in findings:
        policy = finding.policy
        metrics.guardrail_findings.labels(
            policy=policy.name, stage=finding.stage.value, action=policy.action.value
        ).inc()


def entries(findings: Iterable[Finding], **common: Any) -> list[AuditEntry]:
    """One audit entry for each policy and stage: `guardrail.violation` where it blocked, else `guardrail.found`.

    `common`: what else `audit.entry.entry` is to be told; `details` are added to each.
    """
    about = common.pop("details", {})
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.policy.policy_version, finding.stage.value), []).append(finding)
    return [_entry(version, found, about, common) for (version, _), found in groups.items()]


def _entry(version: str, found: list[Finding], about: dict[str, Any], common: dict[str, Any]) -> AuditEntry:
    blocks = found[0].policy.action is Action.BLOCK
    return entry(
        actions.GUARDRAIL_VIOLATION if blocks else actions.GUARDRAIL_FOUND,
        outcome=Outcome.DENIED if blocks else Outcome.SUCCESS,
        reason=found[0].stage.value,
        policy_version=version,
        details={**about, "findings": as_details(found), "count": len(found)},
        **common,
    )


def _first(findings: Iterable[Finding], action: Action) -> Finding | None:
    return next((finding for finding in findings if finding.policy.action is action), None)
