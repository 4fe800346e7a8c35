"""Identifiers: UUIDv7 (RFC 9562, section 5.7) and the limits of identifiers that callers choose."""

from __future__ import annotations

import re
import secrets
import time
from datetime import UTC, datetime
from uuid import UUID

_PUBLIC_ID = re.compile(r"[\x21-\x7e]{1,128}")
_LOWER_CASE_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def uuid7(at_ms: int | None = None) -> UUID:
    """A time-ordered UUID: 48 bits of Unix milliseconds, then 74 random bits.

    `at_ms` sets the time (Unix milliseconds) for rows that are made for another moment.
    """
    milliseconds = time.time_ns() // 1_000_000 if at_ms is None else at_ms
    random_bits = secrets.randbits(74)
    value = milliseconds << 80 | 0x7 << 76 | (random_bits >> 62) << 64 | 0b10 << 62 | random_bits & (1 << 62) - 1
    return UUID(int=value)


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
