"""Refusals of strangers, counted: whoever hammers at the door must not be able to fill the audit trail.

The first refusal of a source for a reason in a minute is recorded at once; the others of that minute become
one row with their number when the minute is over. Sources are remembered up to a bound; beyond it they
share one bucket a reason, so an attack from many addresses is one row a minute, too.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from audit.actions import AUTHENTICATION_REFUSED
from audit.actor import Actor
from audit.entry import AuditEntry, Outcome, entry
from audit.pseudonyms import stranger

MINUTE = 60
MAX_SOURCES = 1000

MANY_STRANGERS = Actor(id="many", kind="stranger", role="stranger")
"""The actor of refusals that are no longer told apart by source."""


@dataclass(slots=True)
class _Bucket:
    minute: int
    uncounted: int = 0
    last_request_id: str = ""


class RefusalCounter:
    """Counts refusals by source, reason and minute and hands entries to `record`.

    Not thread-safe: used from one event loop, or under a lock. `record` must not block; `clock` gives Unix
    seconds.
    """

    def __init__(
        self,
        record: Callable[[AuditEntry], None],
        *,
        action: str = AUTHENTICATION_REFUSED,
        max_sources: int = MAX_SOURCES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._record = record
        self._action = action
        self._max_sources = max_sources
        self._clock = clock
        self._buckets: dict[tuple[Actor, str], _Bucket] = {}
        self._minute = 0

    def refused(self, source: str, reason: str, request_id: str = "") -> None:
        """Count a refusal; `source` is a network address (kept as a keyed digest only), `reason` a code."""
        now = self._clock()
        self.flush(now)
        key = (stranger(source), reason)
        if key not in self._buckets and len(self._buckets) >= self._max_sources:
            key = (MANY_STRANGERS, reason)
        bucket = self._buckets.get(key)
        if bucket is None:
            self._buckets[key] = _Bucket(int(now // MINUTE))
            self._record(self._entry(*key, request_id))
            return
        bucket.uncounted += 1
        bucket.last_request_id = request_id

    def flush(self, now: float | None = None) -> None:
        """Record the counts of minutes that are over at `now` (Unix seconds; default: the clock's)."""
        minute = (self._clock() if now is None else now) // MINUTE
        if minute <= self._minute:
            return
        self._minute = int(minute) if math.isfinite(minute) else 0
        over, self._buckets = self._buckets, {}
        for (actor, reason), bucket in over.items():
            if bucket.uncounted:
                self._record(self._entry(actor, reason, bucket.last_request_id, bucket))

    def flush_all(self) -> None:
        """Record every count at once: at the end of the process."""
        self.flush(math.inf)

    async def run(self) -> None:
        """Flush at the end of each minute until cancelled, and everything then."""
        try:
            while True:
                await asyncio.sleep(MINUTE - self._clock() % MINUTE + 0.05)
                self.flush()
        finally:
            self.flush_all()

    def _entry(self, actor: Actor, reason: str, request_id: str, bucket: _Bucket | None = None) -> AuditEntry:
        details = {"further_refusals": bucket.uncounted, "minute": bucket.minute * MINUTE} if bucket else None
        return entry(
            self._action,
            actor=actor,
            outcome=Outcome.DENIED,
            reason=reason,
            request_id=request_id,
            details=details,
        )
