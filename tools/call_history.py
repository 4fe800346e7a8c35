"""What was called lately, from the audit trail: a tool's last calls, and figures of them.

Everything is read through the index on targets, newest first and never further than a limit, which the figures name. Times and
codes stand in the envelope or are numbers; what was said in a call (messages, arguments) is read only where the caller says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from math import ceil
from typing import Any, Final
from uuid import UUID

import orjson
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from agentbackend.foundation.identifiers import uuid7_floor
from audit import actions

LAST_CALLS: Final = 20
MOST_FIGURED: Final = 1_000
MOST_COUNTED: Final = 10_000
DAYS: Final = 7
TIMEOUT_MS: Final = 5_000

_ENDED = [actions.TOOL_CALLED, actions.TOOL_FAILED, actions.TOOL_DENIED]
_SHOWN = [*_ENDED, actions.TOOL_APPROVAL_ASKED]


class TooSlowError(Exception):
    """The audit trail did not answer in time."""


@dataclass(frozen=True, slots=True)
class PastCall:
    """One call. `message` and `origin` are empty where details are deleted, or not for the reader."""

    id: UUID
    at: datetime
    actor_id: str
    role: str
    action: str
    outcome: str
    reason: str
    run_id: UUID | None
    version: str
    duration_ms: float | None
    message: str
    origin: str


@dataclass(frozen=True, slots=True)
class Figures:
    """How calls went in a time; tests of the console are left out. `limited`: only the last MOST_FIGURED were looked at."""

    calls: int
    failed: int
    denied: int
    error_percent: float | None
    p50_ms: float | None
    p95_ms: float | None
    limited: bool


@dataclass(frozen=True, slots=True)
class Day:
    """Calls of one day (UTC)."""

    day: date
    called: int
    failed: int
    denied: int

    @property
    def calls(self) -> int:
        """All of them."""
        return self.called + self.failed + self.denied


@dataclass(frozen=True, slots=True)
class Days:
    """The last days, the newest first; `limited`: only the last MOST_COUNTED calls were counted."""

    days: list[Day]
    limited: bool


@dataclass(frozen=True, slots=True)
class CallHistory:
    """What the page of a tool's calls shows."""

    last: list[PastCall]
    last_day: Figures
    last_week: Figures
    by_day: Days


def history_of(tool: str, *, with_details: bool, now: datetime | None = None) -> CallHistory:
    """The calls of a tool of this name: three queries. Raises TooSlowError."""
    moment = now or timezone.now()
    since = moment - timedelta(days=DAYS)
    with _in_time():
        ended = _rows(_FIGURES, [tool, _ENDED, uuid7_floor(since), MOST_FIGURED + 1, uuid7_floor(since)])
        return CallHistory(
            last=_last_calls(tool, with_details=with_details),
            last_day=_figures(ended, moment - timedelta(hours=24)),
            last_week=_figures(ended, since),
            by_day=_days(tool, moment),
        )


def _last_calls(tool: str, *, with_details: bool) -> list[PastCall]:
    return [_past_call(row) for row in _rows(_LAST, [with_details, tool, _SHOWN, LAST_CALLS])]


def _past_call(row: tuple[Any, ...]) -> PastCall:
    identifier, at, actor_id, action, outcome, reason, run_id, envelope, duration, body = row
    said = orjson.loads(envelope)
    details = orjson.loads(body) if body is not None else {}
    return PastCall(
        id=identifier,
        at=at,
        actor_id=actor_id,
        role=said["actor_role"],
        action=action,
        outcome=outcome,
        reason=reason,
        run_id=run_id,
        version=_version(said["policy_version"]),
        duration_ms=duration,
        message=str(details.get("message", "")),
        origin=str(details.get("origin", "")),
    )


def _version(policy_version: str) -> str:
    """The number in `name:number:digest`."""
    parts = policy_version.rsplit(":", 2)
    return parts[1] if len(parts) == 3 else ""


