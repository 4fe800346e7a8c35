"""Finding agents, reading their cards, and writing down what they say.

The asking is asynchronous and touches no database; the writing is one transaction of the ORM. So no connection waits for an agent, and
the scheduled job and a person at the console share the same steps. A card that is not as it was accepted is quarantined: models are
told what was accepted, and where the change concerns what the agent does or where it is, nothing is handed to it before somebody has
looked.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urljoin, urlsplit
from uuid import UUID

from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.utils import timezone

import audit
from a2a import remote_cards
from a2a.contract import FoundCard, RegisteredAgent, RemoteAgentError, Target
from a2a.loading import agent_client
from a2a.models import RemoteAgent, RemoteAgentHealth
from a2a.states import settle
from agentbackend.foundation.identifiers import uuid7
from audit import actions
from audit.actor import SYSTEM, Actor
from audit.entry import Outcome
from audit.entry import Target as AuditTarget
from tools import credentials
from tools.addresses import address_problem
from tools.changes import submit
from tools.credentials import MissingCredentialError
from tools.documents import Document, kind_named
from tools.documents.fields import can_be_kept
from tools.models import StoredCredential
from tools.vault import Sealed

logger = logging.getLogger(__name__)

State = RemoteAgent.State

AGENTS_AT_ONCE: Final = 4
WELL_KNOWN: Final = "/.well-known/agent-card.json"
MAX_LISTED: Final = 50
"""Cards that one directory may list."""
_LONGEST_FAILURE = 300


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What came of reading an agent's card: why it could not be read, or where it stands now."""

    failure: str = ""
    state: str = ""
    is_news: bool = False
    changed: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """A sentence for whoever asked."""
        if self.failure:
            return self.failure
        if self.changed:
            return f"Its card says another thing than was accepted: {', '.join(self.changed)}."
        return {
            State.ACCEPTED: "Its card is as it was accepted.",
            State.BLOCKED: "Its card cannot be relied on: nothing is handed to it.",
        }.get(State(self.state), "Its card was read; nobody has accepted it yet.")


def refresh(agent: RemoteAgent, *, by: Actor) -> Refreshed:
    """Read an agent's card now, in the name of a person; from synchronous code. Outside any transaction: it waits for the agent."""
    vault = _vault_of(agent)
    connection.close()  # it is opened again when there is something to write
    try:
        found = async_to_sync(_read)(registered(agent), vault)
    except RemoteAgentError as error:
        return take_failure(agent.pk, error, by=by)
    return take_over(agent.pk, found, by=by)


async def refresh_all() -> None:
    """Read the card of every agent that is switched on; one that fails keeps nothing from the others."""
    room = asyncio.Semaphore(AGENTS_AT_ONCE)
    async with asyncio.TaskGroup() as group:
        for agent, vault in await sync_to_async(_switched_on)():
            group.create_task(_refresh_one(agent, vault, room))


def accept(agent: RemoteAgent, digest: str, *, by: Actor, reason: str = "") -> bool:
    """Accept the card that somebody has looked at (`digest`); False when that waits for a second person. Raises ValidationError."""
    with transaction.atomic():
        held = RemoteAgent.objects.select_for_update().get(pk=agent.pk)
        shown = RemoteAgentHealth.objects.filter(agent=held).first()
        if shown is None or shown.card is None:
            raise ValidationError("Its card was never read.")
        if shown.card_digest != digest:
            raise ValidationError("Its card says another thing meanwhile: look at it again.")
        if shown.problem:
            raise ValidationError(f"Its card cannot be accepted: {shown.problem}")
        spec = {**(kind_named("RemoteAgent").read(held.name) or {}), "accepted_digest": digest}
        said = reason or "Accepted the card as it is now."
        return submit(Document("RemoteAgent", held.name, spec), by=by, reason=said) is None


def _switched_on() -> list[tuple[RemoteAgent, dict[str, Sealed]]]:
    return [(agent, _vault_of(agent)) for agent in RemoteAgent.objects.filter(enabled=True)]


async def _refresh_one(agent: RemoteAgent, vault: dict[str, Sealed], room: asyncio.Semaphore) -> None:
    async with room:
        try:
            found = await _read(registered(agent), vault)
        except RemoteAgentError as error:
            logger.warning("a remote agent's card was not read", extra={"agent": agent.name, "reason": error.message})
            await _written(take_failure, agent, error)
        except Exception:  # a fault here must not end the others
            logger.exception("a remote agent's card could not be read", extra={"agent": agent.name})
        else:
            await _written(take_over, agent, found)


async def _written(write: Any, agent: RemoteAgent, found: object) -> None:
    try:
        await sync_to_async(write)(agent.pk, found, by=SYSTEM)
    except RemoteAgent.DoesNotExist:  # removed meanwhile
        return
    except Exception:  # a fault here must not end the others
        logger.exception("a remote agent's card could not be taken over", extra={"agent": agent.name})


