"""The console's pages of this room. Django's admin finds them here."""

from a2a.admin import remote_agents

__all__ = ["remote_agents"]
