"""The console's pages of this room. Django's admin finds them here."""

from orchestration.admin import agents, interrupts, runs, tasks, threads

__all__ = ["agents", "interrupts", "runs", "tasks", "threads"]
