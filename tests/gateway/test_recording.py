from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from agentbackend.foundation.database import Database
from agentbackend.foundation.identifiers import uuid7
from agentbackend.foundation.writer import GroupWriter
from agentbackend.gateway.recording import GatewayRecorder
from tests.gateway.support import Site, identity, signed


@asynccontextmanager
async def recording(database: Database) -> AsyncIterator[Site]:
    """A site whose decisions are in the database when the block is left."""
    writer = GroupWriter(database)
    writer.start()
    site = Site()
    recorder = GatewayRecorder(writer)
    site.authenticator.observer = recorder
    yield site
    recorder.refusals.flush_all()
    await writer.stop()


async def recorded(database: Database, request_id: str) -> list[dict[str, Any]]:
    """The envelopes of a request's entries."""
    rows = await database.fetch_all(
        "SELECT envelope FROM audit_events WHERE request_id = %s ORDER BY id", (request_id,)
    )
    return [json.loads(bytes(row[0])) for row in rows]


async def test_who_was_let_in_and_where_is_recorded_without_the_query(database_pool: Database):
    user_id, request_id = str(uuid7()), str(uuid7())
    target = "/ag-ui/threads?user_message=private"
    headers = signed(target=target, who=identity(x_supabase_user_id=user_id)) | {"x-request-id": request_id}

    async with recording(database_pool) as site:
        assert (await site.get(target, headers=headers)).status == 200

    (entry,) = await recorded(database_pool, request_id)
    assert entry["action"] == "authentication.accepted"
    assert (entry["actor_id"], entry["actor_role"], entry["outcome"]) == (user_id, "operator", "success")
    assert entry["authenticated_by"] == "gateway_signature"
    assert (entry["target_kind"], entry["target_id"]) == ("address", "/ag-ui/threads")
    assert "private" not in json.dumps(entry)
    assert "someone@example.org" not in json.dumps(entry)


async def test_a_strangers_refusals_are_counted_and_not_one_row_each(database_pool: Database):
    requests = [str(uuid7()) for _ in range(20)]
    source = (f"2001:db8::{requests[0][-4:]}", 1)

    async with recording(database_pool) as site:
        for request_id in requests:
            answer = await site.get(headers=identity() | {"x-request-id": request_id}, client=source)
            assert answer.code == "invalid_signature"

    entries = [entry for request_id in requests for entry in await recorded(database_pool, request_id)]
    assert 2 <= len(entries) <= 4  # the first and the rest of a minute; two minutes, when one turned meanwhile
    assert {entry["action"] for entry in entries} == {"authentication.refused"}
    assert {(entry["outcome"], entry["reason"]) for entry in entries} == {("denied", "invalid_signature")}
    assert all(source[0] not in json.dumps(entry) for entry in entries)


async def test_requests_do_not_wait_for_their_record(database_pool: Database):
    """With a writer that has not begun: the request comes through, the record follows."""
    writer = GroupWriter(database_pool)
    site = Site()
    site.authenticator.observer = GatewayRecorder(writer)
    request_id = str(uuid7())

    async with asyncio.timeout(5):
        assert (await site.get(headers=signed() | {"x-request-id": request_id})).status == 200
    assert await recorded(database_pool, request_id) == []

    writer.start()
    await writer.stop()
    assert len(await recorded(database_pool, request_id)) == 1
