"""The console's pages of this room. Django's admin finds them here."""

from tools.admin import notes, registry, remote_servers, roles

__all__ = ["notes", "registry", "remote_servers", "roles"]
