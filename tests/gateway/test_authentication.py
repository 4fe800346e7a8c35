from __future__ import annotations

import logging

import pytest

from agentbackend.foundation.keyring import KeyRing
from agentbackend.foundation.outbound import OutboundPolicy
from agentbackend.gateway.authentication import Authenticator, GatewaySettingsError, key_set_host
from tests.gateway.support import (
    ACTIVE_KEY,
    LOOPBACK,
    STRANGER,
    USER,
    Remembering,
    Site,
    identity,
    request_scope,
    signed,
)

# --- who is let through


async def test_the_application_finds_the_caller_in_its_scope():
    site = Site()
    who = identity(x_supabase_user_email="zo%C3%AB@%E4%BE%8B.cn")

    answer = await site.get(headers=signed(who=who) | {"x-session-id": "tab-1", "x-request-id": "req-1"})

    assert answer.status == 200
    assert (site.actor.id, site.actor.email, site.actor.role) == (USER, "zoë@例.cn", "operator")
    assert site.actor.session_id == "5f0c2f64-0001-4000-8000-000000000001"
    assert (site.actor.kind, site.actor.tenant, site.actor.token_verified) == ("user", "default", False)
    assert site.scopes[0]["session_id"] == "tab-1"
    assert site.scopes[0]["request_id"] == "req-1"
    assert site.observer.accepted_actors == [site.actor]
    assert site.observer.refusals == []


@pytest.mark.parametrize("role", ["", "Admin", "admin,user", "a b", "1st", "x" * 65])
async def test_a_missing_or_unusable_role_is_user(role):
    site = Site()

    await site.get(headers=signed(who=identity(x_supabase_user_role=role)))

    assert site.actor.role == "user"


@pytest.mark.parametrize("user_id", ["", USER.upper(), USER[:-1], "me", "{" + USER + "}", USER.replace("-", "")])
async def test_a_user_id_that_is_no_lower_case_uuid_is_refused(user_id):
    site = Site()

    answer = await site.get(headers=signed(who=identity(x_supabase_user_id=user_id)))

    assert (answer.status, answer.code) == (401, "invalid_user_id")
    assert site.scopes == []


async def test_a_missing_user_id_is_refused():
    site = Site(debug=True)

    assert (await site.get(client=LOOPBACK)).code == "invalid_user_id"


@pytest.mark.parametrize("email", ["a%00b", "a%0Ab@c", "%ff%fe", "%ED%A0%80", "a" * 321])
async def test_an_email_that_cannot_be_decoded_is_refused(email):
    site = Site()

    answer = await site.get(headers=signed(who=identity(x_supabase_user_email=email)))

    assert (answer.status, answer.code) == (400, "malformed_headers")


# --- the form of a request


@pytest.mark.parametrize(
    "more",
    [
        [(b"x-supabase-user-role", b"admin")],
        [(b"X-Supabase-User-Id", USER.encode())],
        [(b"x_supabase_user_role", b"admin")],
        [(b"x-supabase_user-role", b"admin")],
        [(b"x-gateway-signature", b"v1=" + b"0" * 64)],
        [(b"x_gateway_signature", b"v1=" + b"0" * 64)],
        [(b"x-supabase-unheard-of", b"a"), (b"x-supabase-unheard-of", b"b")],
        [(b"host", b"agents.example")],
        [(b"authorization", b"Bearer a.b.c"), (b"authorization", b"Bearer d.e.f")],
        [(b"x-session-id", b"a"), (b"x-session-id", b"b")],
        [(b"x_session_id", b"a")],
        [(b"x-supabase-tag", "é".encode("latin-1"))],
        [(b"x-gateway-note", b"a\x00b")],
    ],
)
async def test_doubled_and_misspelt_headers_are_refused(more):
    site = Site()

    answer = await site.get(headers=signed(), more=more)

    assert (answer.status, answer.code) == (400, "malformed_headers")
    assert site.scopes == []


@pytest.mark.parametrize("host", ["agents.example", "AGENTS.example:8443", "a.internal.example", "agents.example."])
async def test_an_allowed_host_is_answered(host):
    assert (await Site().get(headers=signed(), host=host)).status == 200


@pytest.mark.parametrize("host", ["", "else.example", "agents.example.evil.example", "agents.example/x", "a b", "[::1"])
async def test_another_host_is_refused(host):
    answer = await Site().get(headers=signed(), host=host)

    assert (answer.status, answer.code) == (400, "invalid_host")


async def test_a_request_without_a_host_is_refused():
    scope = request_scope("GET", "/ag-ui/threads", signed())
    scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"host"]

    assert (await Site().call(scope)).code == "invalid_host"


