"""The search language of the audit list: `actor:… action:tool.denied -outcome:success after:2026-01-31 …`.

Every term becomes a condition that an index of `audit_events` answers. A word without a field is looked for
as an exact identifier or code. Values with spaces stand in double quotes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from django.conf import settings
from django.db.models import Q
from django.utils.dateparse import parse_date, parse_datetime
from django.utils.module_loading import import_string

from agentbackend.foundation.identifiers import uuid7_floor
from audit import actions
from audit.entry import Outcome

MAX_TERMS = 16
_TERM = re.compile(r'(?P<minus>-?)(?:(?P<field>[A-Za-z_]+):)?(?:"(?P<quoted>[^"]*)"|(?P<plain>\S+))')


class SearchError(ValueError):
    """The search cannot be understood; the message says why, for the person who wrote it."""


def condition(text: str) -> Q:
    """What a search asks for; raises SearchError."""
    found = Q()
    terms = list(_TERM.finditer(text.replace("\0", "")))
    if len(terms) > MAX_TERMS:
        raise SearchError(f"A search has at most {MAX_TERMS} terms.")
    for term in terms:
        value = term["quoted"] if term["quoted"] is not None else term["plain"]
        found &= _term(term["field"], value, excluded=bool(term["minus"]))
    return found


def _term(field: str | None, value: str, *, excluded: bool) -> Q:
    if field is None:
        if excluded:
            raise SearchError(f"Say in which field {value!r} must not be: -action:{value}, -actor:{value}, …")
        return _anywhere(value)
    name = field.lower()
    if name not in _FIELDS:
        raise SearchError(f"There is no field {field!r}. Fields: {', '.join(f'{known}:' for known in _FIELDS)}")
    if excluded and name == "outcome":
        return Q(outcome__in=[other.value for other in Outcome if other is not _outcome(value)])
    if excluded and name not in _EXCLUDABLE:
        raise SearchError(f"{name}: cannot be excluded; these can: {', '.join(sorted(_EXCLUDABLE))}, outcome")
    return ~_FIELDS[name](value) if excluded else _FIELDS[name](value)


def _anywhere(value: str) -> Q:
    """An identifier or a code, wherever it stands."""
    found = Q(actor_id=value) | Q(action=value) | Q(target_id=value) | Q(request_id=value) | Q(reason=value)
    for column in ("run_id", "thread_id"):
        if identifiers := _ids(column, value):
            found |= Q(**{f"{column}__in": identifiers})
    identifier = _uuid_or_none(value)
    return found if identifier is None else found | Q(id=identifier) | Q(subject_id=value)


def _action(value: str) -> Q:
    if not value.endswith("*"):
        return Q(action=value)
    known = [action for action in actions.ALL if action.startswith(value[:-1])]
    if not known:
        raise SearchError(f"No action begins with {value[:-1]!r}.")
    return Q(action__in=known)


def _outcome(value: str) -> Outcome:
    try:
        return Outcome(value.lower())
    except ValueError as error:
        raise SearchError(f"outcome: is one of {', '.join(Outcome)}, not {value!r}.") from error


def _target(value: str) -> Q:
    """`target:<id>` or `target:<kind>/<id>`."""
    kind, slash, identifier = value.partition("/")
    whole = Q(target_id=value)
    return whole | Q(target_kind=kind, target_id=identifier) if slash else whole


def _identifier(column: str) -> Callable[[str], Q]:
    def matches(value: str) -> Q:
        found = _ids(column, value)
        if not found:
            raise SearchError(f"{value!r} is not an identifier: a UUID is expected, or the id that callers know.")
        return Q(**{f"{column}__in": found})

    return matches


def _ids(column: str, value: str) -> list[UUID]:
    """The identifiers that a value stands for: itself, and what those who own such things know by it (AUDIT_PUBLIC_IDS)."""
    own = _uuid_or_none(value)
    resolver = getattr(settings, "AUDIT_PUBLIC_IDS", {}).get(column)
    named = import_string(resolver)(value) if resolver else []
    return [*([own] if own is not None else []), *named]


def _text(column: str) -> Callable[[str], Q]:
    return lambda value: Q(**{column: value})


def _after(value: str) -> Q:
    return Q(id__gte=_bound(value))


def _before(value: str) -> Q:
    return Q(id__lt=_bound(value))


def _bound(value: str) -> UUID:
    """A date, a date and time (UTC unless it says otherwise) or the id of an event, as a place in the order
    of ids.
    """
    identifier = _uuid_or_none(value)
    if identifier is not None:
        return identifier
    try:
        return uuid7_floor(_moment(value))
    except (ValueError, OverflowError) as error:
        raise SearchError(f"{value!r} is not a time: write 2026-01-31 or 2026-01-31T09:05.") from error


def _moment(value: str) -> datetime:
    moment = parse_datetime(value.replace("Z", "+00:00"))
    day = parse_date(value) if moment is None else None
    if day is not None:
        moment = datetime(day.year, day.month, day.day)
    if moment is None or moment.year < 1970:
        raise ValueError(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _uuid_or_none(value: str) -> UUID | None:
    try:
        return UUID(value)
    except ValueError:
        return None


_FIELDS: dict[str, Callable[[str], Q]] = {
    "actor": _text("actor_id"),
    "action": _action,
    "outcome": lambda value: Q(outcome=_outcome(value).value),
    "reason": _text("reason"),
    "run": _identifier("run_id"),
    "thread": _identifier("thread_id"),
    "request": _text("request_id"),
    "target": _target,
    "subject": _text("subject_id"),
    "id": _identifier("id"),
    "after": _after,
    "before": _before,
}
_EXCLUDABLE = frozenset({"actor", "action", "reason", "target"})