async def _read(agent: RegisteredAgent, vault: dict[str, Sealed]) -> FoundCard:
    """What the card says; raises RemoteAgentError."""
    try:
        found = credentials.resolve(agent.credential_names, vault)
    except MissingCredentialError as error:
        logger.error("the agent %s has no credential: %s", agent.name, error)
        raise RemoteAgentError(f"The credential for the agent {agent.name!r} is not set up.") from None
    client = await agent_client()
    return await client.read_card(Target(agent, found))


# --- writing it down


def take_over(agent_id: UUID, found: FoundCard, *, by: Actor) -> Refreshed:
    """Write down what a card says now, and quarantine it where it is not as it was accepted. Raises RemoteAgent.DoesNotExist."""
    digest = remote_cards.digest_of(found.card)
    with transaction.atomic():
        agent = RemoteAgent.objects.select_for_update().get(pk=agent_id)
        shown, _ = RemoteAgentHealth.objects.get_or_create(agent=agent)
        is_other = shown.card_digest != digest
        now = timezone.now()
        shown.problem = remote_cards.problem_of(found.card, agent.card_url)[:_LONGEST_FAILURE]
        shown.card = found.card if can_be_kept(found.card) else {}
        shown.card_digest, shown.signature = digest, found.signature.state
        shown.signing_key = found.signature.key_id[:200]
        shown.last_ok_at = shown.discovered_at = now
        shown.failures_in_a_row = 0
        has_new_state = settle(agent, shown)
        is_changed = agent.state in (State.CHANGED, State.BLOCKED)
        shown.changed_at = (shown.changed_at or now) if is_changed else None
        shown.save()
        changed = remote_cards.changed_fields(agent.accepted_card or shown.card, shown.card) if is_changed else []
        told = {"name": agent.name, "digest": digest, "state": agent.state, "signature": shown.signature}
        if is_changed and (has_new_state or is_other):
            details = {**told, "accepted_digest": agent.accepted_digest, "changed": changed, "problem": shown.problem}
            _record(actions.REMOTE_AGENT_QUARANTINED, agent, by, details)
        if is_other or has_new_state or by != SYSTEM:
            _record(actions.REMOTE_AGENT_DISCOVERED, agent, by, told)
    return Refreshed(state=agent.state, is_news=is_other or has_new_state, changed=tuple(changed))


def take_failure(agent_id: UUID, error: RemoteAgentError, *, by: Actor) -> Refreshed:
    """Write down that a card could not be read. Only the transport's failures count as the agent's ill health."""
    with transaction.atomic():
        agent = RemoteAgent.objects.select_for_update().get(pk=agent_id)
        shown, _ = RemoteAgentHealth.objects.get_or_create(agent=agent)
        shown.last_failure_at = timezone.now()
        shown.last_failure = error.message[:_LONGEST_FAILURE]
        shown.failures_in_a_row += error.unreachable
        shown.save()
        if by != SYSTEM:
            details = {"name": agent.name, "failure": error.message}
            _record(actions.REMOTE_AGENT_DISCOVERED, agent, by, details, Outcome.FAILURE)
    return Refreshed(failure=error.message)


def _record(
    action: str, agent: RemoteAgent, by: Actor, details: dict[str, Any], outcome: Outcome = Outcome.SUCCESS
) -> None:
    target = AuditTarget(agent._meta.label_lower, str(agent.pk))
    audit.record(action, actor=by, target=target, outcome=outcome, details=details)


def registered(agent: RemoteAgent) -> RegisteredAgent:
    """The row as the run path holds it."""
    return RegisteredAgent(**{name: getattr(agent, name) for name in RegisteredAgent.__slots__})


def _vault_of(agent: RemoteAgent) -> dict[str, Sealed]:
    """The stored credentials that the agent may need."""
    names = registered(agent).credential_names
    return {row.name: Sealed(row.kid, bytes(row.sealed)) for row in StoredCredential.objects.filter(name__in=names)}


# --- finding


@dataclass(frozen=True, slots=True)
class Candidate:
    """An agent that was found: its card, or why there is none."""

    card_url: str
    found: FoundCard | None = None
    problem: str = ""
    registered_as: str = ""

    @property
    def title(self) -> str:
        """As its card says."""
        return str(self.found.card.get("name", ""))[:120] if self.found else ""

    @property
    def description(self) -> str:
        """As its card says."""
        return remote_cards.told_description(self.found.card) if self.found else ""

    @property
    def skills(self) -> tuple[str, ...]:
        """As its card says."""
        return remote_cards.told_skills(self.found.card) if self.found else ()

    @property
    def interfaces(self) -> list[remote_cards.Interface]:
        """Where it is spoken to, as its card says."""
        return remote_cards.interfaces_of(self.found.card) if self.found else []

    @property
    def digest(self) -> str:
        """Of its card."""
        return remote_cards.digest_of(self.found.card) if self.found else ""

    @property
    def can_be_imported(self) -> bool:
        """Whether it is new and usable."""
        return self.found is not None and not self.problem and not self.registered_as


