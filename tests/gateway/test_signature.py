from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest

from agentbackend.foundation.keyring import Key, KeyRing
from agentbackend.foundation.problems import Problem
from agentbackend.gateway.headers import read_headers
from agentbackend.gateway.signature import read_claim, sign
from tests.gateway.support import ACTIVE_KEY, NOW, OLD_KEY, Site, request_scope, signed

# Computed by the gateway's own code (TypeScript, WebCrypto), so both sides agree on the format.
VECTOR_KEY = Key("2026-11", bytes(range(32)))
VECTOR_TIME = 1790000000
VECTOR_NONCE = "0b6f1d0e-6f1c-4a53-9c1e-2f6f5f3f8a11"
VECTORS: list[dict[str, Any]] = [
    {
        "method": "POST",
        "target": "/ag-ui/events?protocol=envelope",
        "body": '{"message":"héllo"}'.encode(),
        "identity": {
            "x-supabase-user-id": "6f1c9a52-0c1e-4b5e-9a54-0d9c4b7f2a11",
            "x-supabase-user-email": "zo%C3%AB+x%20y%25@%E4%BE%8B.cn",
            "x-supabase-user-role": "operator",
            "x-gateway-aal": "aal2",
            "x-gateway-session-id": "5f0c2f64-0001-4000-8000-000000000001",
        },
        "digest": "d4ec0a00a56508b4301c2fe44856ed7b9f8076becc1125b20ceda12555be05db",
        "signature": "v1=43eb9ae45e7420ce1615636ac171e19621d817312e6b69f91739b09216508a70",
    },
    {
        "method": "GET",
        "target": "/ag-ui/events?user_message=caf%C3%A9%20x&e=",
        "body": b"",
        "identity": {"x-supabase-user-id": "6f1c9a52-0c1e-4b5e-9a54-0d9c4b7f2a11"},
        "digest": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "signature": "v1=6ba7768f8342679c8f1830bf831d7db1715a5522509596421105176c9999889b",
    },
]


@pytest.mark.parametrize("vector", VECTORS, ids=["post", "get"])
def test_the_gateways_own_signatures_are_reproduced_and_accepted(vector):
    request = {name: vector[name] for name in ("method", "target", "body")}
    headers = sign(VECTOR_KEY, **request, identity=vector["identity"], now=VECTOR_TIME, nonce=VECTOR_NONCE)

    assert headers["x-gateway-signature"] == vector["signature"]
    assert headers["x-gateway-content-sha256"] == vector["digest"]
    read = read_headers([(name.encode(), value.encode()) for name, value in headers.items()])
    read_claim(read, KeyRing((VECTOR_KEY,)), now=VECTOR_TIME).verify(read, **request)


def test_the_signed_text_is_as_documented():
    """The format written out a second time, independent of the code."""
    text = (
        "SBGW1\n2026-11\n1790000000\nnonce-nonce-nonce\nPUT\n/a%2Fb?c=d\n"
        + hashlib.sha256(b"body").hexdigest()
        + "\nid\nmail\nrole\naal1\nsession"
    )
    names = ("user-id", "user-email", "user-role")
    who = dict(zip((f"x-supabase-{name}" for name in names), ("id", "mail", "role"), strict=True))
    who |= {"x-gateway-aal": "aal1", "x-gateway-session-id": "session"}

    headers = sign(
        ACTIVE_KEY, method="PUT", target="/a%2Fb?c=d", body=b"body", identity=who, now=NOW, nonce="nonce-nonce-nonce"
    )

    expected = hmac.new(ACTIVE_KEY.secret, text.encode(), hashlib.sha256).hexdigest()
    assert headers["x-gateway-signature"] == f"v1={expected}"


@pytest.mark.parametrize("key", [ACTIVE_KEY, OLD_KEY], ids=["active", "previous"])
async def test_a_request_signed_with_any_key_of_the_ring_comes_through(key):
    site = Site()

    answer = await site.get("/ag-ui/threads?a=b%20c", headers=signed(target="/ag-ui/threads?a=b%20c", key=key))

    assert answer.status == 200
    assert site.actor.authenticated_by == "gateway_signature"


@pytest.mark.parametrize("after", [-60, -59.5, 0, 59.5, 60])
async def test_a_signature_is_good_for_a_minute_around_its_time(after):
    site = Site(now=1_790_000_000 + after)

    assert (await site.get(headers=signed())).status == 200


