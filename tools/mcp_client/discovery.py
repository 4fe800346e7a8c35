"""Asking servers for their tools, and writing down what they said.

The asking is asynchronous and touches no database; the writing is one transaction of the ORM. So no connection waits for a server, and
both ways in, the scheduled job and a person at the console, share the same steps.

A tool that was imported and is described in another way now is quarantined: what was imported goes on being served, and somebody is
asked to look. Nothing of what a server says reaches a model before that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection, transaction
from django.utils import timezone

import audit
from audit import actions
from audit.actor import SYSTEM, Actor
from audit.entry import Outcome, Target
from tools.mcp_client import loading, targets
from tools.mcp_client.contract import Listing, RemoteError
from tools.mcp_client.imports import Import, imports_of
from tools.mcp_client.offers import Offer, offers_of
from tools.models import RemoteServer, RemoteServerHealth, RemoteTool, StoredCredential
from tools.registry import RegisteredServer
from tools.vault import Sealed

logger = logging.getLogger(__name__)

State = RemoteTool.State

SERVERS_AT_ONCE: Final = 4
_MOST_NAMES_RECORDED = 50
_LONGEST_FAILURE = 300


@dataclass(slots=True)
class Discovery:
    """What came of asking a server: names by what became of them, or why it could not be asked."""

    failure: str = ""
    offered: int = 0
    is_complete: bool = True
    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    @property
    def is_news(self) -> bool:
        """Whether anything is different from the last time."""
        return bool(self.new or self.changed or self.gone)

    @property
    def summary(self) -> str:
        """A sentence for whoever asked."""
        if self.failure:
            return self.failure
        parts = [f"{self.offered} tools"]
        for names, what in ((self.new, "new"), (self.changed, "changed"), (self.gone, "gone")):
            if names:
                parts.append(f"{len(names)} {what}")
        more = "" if self.is_complete else " It offers more than is taken: these are the first."
        return f"{', '.join(parts)}.{more}"


def discover(server: RemoteServer, *, by: Actor) -> Discovery:
    """Ask a server now, in the name of a person; from synchronous code. Outside any transaction: it waits for the server."""
    vault = _vault_of(server)
    connection.close()  # it is opened again when there is something to write
    try:
        listing = async_to_sync(_ask)(registered(server), vault)
    except RemoteError as error:
        return take_failure(server.pk, error, by=by)
    return take_over(server.pk, listing, by=by)


async def discover_all() -> None:
    """Ask every server that is switched on; one that fails keeps nothing from the others."""
    room = asyncio.Semaphore(SERVERS_AT_ONCE)
    async with asyncio.TaskGroup() as group:
        for server, vault in await sync_to_async(_switched_on)():
            group.create_task(_discover_one(server, vault, room))


def _switched_on() -> list[tuple[RemoteServer, dict[str, Sealed]]]:
    return [(server, _vault_of(server)) for server in RemoteServer.objects.filter(enabled=True)]


async def _discover_one(server: RemoteServer, vault: dict[str, Sealed], room: asyncio.Semaphore) -> None:
    async with room:
        try:
            await _ask_and_write(server, vault)
        except RemoteServer.DoesNotExist:  # removed meanwhile
            return
        except Exception:  # a fault here must not end the others
            logger.exception("a remote server's tools could not be taken over", extra={"server": server.name})


async def _ask_and_write(server: RemoteServer, vault: dict[str, Sealed]) -> None:
    try:
        listing = await _ask(registered(server), vault)
    except RemoteError as error:
        logger.warning("a remote server was not asked", extra={"server": server.name, "reason": error.message})
        await sync_to_async(take_failure)(server.pk, error, by=SYSTEM)
    else:
        await sync_to_async(take_over)(server.pk, listing, by=SYSTEM)


async def _ask(server: RegisteredServer, vault: dict[str, Sealed]) -> Listing:
    """What the server offers; raises RemoteError."""
    target = targets.target_of(server, vault)
    client = await loading.remote_client()
    return await client.list_tools(target)


# --- writing it down


def take_over(server_id: UUID, listing: Listing, *, by: Actor) -> Discovery:
    """Write down what a server offers, and quarantine what is not as it was imported. Raises RemoteServer.DoesNotExist."""
    offers = offers_of(listing.tools)
    with transaction.atomic():
        server = RemoteServer.objects.select_for_update().get(pk=server_id)
        found = Discovery(offered=len(offers), is_complete=listing.is_complete)
        _write_tools(server, offers, found, by=by)
        now = timezone.now()
        RemoteServerHealth.objects.update_or_create(
            server=server,
            defaults={
                "last_ok_at": now, "failures_in_a_row": 0, "discovered_at": now,
                "protocol_version": listing.protocol_version[:16],
            },
        )  # fmt: skip
        if found.is_news or by != SYSTEM:
            _record(actions.REMOTE_SERVER_DISCOVERED, server, by, _told(found))
    return found


def take_failure(server_id: UUID, error: RemoteError, *, by: Actor) -> Discovery:
    """Write down that a server could not be asked. Only the transport's failures count as its ill health."""
    with transaction.atomic():
        server = RemoteServer.objects.select_for_update().get(pk=server_id)
        health, _ = RemoteServerHealth.objects.get_or_create(server=server)
        health.last_failure_at = timezone.now()
        health.last_failure = error.message[:_LONGEST_FAILURE]
        health.failures_in_a_row += error.unreachable
        health.save()
        if by != SYSTEM:
            details = {"name": server.name, "failure": error.message}
            _record(actions.REMOTE_SERVER_DISCOVERED, server, by, details, Outcome.FAILURE)
    return Discovery(failure=error.message)


