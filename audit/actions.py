"""The names of what is recorded: one constant an action, `<subject>.<what happened>`, never renamed once
written.

The audit trail outlives the code: a name that is no longer used stays here, so that old rows keep their
meaning.
"""

from __future__ import annotations

from typing import Final

# who is there
AUTHENTICATION_ACCEPTED: Final = "authentication.accepted"
AUTHENTICATION_REFUSED: Final = "authentication.refused"

# a request for a run
REQUEST_OPENED: Final = "request.opened"
REQUEST_REFUSED: Final = "request.refused"
REQUEST_REPLAYED: Final = "request.replayed"
REQUEST_CLIENT_GONE: Final = "request.client_gone"

# a run
RUN_STARTED: Final = "run.started"
RUN_FINISHED: Final = "run.finished"
RUN_FAILED: Final = "run.failed"
RUN_CANCELLED: Final = "run.cancelled"
RUN_INTERRUPTED: Final = "run.interrupted"
RUN_RECOVERED: Final = "run.recovered"
MODEL_TURN: Final = "model.turn"

THREAD_CHANGED: Final = "thread.changed"
THREAD_DELETED: Final = "thread.deleted"
INTERRUPT_DECIDED: Final = "interrupt.decided"
APPROVAL_ASKED: Final = "approval.asked"
APPROVAL_GRANTED: Final = "approval.granted"
APPROVAL_DENIED: Final = "approval.denied"
APPROVAL_WITHDRAWN: Final = "approval.withdrawn"
APPROVAL_EXPIRED: Final = "approval.expired"
AGENT_CHANGED: Final = "agent.changed"

# a tool call
TOOL_ALLOWED: Final = "tool.allowed"
TOOL_DENIED: Final = "tool.denied"
TOOL_CALLED: Final = "tool.called"
TOOL_FAILED: Final = "tool.failed"
TOOL_APPROVAL_ASKED: Final = "tool.approval_asked"

# what a guardrail policy found
GUARDRAIL_VIOLATION: Final = "guardrail.violation"
GUARDRAIL_FOUND: Final = "guardrail.found"

# a task that is handed to another agent
DELEGATION_ALLOWED: Final = "delegation.allowed"
DELEGATION_DENIED: Final = "delegation.denied"
DELEGATION_FINISHED: Final = "delegation.finished"
DELEGATION_FAILED: Final = "delegation.failed"

# budgets, models and prices
BUDGET_REFUSED: Final = "budget.refused"
BUDGET_CHANGED: Final = "budget.changed"
MODEL_PROVIDER_CHANGED: Final = "model_provider.changed"
MODEL_PRICE_CHANGED: Final = "model_price.changed"

# the tool registry
TOOL_PUBLISHED: Final = "tool.published"
TOOL_ENABLED: Final = "tool.enabled"
TOOL_DISABLED: Final = "tool.disabled"
TOOL_DESCRIBED: Final = "tool.described"
ROLE_CHANGED: Final = "role.changed"
RULE_CHANGED: Final = "rule.changed"
REMOTE_SERVER_CHANGED: Final = "remote_server.changed"
REMOTE_SERVER_DISCOVERED: Final = "remote_server.discovered"
REMOTE_TOOL_IMPORTED: Final = "remote_tool.imported"
REMOTE_TOOL_QUARANTINED: Final = "remote_tool.quarantined"
REMOTE_TOOL_ACCEPTED: Final = "remote_tool.accepted"
REMOTE_TOOL_KEPT: Final = "remote_tool.kept"
REMOTE_AGENT_CHANGED: Final = "remote_agent.changed"
REMOTE_AGENT_DISCOVERED: Final = "remote_agent.discovered"
REMOTE_AGENT_QUARANTINED: Final = "remote_agent.quarantined"
GUARDRAIL_CHANGED: Final = "guardrail.changed"
CREDENTIAL_SET: Final = "credential.set"
CREDENTIAL_REMOVED: Final = "credential.removed"
CREDENTIAL_ROTATED: Final = "credential.rotated"
OPENAPI_IMPORTED: Final = "openapi.imported"
CONFIGURATION_APPLIED: Final = "configuration.applied"

# a change that needs a second person
CHANGE_PROPOSED: Final = "change.proposed"
CHANGE_APPROVED: Final = "change.approved"
CHANGE_REFUSED: Final = "change.refused"
CHANGE_WITHDRAWN: Final = "change.withdrawn"
CHANGE_OUTDATED: Final = "change.outdated"

# retention
EVENTS_EXPIRED: Final = "retention.events_expired"

# an error that a caller was shown
ERROR_SHOWN: Final = "error.shown"

# the console
CONSOLE_SIGNED_IN: Final = "console.signed_in"
CONSOLE_SIGN_IN_FAILED: Final = "console.sign_in_failed"
CONSOLE_SIGNED_OUT: Final = "console.signed_out"
CONSOLE_ADDED: Final = "console.added"
CONSOLE_CHANGED: Final = "console.changed"
CONSOLE_DELETED: Final = "console.deleted"
CONSOLE_VIEWED: Final = "console.viewed"

ALL: Final[tuple[str, ...]] = tuple(
    sorted(value for name, value in list(globals().items()) if name.isupper() and isinstance(value, str))
)
"""Every action that this version writes, for filters and for the test that the documentation lists them."""
