"""Approvals: what a person's yes to a call is bound to, and whether it still fits the call that is about to be made.

A yes is for one caller, one version of one tool, one set of arguments, and what asked for it. Whatever of these is another one when
the call is made has not been approved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import orjson


class Decider(StrEnum):
    """Who answers a question about a call."""

    ASKER = "asker"
    """Who asked for it, or an operator in their place."""
    SOMEONE_ELSE = "someone_else"
    """Anybody who may, but never who asked for it: four eyes."""


@dataclass(frozen=True, slots=True)
class Binding:
    """What is approved. `policy_versions`: what asked for a person's word, as the audit trail names it."""

    tenant: str
    actor_id: str
    tool: str
    tool_version: int
    tool_digest: str
    arguments_digest: str
    policy_versions: tuple[str, ...] = ()

    def as_document(self) -> dict[str, Any]:
        """As JSON values; the names are those that clients see."""
        return {
            "tenant": self.tenant,
            "actorId": self.actor_id,
            "tool": self.tool,
            "toolVersion": self.tool_version,
            "toolDigest": self.tool_digest,
            "argumentsDigest": self.arguments_digest,
            "policyVersions": list(self.policy_versions),
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Binding:
        """The inverse of `as_document`."""
        return cls(
            tenant=document["tenant"],
            actor_id=document["actorId"],
            tool=document["tool"],
            tool_version=document["toolVersion"],
            tool_digest=document["toolDigest"],
            arguments_digest=document["argumentsDigest"],
            policy_versions=tuple(document["policyVersions"]),
        )


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """What the door wants a person's word on. `because`: why it asks although somebody has approved already."""

    binding: Binding
    decider: Decider = Decider.ASKER
    approver_role: str = ""
    expires_seconds: int = 0
    because: str = ""


@dataclass(frozen=True, slots=True)
class Approval:
    """A person's yes. `binding` None: it was given before approvals were bound to anything, and fits no call."""

    binding: Binding | None
    interrupt_id: str
    decided_by: str
    decided_at: datetime
    expires_at: datetime | None = None

    def has_expired(self, now: datetime | None = None) -> bool:
        """Whether it no longer counts."""
        return self.expires_at is not None and self.expires_at <= (now or datetime.now(UTC))

    def unfit(self, asked: Binding) -> str:
        """Why this is not a yes to what is asked for now, as a sentence; empty when it is."""
        given = self.binding
        if given is None:
            return "It was approved before approvals were bound to a version and arguments."
        if (given.tenant, given.actor_id) != (asked.tenant, asked.actor_id):
            return "It was approved for another caller."
        if given.tool != asked.tool:
            return "Another tool was approved."
        if (given.tool_version, given.tool_digest) != (asked.tool_version, asked.tool_digest):
            return f"The tool has changed since: version {given.tool_version} was approved, now it is {asked.tool_version}."
        if given.arguments_digest != asked.arguments_digest:
            return "Other arguments were approved."
        if not set(asked.policy_versions) <= set(given.policy_versions):
            return "A policy has changed since, or another one asks."
        return ""

    def as_details(self) -> dict[str, Any]:
        """What the audit trail keeps beside the call that it permits."""
        return {
            "interrupt": self.interrupt_id,
            "decided_by": self.decided_by,
            "decided_at": self.decided_at.isoformat(),
            "expires_at": self.expires_at.isoformat() if self.expires_at else None,
        }


def digest_of_arguments(arguments: Any) -> str:
    """SHA-256, in hexadecimal, of the arguments' canonical JSON: sorted keys, no white space, whole numbers without a fraction.

    Source: RFC 8785, but for the order of keys beyond the Basic Multilingual Plane and for very large and small numbers, which only
    matters to somebody who would compute the digest elsewhere.
    """
    return hashlib.sha256(orjson.dumps(_canonical(arguments), option=orjson.OPT_SORT_KEYS)).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value
