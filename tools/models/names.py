"""What names of tools, roles, servers, credentials and policies may look like."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator

DELEGATION_PREFIX = "delegate_to_"
"""Tools of these names hand tasks to remote agents; they are not in the registry."""
TOOL_NAME_PATTERN = r"^[a-zA-Z0-9_-]{1,64}$"
ROLE_NAME_PATTERN = r"^[a-zA-Z0-9_.:-]{1,64}$"
SERVER_NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,39}$"
CREDENTIAL_NAME_PATTERN = r"^[A-Z][A-Z0-9_]{0,127}$"
POLICY_NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"

tool_name = RegexValidator(TOOL_NAME_PATTERN, "1 to 64 letters, digits, underscores and hyphens.")
role_name = RegexValidator(ROLE_NAME_PATTERN, "1 to 64 letters, digits and . _ : -")
server_name = RegexValidator(SERVER_NAME_PATTERN, "1 to 40 small letters, digits, underscores and hyphens.")
credential_name = RegexValidator(CREDENTIAL_NAME_PATTERN, "Capital letters, digits and underscores, like API_KEY.")
policy_name = RegexValidator(POLICY_NAME_PATTERN, "1 to 64 small letters, digits, underscores and hyphens.")


def no_delegation(name: str) -> None:
    """Raise ValidationError for a name that calls a remote agent instead of a tool."""
    if name.startswith(DELEGATION_PREFIX):
        raise ValidationError(f"Names that begin with {DELEGATION_PREFIX} are those of delegations to remote agents.")
