"""What another agent's card says, as far as it matters here: its digest, whether it can be used, what of it changed.

A card is kept as it came (JSON). Its signatures are no part of its digest: with most algorithms they differ each time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from tools.addresses import address_problem
from tools.documents.fields import can_be_kept
from tools.mcp_client.offers import INVISIBLE

Card: TypeAlias = Mapping[str, Any]

MAX_CARD_BYTES: Final = 256 * 1024
MAX_SKILLS: Final = 100
MAX_DESCRIPTION: Final = 4000
BINDINGS: Final = ("JSONRPC", "HTTP+JSON")
"""The ways of speaking A2A that are spoken here."""

BLOCKING: Final = frozenset(
    {"supportedInterfaces", "url", "preferredTransport", "additionalInterfaces", "skills", "securitySchemes",
     "securityRequirements", "security", "capabilities"}
)  # fmt: skip
"""What must not change unseen: where tasks go, what the agent can be asked, and what it asks of callers."""

_MAX_SKILLS_TOLD = 20
_MAX_SKILL_TOLD = 200
_MAX_DESCRIPTION_TOLD = 1000


@dataclass(frozen=True, slots=True)
class Interface:
    """An address of an agent and how it is spoken to there."""

    url: str
    binding: str
    version: str


def digest_of(card: Card) -> str:
    """SHA-256, in hexadecimal, of what the card says: JSON with sorted keys and without white space or signatures."""
    said = {name: value for name, value in card.items() if name != "signatures"}
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def interfaces_of(card: Card) -> list[Interface]:
    """In the card's order; also as cards of A2A 0.3 say it."""
    listed = card.get("supportedInterfaces")
    if listed is None and card.get("url"):
        version = str(card.get("protocolVersion", "0.3.0"))
        others = card.get("additionalInterfaces") or []
        first = {"url": card["url"], "transport": card.get("preferredTransport", "JSONRPC")}
        listed = [
            {**one, "protocolBinding": one.get("transport"), "protocolVersion": version} for one in (first, *others)
        ]
    return [
        Interface(str(one.get("url", "")), str(one.get("protocolBinding", "")), str(one.get("protocolVersion", "")))
        for one in listed or []
        if isinstance(one, Mapping)
    ]


def skills_of(card: Card) -> list[Mapping[str, Any]]:
    """The skills that are described."""
    return [skill for skill in card.get("skills") or [] if isinstance(skill, Mapping)]


def told_description(card: Card) -> str:
    """How a model is told of the agent."""
    return str(card.get("description", "")).strip()[:_MAX_DESCRIPTION_TOLD]


def told_skills(card: Card) -> tuple[str, ...]:
    """What a model is told that it can do, a phrase each."""
    phrases = []
    for skill in skills_of(card)[:_MAX_SKILLS_TOLD]:
        name, about = str(skill.get("name", "")).strip(), str(skill.get("description", "")).strip()
        phrases.append((f"{name} ({about})" if name and about else name or about)[:_MAX_SKILL_TOLD])
    return tuple(phrase for phrase in phrases if phrase)


def problem_of(card: Card, card_url: str) -> str:
    """Why this card cannot be accepted; empty when it can."""
    if not can_be_kept(dict(card)):
        return "It holds what cannot be kept: NUL, numbers out of range, or too many levels."
    if not str(card.get("name", "")).strip() or not str(card.get("description", "")).strip():
        return "It says neither what the agent is called nor what it does."
    if len(str(card["description"])) > MAX_DESCRIPTION:
        return f"Its description has more than {MAX_DESCRIPTION} characters."
    if len(skills_of(card)) > MAX_SKILLS:
        return f"It lists more than {MAX_SKILLS} skills."
    if INVISIBLE.search(json.dumps(card, ensure_ascii=False)):
        return "It holds characters that a person cannot see."
    return _problem_of_interfaces(card, card_url)


def _problem_of_interfaces(card: Card, card_url: str) -> str:
    usable = [one for one in interfaces_of(card) if one.binding in BINDINGS and _is_spoken(one.version)]
    if not usable:
        return "It names no address where A2A 1.0 or 0.3 is spoken over JSON-RPC or HTTP+JSON."
    for one in usable:
        if problem := address_problem(one.url):
            return f"An address in it, {one.url[:100]}, cannot be used: {problem}"
        if card_url.startswith("https:") and not one.url.startswith("https:"):
            return "It leads from https to an address without TLS."
    return ""


def _is_spoken(version: str) -> bool:
    return version.startswith(("1.", "0.3")) or version in ("", "1")


def changed_fields(accepted: Card, now: Card) -> list[str]:
    """The fields that say another thing now."""
    names = dict.fromkeys([*accepted, *now])
    return [name for name in names if name != "signatures" and accepted.get(name) != now.get(name)]


def is_blocking(accepted: Card, now: Card) -> bool:
    """Whether the change is such that the agent is not asked before somebody has looked."""
    return bool(BLOCKING.intersection(changed_fields(accepted, now)))


def same_host(one: str, other: str) -> bool:
    """Whether two addresses have the same scheme, host and port."""
    first, second = urlsplit(one), urlsplit(other)
    return (first.scheme, first.hostname, first.port) == (second.scheme, second.hostname, second.port)