@pytest.mark.parametrize("session", ["", "a b", "é", "x" * 129, "tab\t1"])
async def test_an_unusable_session_id_is_refused(session):
    answer = await Site().get(headers=signed() | {"x-session-id": session})

    assert (answer.status, answer.code) == (400, "invalid_header")


async def test_request_and_session_are_named_in_the_answer():
    answer = await Site().get(headers=signed() | {"x-session-id": "tab-1", "x-request-id": "r" * 128})

    assert answer.headers["x-session-id"] == "tab-1"
    assert answer.headers["x-request-id"] == "r" * 128


@pytest.mark.parametrize("given", [[b"r" * 129], [b"a b"], [b"a", b"b"], ["é".encode("latin-1")], []])
async def test_an_unusable_request_id_is_replaced(given):
    site = Site()

    answer = await site.get(headers=signed(), more=[(b"x-request-id", value) for value in given])

    assert answer.status == 200
    assert len(answer.headers["x-request-id"]) == 36
    assert site.scopes[0]["request_id"] == answer.headers["x-request-id"]


async def test_an_answer_that_names_its_request_itself_is_left_alone():
    site = Site()

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 204, "headers": [(b"X-Request-ID", b"mine")]})
        await send({"type": "http.response.body", "body": b""})

    site.application = application
    answer = await site.get(headers=signed())

    assert {name.lower(): value for name, value in answer.headers.items()} == {"x-request-id": "mine"}


# --- the body


async def test_the_body_arrives_whole_and_the_disconnect_after_it():
    site = Site()
    scope = request_scope("OPTIONS", "/a", signed("OPTIONS", "/a", b'{"a": 1}'))

    answer = await site.call(scope, [b'{"a"', b"", b": 1}"])

    assert answer.status == 200
    assert site.received == [
        {"type": "http.request", "body": b'{"a": 1}', "more_body": False},
        {"type": "http.disconnect"},
    ]


MIB = 1024 * 1024


async def test_a_body_of_one_mebibyte_comes_through_and_one_byte_more_does_not():
    site = Site()
    for body, status in ((b"x" * MIB, 200), (b"x" * (MIB + 1), 413)):
        scope = request_scope("OPTIONS", "/a", signed("OPTIONS", "/a", body))
        assert (await site.call(scope, [body[:1000], body[1000:]])).status == status

    assert site.observer.refusals == [("body_too_large", STRANGER[0])]


async def test_a_body_that_is_announced_too_large_is_not_read():
    answer = await Site().get(headers=signed() | {"content-length": str(MIB + 1)})

    assert answer.code == "body_too_large"


@pytest.mark.parametrize("length", ["3", "5", "-4", "four", "", "4,4", "+4", "٤"])
async def test_a_content_length_that_is_not_the_bodys_is_refused(length):
    more = [(b"content-length", length.encode())]
    scope = request_scope("OPTIONS", "/a", signed("OPTIONS", "/a", b"four"), more=more)

    answer = await Site().call(scope, [b"four"])

    assert (answer.status, answer.code) == (400, "invalid_header")


async def test_a_client_that_leaves_during_its_body_is_not_answered():
    site = Site()
    scope = request_scope("OPTIONS", "/a", signed("OPTIONS", "/a", b"never complete"))

    answer = await site.call(scope, [])

    assert answer.kinds == []
    assert site.scopes == []
    assert site.observer.refusals == []


# --- WebSockets


async def test_a_websocket_is_refused_before_it_opens():
    site = Site()

    answer = await site.call(request_scope("GET", "/ws", kind="websocket"))

    assert answer.kinds == ["websocket.close"]
    assert site.observer.refusals == [("invalid_signature", STRANGER[0])]


async def test_a_websocket_is_refused_with_a_problem_where_the_server_can():
    scope = request_scope("GET", "/ws", kind="websocket")

    answer = await Site().call(scope | {"extensions": {"websocket.http.response": {}}})

    assert answer.kinds == ["websocket.http.response.start", "websocket.http.response.body"]
    assert answer.code == "invalid_signature"


async def test_a_websocket_of_the_debug_path_comes_through():
    site = Site(debug=True)

    answer = await site.call(request_scope("GET", "/ws", identity(), kind="websocket", client=LOOPBACK))

    assert answer.kinds == ["websocket.accept"]
    assert site.received == [{"type": "websocket.connect"}]
    assert site.actor.id == USER


