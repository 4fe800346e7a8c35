"""Identifiers: UUIDv7 (RFC 9562, section 5.7) and the limits of identifiers that callers choose."""

from __future__ import annotations

import re
import secrets
import threading
import time
from datetime import UTC, datetime
from uuid import UUID

_PUBLIC_ID = re.compile(r"[\x21-\x7e]{1,128}")
_LOWER_CASE_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


_counter_lock = threading.Lock()
_last_tick = 0


def uuid7(at_ms: int | None = None) -> UUID:
    """A time-ordered UUID: 48 bits of Unix milliseconds, 12 bits of the millisecond's fraction, 62 random bits.

    The fraction (RFC 9562, section 6.2, method 3) never repeats within a process, so its ids sort in the order of their making.
    `at_ms` sets the time (Unix milliseconds) for rows that are made for another moment.
    """
    global _last_tick
    if at_ms is not None:
        return UUID(int=at_ms << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62))
    now = time.time_ns()
    tick = now // 1_000_000 << 12 | (now % 1_000_000 << 12) // 1_000_000
    with _counter_lock:
        _last_tick = tick = max(tick, _last_tick + 1)
    return UUID(int=(tick >> 12) << 80 | 0x7 << 76 | (tick & 0xFFF) << 64 | 0b10 << 62 | secrets.randbits(62))


def uuid7_floor(at: datetime) -> UUID:
    """The smallest UUIDv7 of a moment: the bound of a partition or of a time range."""
    return UUID(int=int(at.timestamp() * 1000) << 80)


def uuid7_time(identifier: UUID) -> datetime:
    """The moment (UTC, milliseconds) that a UUIDv7 carries."""
    return datetime.fromtimestamp((identifier.int >> 80) / 1000, tz=UTC)


def is_public_id(value: str) -> bool:
    """Whether a thread or run id that a caller chose can stand in a URL, a header and an SSE id: 1-128 visible ASCII."""
    return _PUBLIC_ID.fullmatch(value) is not None


def is_user_id(value: str) -> bool:
    """Whether this is a user id as Supabase writes it: a UUID in lower case."""
    return _LOWER_CASE_UUID.fullmatch(value) is not None
