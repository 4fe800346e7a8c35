"""Guardrails of a person's answer: the reason is a user's words, and edited arguments are a call's, before either is kept or shown.

A reason never keeps an answer from counting: where a policy blocks it, it is withheld. Edited arguments that a policy blocks are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from agentbackend.foundation.problems import Problem
from orchestration.answers import MAX_REASON, Answer
from orchestration.run_input import ResumeEntry
from tools.governance import findings as of_findings
from tools.governance.guardrails.policy import Action, Finding, Stage
from tools.governance.screens import Screen

_OF_REASONS: Final = (Stage.USER_INPUT, Stage.OUTPUT)  # it is told to the model, and shown to whoever reads the run
_OF_ARGUMENTS: Final = (Stage.OUTPUT, Stage.TOOL_ARGUMENTS)  # as those that a model writes


async def screen_answer(screen: Screen, answer: Answer, *, field: str) -> tuple[Answer, tuple[Finding, ...]]:
    """The answer as it may be kept, and what was found; raises Problem `invalid_input` for edited arguments that a policy blocks."""
    document, found = await _screened(screen, answer.as_document(), field)
    return Answer.stored(document), found


async def screen_resume(screen: Screen, resume: Sequence[ResumeEntry]) -> tuple[list[ResumeEntry], tuple[Finding, ...]]:
    """The same for the answers of a run's `resume`; what cannot be read is left to who reads it."""
    screened: list[ResumeEntry] = []
    findings: tuple[Finding, ...] = ()
    for entry in resume:
        field = f"resume[{entry.interrupt_id}].payload.editedArgs"
        payload, found = await _screened(screen, entry.payload, field)
        screened.append(ResumeEntry(entry.interrupt_id, entry.status, payload))
        findings += found
    return screened, findings


async def _screened(screen: Screen, document: Any, field: str) -> tuple[Any, tuple[Finding, ...]]:
    if not isinstance(document, dict):
        return document, ()
    changed: dict[str, Any] = dict(document)
    findings: list[Finding] = []
    reason, edited = document.get("reason"), document.get("editedArgs")
    if isinstance(reason, str) and len(reason) <= MAX_REASON:
        changed["reason"] = await _reason(screen, reason, findings)
    if isinstance(edited, dict):
        changed["editedArgs"] = await _arguments(screen, edited, field, findings)
    return changed, tuple(findings)


async def _reason(screen: Screen, reason: str, findings: list[Finding]) -> str:
    for stage in _OF_REASONS:
        checked = await screen.check(stage, reason)
        findings += checked.findings
        if checked.blocked is not None:
            return f"[withheld by the guardrail policy {checked.blocked.policy.name}]"
        reason = checked.text[:MAX_REASON]
    return reason


async def _arguments(screen: Screen, edited: dict[str, Any], field: str, findings: list[Finding]) -> dict[str, Any]:
    for stage in _OF_ARGUMENTS:
        value, found = await screen.check_json(stage, edited)
        blocked = of_findings.blocking(found)
        if blocked is not None:
            about = f"The guardrail policy {blocked.policy.name} does not allow them ({blocked.category})."
            raise Problem("invalid_input", f"A call with these arguments cannot be made. {about}", field=field)
        # what warns or asks in arguments the door finds once more
        findings += [f for f in found if stage is Stage.OUTPUT or f.policy.action is Action.REDACT]
        edited = value if of_findings.has_redacted(found) else edited
    return edited