# --- unsigned headers, for development


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
async def test_in_debug_unsigned_headers_of_this_machine_are_accepted(address):
    site = Site(debug=True)

    answer = await site.get(headers={"x-supabase-user-id": USER}, client=(address, 1))

    assert answer.status == 200
    assert site.actor.authenticated_by == "gateway_headers_debug"
    assert site.actor.role == "user"


async def test_unsigned_headers_are_never_accepted_outside_debug():
    answer = await Site(debug=False).get(headers=identity(), client=LOOPBACK)

    assert (answer.status, answer.code) == (401, "invalid_signature")
    assert answer.headers["www-authenticate"] == "SBGW1"


@pytest.mark.parametrize("client", [STRANGER, ("", 0), None, ("localhost", 1)])
async def test_in_debug_unsigned_headers_of_other_machines_are_refused(client):
    answer = await Site(debug=True).get(headers=identity(), client=client)

    assert answer.code == "invalid_signature"


async def test_networks_can_be_listed_for_unsigned_headers():
    site = Site(debug=True, unsigned_from=["198.51.100.0/24"])

    assert (await site.get(headers=identity(), client=STRANGER)).status == 200
    assert (await site.get(headers=identity(), client=LOOPBACK)).status == 401


@pytest.mark.parametrize(
    "header",
    [
        "forwarded", "x-forwarded-for", "X-Forwarded-Host", "x-forwarded-proto", "x_forwarded_for", "x-real-ip",
        "via", "x-original-url", "true-client-ip", "cf-connecting-ip", "x-client-ip",
    ],
)  # fmt: skip
async def test_in_debug_unsigned_headers_that_came_through_a_proxy_are_refused(header):
    answer = await Site(debug=True).get(headers=identity() | {header: "127.0.0.1"}, client=LOOPBACK)

    assert answer.code == "invalid_signature"


async def test_a_signature_is_verified_in_debug_too():
    site = Site(debug=True)

    assert (await site.get(headers=signed(), client=LOOPBACK)).status == 200
    assert site.actor.authenticated_by == "gateway_signature"
    forged = signed() | {"x-supabase-user-role": "admin"}
    assert (await site.get(headers=forged, client=LOOPBACK)).code == "invalid_signature"
    partial = identity() | {"x-gateway-nonce": "a-nonce-and-nothing-else"}
    assert (await site.get(headers=partial, client=LOOPBACK)).code == "invalid_signature"


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "http://localhost:3000", "http://localhost"])
async def test_in_debug_a_page_of_another_origin_may_not_send_unsigned_headers(origin):
    answer = await Site(debug=True).get(headers=identity() | {"origin": origin}, client=LOOPBACK, host="localhost:8000")

    assert (answer.status, answer.code) == (403, "forbidden")


async def test_in_debug_our_own_page_may_send_unsigned_headers():
    headers = identity() | {"origin": "http://localhost:8000"}

    assert (await Site(debug=True).get(headers=headers, client=LOOPBACK, host="localhost:8000")).status == 200


async def test_the_debug_path_is_logged_once(caplog):
    site = Site(debug=True)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            await site.get(headers=identity(), client=LOOPBACK)

    assert [record.message for record in caplog.records] == ["debug: gateway headers are accepted without a signature"]


# --- settings


class Settings:
    DEBUG = True
    ALLOWED_HOSTS = ["agents.example"]
    GATEWAY_SIGNING_KEYS = KeyRing((ACTIVE_KEY,))
    GATEWAY_UNSIGNED_FROM = ["127.0.0.1"]
    SUPABASE_URL = ""
    SUPABASE_JWT_SECRET = ""


def test_an_unreadable_address_is_named_with_its_setting():
    settings = Settings()
    settings.GATEWAY_UNSIGNED_FROM = ["127.0.0.1", "localhost"]

    with pytest.raises(GatewaySettingsError, match=r"GATEWAY_UNSIGNED_FROM: 'localhost'"):
        Authenticator.from_settings(settings, observer=Remembering(), policy=OutboundPolicy())


@pytest.mark.parametrize("url", ["ref.supabase.co", "ftp://ref.supabase.co", "https://", "https://a:b@c", "http://h:x"])
def test_an_unusable_supabase_url_is_named_with_its_setting(url):
    with pytest.raises(GatewaySettingsError, match=r"^SUPABASE_URL: "):
        key_set_host(url)


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("", []),
        ("https://ref.supabase.co", ["ref.supabase.co:443"]),
        ("http://127.0.0.1:54321", ["127.0.0.1:54321"]),
        ("http://[::1]:54321", ["[::1]:54321"]),
    ],
)
def test_the_policy_can_allow_the_key_sets_host(url, entry):
    assert key_set_host(url) == entry
    OutboundPolicy(allowed_hosts=entry)
