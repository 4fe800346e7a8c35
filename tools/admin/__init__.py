"""The console's pages of this room. Django's admin finds them here."""

from tools.admin import changes, credentials, notes, registry, remote_servers, roles

__all__ = ["changes", "credentials", "notes", "registry", "remote_servers", "roles"]
