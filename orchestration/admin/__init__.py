"""The console's pages of this room. Django's admin finds them here."""

from orchestration.admin import agents, interrupts, model_providers, runs, tasks, threads

__all__ = ["agents", "interrupts", "model_providers", "runs", "tasks", "threads"]
