"""The console's pages of this room. Django's admin finds them here."""

from tools.admin import budgets, changes, credentials, guardrails, notes, registry, remote_servers, roles

__all__ = ["budgets", "changes", "credentials", "guardrails", "notes", "registry", "remote_servers", "roles"]
