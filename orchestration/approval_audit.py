"""What the audit trail keeps of approvals: what was asked, who decided what, and to what the decision is bound."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from audit import actions
from audit.actor import Actor
from audit.entry import AuditEntry, Target, entry
from orchestration.interrupts import Decision, Question, Verdict
from tools.calls import ToolCall
from tools.governance.approvals import Binding

ACTIONS = {
    Verdict.APPROVED: actions.APPROVAL_GRANTED,
    Verdict.DENIED: actions.APPROVAL_DENIED,
    Verdict.WITHDRAWN: actions.APPROVAL_WITHDRAWN,
    Verdict.EXPIRED: actions.APPROVAL_EXPIRED,
}


def asked_entry(question: Question, *, actor: Actor, **common: Any) -> AuditEntry:
    """That a run ended with this question; `common`: ids of run, thread, request and trace."""
    binding = question.request.binding if question.request else None
    details = {
        "question": question.kind.value,
        "decider": question.decider.value,
        "approver_role": question.approver_role,
        "expires_at": question.expires_at.isoformat() if question.expires_at else None,
        "because": question.request.because if question.request else "",
        **_about(question.call, binding),
    }
    return entry(
        actions.APPROVAL_ASKED,
        actor=actor,
        target=Target("interrupt", str(question.id)),
        reason=question.kind.value,
        policy_version=_policy_version(binding),
        details=details,
        **common,
    )


def decided_entry(decision: Decision, *, actor: Actor, asker_id: str, **common: Any) -> AuditEntry:
    """That this was decided, by `actor`, about a call that `asker_id` had asked for."""
    return entry(
        ACTIONS[decision.verdict],
        actor=actor,
        target=Target("interrupt", decision.interrupt_id),
        subject_id="" if asker_id == actor.id else asker_id,
        reason=reason_code(decision),
        policy_version=_policy_version(decision.binding),
        details=decision_details(decision),
        **common,
    )


def reason_code(decision: Decision) -> str:
    """`approved` or `edited`, `denied`, `withdrawn`, `expired`."""
    return "edited" if decision.is_edited_now else decision.verdict.value


def decision_details(decision: Decision) -> dict[str, Any]:
    """What is kept of a decision beside who made it."""
    edited = {"original_arguments": decision.original} if decision.is_edited_now else {}
    about = _about(decision.call, decision.binding)
    return {"question": decision.kind.value, "explanation": decision.reason, **about, **edited}


def _about(call: ToolCall, binding: Binding | None) -> dict[str, Any]:
    return {
        "call_id": call.id,
        "tool": call.name,
        "arguments": call.arguments,
        "binding": binding.as_document() if binding else None,
    }


def _policy_version(binding: Binding | None) -> str:
    """The first of those that asked; all of them stand in the details."""
    return binding.policy_versions[0] if binding and binding.policy_versions else ""


def common_ids(run_id: UUID, thread_id: UUID, request_id: str = "", trace_id: str = "") -> dict[str, Any]:
    """The ids that entries about one run share."""
    return {"run_id": run_id, "thread_id": thread_id, "request_id": request_id, "trace_id": trace_id}
