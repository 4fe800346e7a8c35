"""A short memory of models that fail, one per process: the next runs try them last instead of each waiting its time out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

FAILURES_TO_OPEN: Final = 3
REMEMBERED_SECONDS: Final = 300.0
OPEN_SECONDS: Final = 30.0

_COUNTED: Final = frozenset(
    {
        "model_unavailable", "model_timeout", "model_rate_limited", "model_invalid_response", "model_stream_interrupted",
    }
)  # fmt: skip
"""What says something of the model rather than of one request."""


@dataclass(slots=True)
class _State:
    failures: int = 0
    last_code: str = ""
    last_at: float = 0.0
    open_until: float = 0.0


class Circuit:
    """Which models to try last for now. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._states: dict[str, _State] = {}

    def in_order(self, models: Sequence[str]) -> list[str]:
        """The models as they are to be tried: those that failed lately after the others, else as they came."""
        return sorted(dict.fromkeys(models), key=self.is_open)

    def is_open(self, model: str) -> bool:
        """Whether this model failed so often lately that others go first."""
        state = self._states.get(model)
        return state is not None and state.open_until > self._clock()

    def last_code(self, model: str) -> str:
        """The code of its last failure."""
        state = self._states.get(model)
        return state.last_code if state else ""

    def failed(self, model: str, code: str, retry_after: float | None = None) -> None:
        """Note a failure before the first byte. A provider that says when to come back is believed at once."""
        if code not in _COUNTED:
            return
        now = self._clock()
        state = self._states.setdefault(model, _State())
        if now - state.last_at > REMEMBERED_SECONDS:
            state.failures = 0
        state.failures += 1
        state.last_code, state.last_at = code, now
        if retry_after:
            state.open_until = max(state.open_until, now + min(retry_after, REMEMBERED_SECONDS))
        if state.failures >= FAILURES_TO_OPEN:
            state.open_until = max(state.open_until, now + OPEN_SECONDS)

    def answered(self, model: str) -> None:
        """It works: what was remembered is forgotten."""
        self._states.pop(model, None)


circuit = Circuit()
"""This process's."""