def _figures(rows: list[tuple[Any, ...]], since: datetime) -> Figures:
    """Of the newest MOST_FIGURED rows (one more says that there are others), those since then."""
    counted = [row for row in rows[:MOST_FIGURED] if row[0] >= since]
    by_action = {action: sum(1 for row in counted if row[1] == action) for action in _ENDED}
    carried_out = by_action[actions.TOOL_CALLED] + by_action[actions.TOOL_FAILED]
    durations = sorted(row[2] for row in counted if row[2] is not None)
    return Figures(
        calls=len(counted),
        failed=by_action[actions.TOOL_FAILED],
        denied=by_action[actions.TOOL_DENIED],
        error_percent=100 * by_action[actions.TOOL_FAILED] / carried_out if carried_out else None,
        p50_ms=_percentile(durations, 0.50),
        p95_ms=_percentile(durations, 0.95),
        limited=len(rows) > MOST_FIGURED and rows[MOST_FIGURED - 1][0] >= since,
    )


def _percentile(ascending: list[float], share: float) -> float | None:
    """The nearest rank: a value that was measured."""
    return ascending[max(0, ceil(share * len(ascending)) - 1)] if ascending else None


def _days(tool: str, moment: datetime) -> Days:
    first = moment.date() - timedelta(days=DAYS - 1)
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=DAYS - 1)
    rows = _rows(_BY_DAY, [tool, _ENDED, uuid7_floor(midnight), MOST_COUNTED + 1])
    counts = {(day, action): number for day, action, number in rows}
    days = [first + timedelta(days=offset) for offset in reversed(range(DAYS))]
    return Days(
        days=[Day(day, *(counts.get((day, action), 0) for action in _ENDED)) for day in days],
        limited=sum(counts.values()) > MOST_COUNTED,
    )


@contextmanager
def _in_time() -> Iterator[None]:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = {TIMEOUT_MS}")
            yield
            cursor.execute("SET LOCAL statement_timeout = DEFAULT")
    except OperationalError as error:
        raise TooSlowError("The audit trail did not answer in time.") from error


def _rows(query: str, parameters: list[Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return list(cursor.fetchall())


# `json`, not `jsonb`: it is read as text, and only the one number is taken from it.
_DURATION = "(convert_from(payload.body, 'UTF8')::json ->> 'duration_ms')::float8"
_LAST = f"""
SELECT event.*, {_DURATION}, CASE WHEN %s THEN payload.body END
FROM (
    SELECT id, recorded_at, actor_id, action, outcome, reason, run_id, envelope
    FROM audit_events
    WHERE target_id = %s AND target_kind = 'tool' AND action = ANY(%s)
    ORDER BY id DESC LIMIT %s
) AS event LEFT JOIN audit_payload AS payload ON payload.event_id = event.id
ORDER BY event.id DESC
"""  # noqa: S608 - constants
_FIGURES = f"""
SELECT event.recorded_at, event.action, {_DURATION}
FROM (
    SELECT id, recorded_at, action
    FROM audit_events
    WHERE target_id = %s AND target_kind = 'tool' AND action = ANY(%s) AND id >= %s AND actor_id NOT LIKE 'console:%%'
    ORDER BY id DESC LIMIT %s
) AS event LEFT JOIN audit_payload AS payload ON payload.event_id = event.id AND payload.event_id >= %s
ORDER BY event.id DESC
"""  # noqa: S608 - constants
_BY_DAY = """
SELECT (event.recorded_at AT TIME ZONE 'UTC')::date, event.action, count(*)
FROM (
    SELECT recorded_at, action
    FROM audit_events
    WHERE target_id = %s AND target_kind = 'tool' AND action = ANY(%s) AND id >= %s AND actor_id NOT LIKE 'console:%%'
    ORDER BY id DESC LIMIT %s
) AS event
GROUP BY 1, 2
"""
