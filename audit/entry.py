"""An entry of the audit trail: the envelope that is kept for good, and the payload that can be deleted.

**Envelope v1**, permanent: a flat JSON object in canonical form with these fields, each always there, empty
where it does not apply: `version` (1), `id` (UUIDv7), `time` (RFC 3339, UTC, milliseconds: those of the
id), `tenant`, `actor_id`, `actor_kind`, `actor_role`, `authenticated_by`, `on_behalf_of`, `subject_id`,
`action`, `target_kind`, `target_id`, `outcome`, `reason`, `policy_version`, `run_id`, `thread_id`,
`request_id`, `trace_id`, `commitment` (hexadecimal HMAC-SHA256 of the payload, or empty).

It holds codes and identifiers, never an e-mail or free text. What the code chooses (action, reason, target
kind) is checked and refused with InvalidEntryError. What comes from outside (identifiers) is replaced by a
keyed digest when it does not fit: so a strange identifier never prevents a record, and equal ones stay
equal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from agentbackend.foundation.identifiers import uuid7, uuid7_time
from audit.actor import Actor
from audit.canonical import envelope_bytes
from audit.payload import pack
from audit.pseudonyms import pseudonym

ENVELOPE_VERSION = 1
MAX_IDENTIFIER_LENGTH = 128

_ACTION = re.compile(r"[a-z0-9_]{1,32}\.[a-z0-9_]{1,32}")
_CODE = re.compile(r"[a-z0-9_.:-]{0,64}")
# No white space, so no prose; no `@`, so no e-mail; no quotes or backslashes, so canonical JSON is plain.
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.:/+=~#-]{0,128}")


class InvalidEntryError(ValueError):
    """The code named an action, a reason or a target kind that the envelope cannot hold: a fault of the
    program.
    """


class Outcome(StrEnum):
    """How it ended: done, not allowed, or tried in vain."""

    SUCCESS = "success"
    DENIED = "denied"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Target:
    """What something was done to: a kind (`run`, `tool`, `tools.tool`) and its identifier."""

    kind: str
    id: str


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """An entry ready to be written: rows in the order of `audit.rows`; `payload_row` is None where there
    are no details.
    """

    id: UUID
    action: str
    outcome: Outcome
    envelope: bytes
    event_row: tuple[Any, ...] = field(repr=False)
    payload_row: tuple[Any, ...] | None = field(repr=False)


def entry(
    action: str,
    *,
    actor: Actor,
    outcome: Outcome = Outcome.SUCCESS,
    target: Target | None = None,
    subject_id: str = "",
    reason: str = "",
    policy_version: str = "",
    run_id: UUID | None = None,
    thread_id: UUID | None = None,
    request_id: str = "",
    trace_id: str = "",
    details: Mapping[str, Any] | None = None,
) -> AuditEntry:
    """Make an entry; nothing is written yet.

    `subject_id` is the pseudonymous id of the person whom it concerns (empty: nobody but the actor),
    `policy_version` that of the policy or tool that decided. `details` goes into the payload, cleaned and
    bounded (see `audit.redaction`). Raises InvalidEntryError for an action, reason or target kind that is
    not a code.
    """
    event_id = uuid7()
    at = uuid7_time(event_id)
    payload = pack(details) if details else None
    fields: dict[str, str | int] = {
        "version": ENVELOPE_VERSION,
        "id": str(event_id),
        "time": envelope_time(at),
        "tenant": _identifier(actor.tenant),
        "actor_id": _identifier(actor.id),
        "actor_kind": _code("actor kind", actor.kind),
        "actor_role": _identifier(actor.role),
        "authenticated_by": _code("authentication method", actor.authenticated_by),
        "on_behalf_of": _identifier(actor.on_behalf_of),
        "subject_id": _identifier(subject_id),
        "action": _checked_action(action),
        "target_kind": _code("target kind", target.kind if target else ""),
        "target_id": _identifier(target.id if target else ""),
        "outcome": outcome.value,
        "reason": _code("reason", reason),
        "policy_version": _identifier(policy_version),
        "run_id": str(run_id) if run_id else "",
        "thread_id": str(thread_id) if thread_id else "",
        "request_id": _identifier(request_id),
        "trace_id": _identifier(trace_id),
        "commitment": payload.commitment if payload else "",
    }
    envelope = envelope_bytes(fields)
    event_row = (
        event_id,
        at,
        *(fields[name] for name in _INDEXED),
        run_id,
        thread_id,
        fields["request_id"],
        envelope,
    )
    payload_row = (event_id, payload.key, payload.body) if payload else None
    return AuditEntry(event_id, action, outcome, envelope, event_row, payload_row)


_INDEXED = (
    "tenant", "actor_id", "subject_id", "action", "target_kind", "target_id", "outcome", "reason",
)  # fmt: skip


def envelope_time(at: datetime) -> str:
    """RFC 3339 in UTC with milliseconds: `2026-01-31T09:05:00.000Z`."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def _identifier(value: str) -> str:
    return value if _IDENTIFIER.fullmatch(value) else pseudonym(value)


def _code(what: str, value: str) -> str:
    if not _CODE.fullmatch(value):
        raise InvalidEntryError(f"the {what} of an audit entry must match {_CODE.pattern}, got {value[:80]!r}")
    return value


def _checked_action(value: str) -> str:
    if not _ACTION.fullmatch(value):
        raise InvalidEntryError(f"the action of an audit entry must match {_ACTION.pattern}, got {value[:80]!r}")
    return value