@dataclass(slots=True)
class Search:
    """What a search found. `problem`: why nothing could be looked for."""

    candidates: list[Candidate] = field(default_factory=list)
    problem: str = ""


def find(text: str, directory: bytes | None = None) -> Search:
    """Look for agents; from synchronous code, outside any transaction.

    `text`: the address of a card or of a directory (a JSON list of addresses of cards), or a host, which is asked at the well-known
    address. `directory`: the content of a directory's file instead.
    """
    connection.close()
    return async_to_sync(_find)(text.strip(), directory)


async def _find(text: str, directory: bytes | None) -> Search:
    try:
        urls = _listed(json.loads(directory), "") if directory is not None else await _urls_at(text)
    except RemoteAgentError as error:
        return Search(problem=error.message)
    except (ValueError, RecursionError):
        return Search(problem="The file is no JSON list of addresses of cards.")
    room = asyncio.Semaphore(AGENTS_AT_ONCE)
    found = await asyncio.gather(*(_looked_at(url, room) for url in urls))
    names = await sync_to_async(_registered_names)(urls)
    return Search([Candidate(one.card_url, one.found, one.problem, names.get(one.card_url, "")) for one in found])


async def _urls_at(text: str) -> list[str]:
    """The addresses of cards that this leads to; raises RemoteAgentError."""
    url = text if "://" in text else f"https://{text}"
    _require_reachable(url)
    if urlsplit(url).path in ("", "/"):
        return [urljoin(url, WELL_KNOWN)]
    client = await agent_client()
    said = await client.read_document(_nobody_yet(url), url)
    return [url] if isinstance(said, dict) and not _is_directory(said) else _listed(said, url)


def _is_directory(said: dict[str, Any]) -> bool:
    return isinstance(said.get("agents"), list) and "skills" not in said


def _listed(said: Any, base: str) -> list[str]:
    """The addresses in a directory: a list, or an object with a list `agents`, of addresses or of objects that name one."""
    entries = said.get("agents") if isinstance(said, dict) else said
    if not isinstance(entries, list) or not entries:
        raise RemoteAgentError("It is no JSON list of addresses of cards.")
    found = []
    for entry in entries[:MAX_LISTED]:
        address = entry if isinstance(entry, str) else _named_address(entry)
        if address:
            found.append(urljoin(base, address))
    return list(dict.fromkeys(found))


def _named_address(entry: Any) -> str:
    for name in ("cardUrl", "card_url", "url"):
        if isinstance(entry, dict) and isinstance(entry.get(name), str):
            return str(entry[name])
    return ""


async def _looked_at(url: str, room: asyncio.Semaphore) -> Candidate:
    async with room:
        try:
            _require_reachable(url)
            client = await agent_client()
            found = await client.read_card(_nobody_yet(url))
        except RemoteAgentError as error:
            return Candidate(url, problem=error.message)
    return Candidate(url, found, remote_cards.problem_of(found.card, url))


def _require_reachable(url: str) -> None:
    if problem := address_problem(url):
        raise RemoteAgentError(problem)


def _nobody_yet(url: str) -> Target:
    """An address that nothing is registered for: no credential goes there."""
    host = urlsplit(url).netloc
    blank = RemoteAgent(name=host[:40], card_url=url)
    return Target(registered(blank))


def _registered_names(urls: Iterable[str]) -> dict[str, str]:
    return dict(RemoteAgent.objects.filter(card_url__in=list(urls)).values_list("card_url", "name"))


def import_agent(card_url: str, digest: str, *, by: Actor) -> tuple[str, bool]:
    """Register an agent that was found, switched off and with no card accepted; returns its name, and whether that waits for a
    second person. Its card is read again: `digest` is what somebody has looked at. Raises ValidationError.
    """
    search = find(card_url) if urlsplit(card_url).path not in ("", "/") else Search()
    candidate = next((one for one in search.candidates if one.card_url == card_url), None)
    if candidate is None or candidate.found is None or not candidate.can_be_imported:
        problem = search.problem or (candidate.problem if candidate else "") or "It is registered already."
        raise ValidationError(f"{card_url}: {problem}")
    if candidate.digest != digest:
        raise ValidationError(f"{card_url}: its card says another thing meanwhile; look at it again.")
    with transaction.atomic():
        name = _free_name(candidate.title)
        spec = {"card_url": card_url, "title": candidate.title}
        proposal = submit(Document("RemoteAgent", name, spec), by=by, reason="Found by discovery.")
        agent = RemoteAgent.objects.filter(name=name).first()
        if agent is not None:
            take_over(agent.pk, candidate.found, by=by)
    return name, proposal is not None


def _free_name(title: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:32] or f"agent-{str(uuid7())[-8:]}"
    taken = set(RemoteAgent.objects.filter(name__startswith=plain).values_list("name", flat=True))
    return next(name for name in (plain, *(f"{plain}-{number}" for number in range(2, 1000))) if name not in taken)
