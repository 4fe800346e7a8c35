from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agentbackend.foundation.database import Database
from agentbackend.foundation.identifiers import uuid7
from agentbackend.gateway import nonces
from agentbackend.gateway.nonces import prune_nonces
from agentbackend.gateway.signature import sign
from tests.gateway.support import ACTIVE_KEY, LOOPBACK, OLD_KEY, USER, Site, identity, request_scope, signed


@pytest.fixture
def site(database_pool: Database) -> Site:
    return Site(now=time.time(), debug=True)


def request(method: str, target: str, more: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
    return request_scope(method, target, signed(method, target, now=time.time()) | (more or {}), **options)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/ag-ui/events"),
        ("POST", "/ag-ui/approvals/1"),
        ("PUT", "/a"),
        ("PATCH", "/a"),
        ("DELETE", "/a"),
        ("GET", "/ag-ui/events"),
        ("GET", "/ag-ui/events/"),
        ("GET", "/ag-ui/%65vents?user_message=hello"),
    ],
)
async def test_what_starts_or_changes_something_is_accepted_once(site, method, target):
    scope = request(method, target)

    assert (await site.call(scope)).status == 200
    second = await site.call(scope)

    assert (second.status, second.code) == (401, "replayed_request")
    assert len(site.scopes) == 1


@pytest.mark.parametrize(
    ("method", "target", "more"),
    [
        ("GET", "/ag-ui/threads", {}),
        ("HEAD", "/ag-ui/events", {}),
        ("OPTIONS", "/ag-ui/events", {}),
        ("GET", "/ag-ui/events", {"last-event-id": "run.7"}),
    ],
)
async def test_what_only_reads_may_be_sent_again_within_its_minute(site, method, target, more):
    scope = request(method, target, more)

    assert [(await site.call(scope)).status for _ in range(2)] == [200, 200]


async def test_a_websocket_is_opened_once(site):
    headers = signed("GET", "/ws", now=time.time())
    scope = request_scope("GET", "/ws", headers, kind="websocket")

    assert (await site.call(scope)).kinds == ["websocket.accept"]
    assert (await site.call(scope)).kinds == ["websocket.close"]


async def test_of_many_copies_at_once_one_comes_through(site):
    scope = request("POST", "/ag-ui/events")

    answers = await asyncio.gather(*(site.call(scope) for _ in range(10)))

    assert Counter(answer.status for answer in answers) == {200: 1, 401: 9}


async def test_a_nonce_belongs_to_its_key(site):
    now, nonce = time.time(), f"shared-{uuid7()}"
    scopes = []
    for key in (ACTIVE_KEY, OLD_KEY):
        headers = sign(key, method="POST", target="/a", identity=identity(), now=now, nonce=nonce)
        scopes.append(request_scope("POST", "/a", headers))

    assert [(await site.call(scope)).status for scope in scopes] == [200, 200]
    assert [(await site.call(scope)).status for scope in scopes] == [401, 401]


async def test_a_refused_request_does_not_spend_its_signature(site):
    headers = signed("POST", "/a", now=time.time())

    refused = await site.call(request_scope("POST", "/a", headers, host="else.example"))
    assert refused.code == "invalid_host"
    assert (await site.call(request_scope("POST", "/a", headers))).status == 200


async def test_unsigned_requests_of_the_debug_path_have_nothing_to_spend(site):
    scope = request_scope("POST", "/a", {"x-supabase-user-id": USER}, client=LOOPBACK)

    assert [(await site.call(scope)).status for _ in range(2)] == [200, 200]


async def test_without_a_database_what_changes_something_is_refused_and_reading_goes_on(monkeypatch):
    monkeypatch.setattr(nonces, "database", Database())
    site = Site(now=time.time())

    refused = await site.call(request("POST", "/ag-ui/events"))

    assert (refused.status, refused.code) == (503, "unavailable")
    assert site.scopes == []
    assert (await site.call(request("GET", "/ag-ui/threads"))).status == 200


async def test_expired_nonces_are_pruned_and_others_kept(database_pool: Database):
    expired, kept = uuid7(), uuid7()
    now = datetime.now(UTC)
    for nonce_id, expires_at in ((expired, now - timedelta(seconds=1)), (kept, now + timedelta(minutes=1))):
        await database_pool.execute(
            "INSERT INTO gateway_nonces (id, expires_at) VALUES (%s, %s)", (nonce_id, expires_at)
        )

    assert await prune_nonces() >= 1

    rows = await database_pool.fetch_all("SELECT id FROM gateway_nonces WHERE id = ANY(%s)", ([expired, kept],))
    assert [row[0] for row in rows] == [kept]


async def test_a_nonce_outlives_its_signature(site, database_pool: Database):
    """The most extreme signature: made a minute ahead of this machine's clock."""
    ahead = time.time() + 59
    headers = signed("POST", "/a", now=ahead)
    assert (await site.call(request_scope("POST", "/a", headers))).status == 200

    row = await database_pool.fetch_one("SELECT max(expires_at) FROM gateway_nonces")

    assert row is not None
    assert row[0].timestamp() >= int(ahead) + 60