@pytest.mark.parametrize("after", [-61, 61, 3600, -3600])
async def test_an_older_or_later_signature_is_stale(after):
    site = Site(now=1_790_000_000 + after)

    answer = await site.get(headers=signed())

    assert (answer.status, answer.code) == (401, "stale_signature")
    assert site.scopes == []


def changed(**changes: str | None) -> dict[str, str]:
    """A signed request's headers with some replaced, or (None) left out, after signing."""
    renamed = {name.replace("_", "-"): value for name, value in changes.items()}
    return {name: value for name, value in (signed() | renamed).items() if value is not None}


FORGERIES: dict[str, dict[str, str]] = {
    "another user": changed(x_supabase_user_id="0b6f1d0e-6f1c-4a53-9c1e-2f6f5f3f8a11"),
    "another e-mail": changed(x_supabase_user_email="else@example.org"),
    "another role": changed(x_supabase_user_role="admin"),
    "no role": changed(x_supabase_user_role=None),
    "another assurance": changed(x_gateway_aal="aal3"),
    "another session": changed(x_gateway_session_id="other"),
    "another nonce": changed(x_gateway_nonce="a-nonce-that-was-not-signed"),
    "another time": changed(x_gateway_timestamp="1790000001"),
    "a time in another spelling": changed(x_gateway_timestamp="01790000000"),
    "no time": changed(x_gateway_timestamp=None),
    "a time that is none": changed(x_gateway_timestamp="now"),
    "another digest": changed(x_gateway_content_sha256="0" * 64),
    "an unknown key": changed(x_gateway_key_id="2025-01"),
    "the other key's id": changed(x_gateway_key_id=OLD_KEY.kid),
    "no key": changed(x_gateway_key_id=None),
    "a short nonce": changed(x_gateway_nonce="short"),
    "no nonce": changed(x_gateway_nonce=None),
    "no signature": changed(x_gateway_signature=None),
    "a signature without version": changed(x_gateway_signature="0" * 64),
    "a signature of a later version": changed(x_gateway_signature="v2=" + "0" * 64),
    "an empty signature": changed(x_gateway_signature=""),
    "another method": signed("HEAD"),
    "another path": signed(target="/ag-ui/thread"),
    "a query": signed(target="/ag-ui/threads?all=1"),
    "another body": signed(body=b"{}"),
    "another secret": signed(key=Key(ACTIVE_KEY.kid, b"\x0c" * 32)),
}


@pytest.mark.parametrize("headers", FORGERIES.values(), ids=FORGERIES.keys())
async def test_a_forged_signature_is_refused(headers):
    site = Site()

    answer = await site.get(headers=headers)

    assert (answer.status, answer.code) == (401, "invalid_signature")
    assert site.scopes == []
    assert site.observer.refusals == [("invalid_signature", "198.51.100.7")]


async def test_an_escape_in_the_path_is_signed_as_it_was_sent():
    """`%2F` and `/` are one path after decoding, and two calls."""
    site = Site()

    assert (await site.get("/a%2Fb", headers=signed(target="/a%2Fb"))).status == 200
    assert (await site.get("/a%2Fb", headers=signed(target="/a/b"))).code == "invalid_signature"


async def test_a_server_that_leaves_the_query_on_the_raw_path_is_understood():
    site = Site()
    scope = request_scope("GET", "/a?b=c", signed(target="/a?b=c"))

    assert (await site.call(scope | {"raw_path": b"/a?b=c"})).status == 200


async def test_nobody_comes_through_an_empty_key_ring():
    site = Site(keys=KeyRing())

    assert (await site.get(headers=signed())).code == "invalid_signature"
    assert (await site.get(headers=changed(x_gateway_key_id=""))).code == "invalid_signature"


def test_a_refusal_does_not_say_what_differs():
    with pytest.raises(Problem) as unknown_key:
        read_claim(
            read_headers([(b"x-gateway-signature", b"v1=" + b"0" * 64)]), KeyRing((ACTIVE_KEY,)), now=VECTOR_TIME
        )
    read = read_headers([(name.encode(), value.encode()) for name, value in signed().items()])
    with pytest.raises(Problem) as wrong_body:
        read_claim(read, KeyRing((ACTIVE_KEY,)), now=NOW).verify(read, method="GET", target="/ag-ui/threads", body=b"x")

    assert unknown_key.value.body() == wrong_body.value.body()
