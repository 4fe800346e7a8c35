"""The registry as tables. Each module holds the tables of one matter; all are reached as `tools.models.<Name>`."""

from tools.models.budgets import Budget, BudgetReservation, BudgetUse
from tools.models.change_requests import ChangeRequest
from tools.models.guardrails import GuardrailPolicy, GuardrailPolicyVersion
from tools.models.names import (
    CREDENTIAL_NAME_PATTERN,
    POLICY_NAME_PATTERN,
    ROLE_NAME_PATTERN,
    SERVER_NAME_PATTERN,
    TOOL_NAME_PATTERN,
)
from tools.models.registry import HandlerType, RegistryRevision, Tool, ToolVersion
from tools.models.remote_servers import RemoteServer, RemoteServerHealth, RemoteTool
from tools.models.roles import ArgumentRule, CallerRole, DenyRule
from tools.models.vault import StoredCredential
from tools.notes import Note

__all__ = [
    "CREDENTIAL_NAME_PATTERN",
    "POLICY_NAME_PATTERN",
    "ROLE_NAME_PATTERN",
    "SERVER_NAME_PATTERN",
    "TOOL_NAME_PATTERN",
    "ArgumentRule",
    "Budget",
    "BudgetReservation",
    "BudgetUse",
    "CallerRole",
    "ChangeRequest",
    "DenyRule",
    "GuardrailPolicy",
    "GuardrailPolicyVersion",
    "HandlerType",
    "Note",
    "RegistryRevision",
    "RemoteServer",
    "RemoteServerHealth",
    "RemoteTool",
    "StoredCredential",
    "Tool",
    "ToolVersion",
]
