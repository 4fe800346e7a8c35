"""The console's pages of this room. Django's admin finds them here."""

from orchestration.admin import agents, runs, threads

__all__ = ["agents", "runs", "threads"]