def _write_tools(server: RemoteServer, offers: dict[str, Offer], found: Discovery, *, by: Actor) -> None:
    rows = {row.remote_name: row for row in RemoteTool.objects.filter(server=server)}
    imports = imports_of(server.name)
    now = timezone.now()
    made: list[RemoteTool] = []
    kept: list[RemoteTool] = []
    for name, offer in offers.items():
        row = rows.get(name) or RemoteTool(server=server, remote_name=name)
        before = (row.state, row.digest)
        row.state = state_of(row, offer.digest, imports.get(name))
        _describe(row, offer, imports.get(name))
        row.last_seen_at = now
        if row.state == State.CHANGED and before != (State.CHANGED, offer.digest):
            row.changed_at = now
            found.changed.append(name)
            _quarantined(row, server, by)
        (kept if name in rows else made).append(row)
    found.new = [row.remote_name for row in made]
    RemoteTool.objects.bulk_create(made)
    RemoteTool.objects.bulk_update(kept, _WRITTEN)
    if found.is_complete:
        found.gone = _write_gone([row for name, row in rows.items() if name not in offers], imports)


_WRITTEN = (
    "title", "description", "input_schema", "output_schema", "annotations", "digest", "pinned_digest", "problem", "state",
    "tool", "last_seen_at", "changed_at",
)  # fmt: skip


def state_of(row: RemoteTool, digest: str, imported: Import | None) -> str:
    """Where a tool stands that is offered with this digest. A change that was kept out stays so until the next one."""
    if imported is None:
        return State.OFFERED
    if imported.pinned == digest:
        return State.IMPORTED
    is_kept = row.state == State.IMPORTED and (row.digest, row.pinned_digest) == (digest, imported.pinned)
    return State.IMPORTED if is_kept else State.CHANGED


def _describe(row: RemoteTool, offer: Offer, imported: Import | None) -> None:
    row.title, row.description = offer.title, offer.description
    row.input_schema, row.output_schema = offer.input_schema, offer.output_schema
    row.annotations, row.digest, row.problem = offer.annotations, offer.digest, offer.problem
    row.tool = imported.tool if imported else None
    row.pinned_digest = imported.pinned if imported else ""
    if row.state != State.CHANGED:
        row.changed_at = None


def _write_gone(rows: Iterable[RemoteTool], imports: dict[str, Import]) -> list[str]:
    """What was imported stays, marked; of the rest nobody needs to know any more."""
    gone, forgotten = [], []
    for row in rows:
        imported = imports.get(row.remote_name)
        if imported is None:
            forgotten.append(row)
        elif row.state != State.GONE:
            row.state, row.tool, row.pinned_digest = State.GONE, imported.tool, imported.pinned
            gone.append(row)
    RemoteTool.objects.filter(pk__in=[row.pk for row in forgotten]).delete()
    RemoteTool.objects.bulk_update(gone, ["state", "tool", "pinned_digest"])
    return sorted(row.remote_name for row in [*gone, *forgotten])


def _quarantined(row: RemoteTool, server: RemoteServer, by: Actor) -> None:
    details = {
        "server": server.name, "remote_name": row.remote_name, "tool": row.tool.name if row.tool else "",
        "pinned_digest": row.pinned_digest, "digest": row.digest, "problem": row.problem,
    }  # fmt: skip
    audit.record(
        actions.REMOTE_TOOL_QUARANTINED, actor=by, target=Target("tools.remotetool", str(row.pk)), details=details
    )


def _told(found: Discovery) -> dict[str, Any]:
    names = {"new": found.new, "changed": found.changed, "gone": found.gone}
    listed = {what: sorted(which)[:_MOST_NAMES_RECORDED] for what, which in names.items()}
    return {"offered": found.offered, "is_complete": found.is_complete, **listed}


def _record(
    action: str, server: RemoteServer, by: Actor, details: dict[str, Any], outcome: Outcome = Outcome.SUCCESS
) -> None:
    target = Target("tools.remoteserver", str(server.pk))
    audit.record(action, actor=by, target=target, outcome=outcome, details={"name": server.name, **details})


# --- what is asked


def registered(server: RemoteServer) -> RegisteredServer:
    """The row as the registry's snapshot holds it."""
    return RegisteredServer(**{name: getattr(server, name) for name in RegisteredServer.__slots__})


def _vault_of(server: RemoteServer) -> dict[str, Sealed]:
    """The one stored credential that the server may need."""
    rows = StoredCredential.objects.filter(name=server.credential) if server.credential else ()
    return {row.name: Sealed(row.kid, bytes(row.sealed)) for row in rows}
