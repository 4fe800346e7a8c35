from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from agentbackend.foundation.keyring import KeyRing
from agentbackend.foundation.outbound import OutboundPolicy
from agentbackend.foundation.problems import Problem
from agentbackend.gateway.authentication import Authenticator, key_set_host
from agentbackend.gateway.token_keys import FRESH_SECONDS, USABLE_SECONDS, KeySetError, TokenKeys, read_key_set
from agentbackend.gateway.tokens import TokenVerifier
from tests.foundation.loopback import Answer, Loopback, Seen, loopback
from tests.gateway.support import ACTIVE_KEY, LOOPBACK, USER, Remembering, Site, identity, signed

EC_KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_EC_KEY = ec.generate_private_key(ec.SECP256R1())
P384_KEY = ec.generate_private_key(ec.SECP384R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
SECRET = "a legacy secret of more than 32 characters"
SOMEBODY_ELSE = "0b6f1d0e-6f1c-4a53-9c1e-2f6f5f3f8a11"


def public(key: Any, kid: str, **more: str) -> dict[str, Any]:
    kind = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    return {**json.loads(kind.to_jwk(key.public_key())), "kid": kid, "use": "sig", **more}


@dataclass
class Project:
    """A Supabase project's key set, as its server answers it."""

    site: Loopback
    keys: list[dict[str, Any]] = field(
        default_factory=lambda: [public(EC_KEY, "ec", alg="ES256"), public(RSA_KEY, "rsa", alg="RS256")]
    )
    status: int = 200
    body: bytes | None = None
    never: bool = False
    now: float = 1000.0
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def issuer(self) -> str:
        return f"{self.site.url}/auth/v1"

    @property
    def fetches(self) -> int:
        return len(self.site.seen)

    def answer(self, seen: Seen) -> Answer:
        assert seen.target == "/auth/v1/.well-known/jwks.json"
        self.asked.set()
        body = json.dumps({"keys": self.keys}).encode() if self.body is None else self.body
        return Answer(self.status, body, never=self.never)

    def token_keys(self) -> TokenKeys:
        policy = OutboundPolicy(allowed_hosts=key_set_host(self.site.url))
        return TokenKeys(f"{self.issuer}/.well-known/jwks.json", policy, clock=lambda: self.now)

    def verifier(self, secret: str = "") -> TokenVerifier:
        return TokenVerifier(issuer=self.issuer, keys=self.token_keys(), secret=secret)


@asynccontextmanager
async def project() -> AsyncIterator[Project]:
    made: list[Project] = []
    async with loopback(lambda seen: made[0].answer(seen)) as site:
        made.append(Project(site))
        yield made[0]


def token(issuer: str = "", key: Any = EC_KEY, algorithm: str = "ES256", kid: str | None = "ec", **claims: Any) -> str:
    """A token as Supabase makes it; a claim of None is left out."""
    now = int(time.time())
    content = {
        "iss": issuer,
        "aud": "authenticated",
        "sub": USER,
        "role": "authenticated",
        "iat": now,
        "exp": now + 600,
        "app_metadata": {"role": "operator"},
        "user_metadata": {"role": "admin"},
    } | claims
    given = {name: value for name, value in content.items() if value is not None}
    return jwt.encode(given, key, algorithm=algorithm, headers={"kid": kid} if kid else None)


def signed_with_a_secret(original: str, secret: bytes) -> str:
    """The same claims under HS256, with what should never be a secret (PyJWT would not do it)."""
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"ec","typ":"JWT"}').rstrip(b"=").decode()
    text = f"{head}.{original.split('.')[1]}"
    seal = hmac.new(secret, text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(seal).rstrip(b'=').decode()}"


async def ask(verifier: TokenVerifier, bearer: str, who: dict[str, str] | None = None) -> str:
    """Send a signed request with this token; the problem's code, or `through`."""
    site = Site(tokens=verifier)
    answer = await site.get(headers=signed(who=who) | {"authorization": f"Bearer {bearer}"})
    if answer.status == 200:
        assert site.actor.token_verified
        return "through"
    assert site.scopes == []
    return answer.code


async def test_tokens_of_all_three_families_are_accepted():
    async with project() as supabase:
        verifier = supabase.verifier(SECRET)
        for one in (
            token(supabase.issuer),
            token(supabase.issuer, RSA_KEY, "RS256", "rsa"),
            token(supabase.issuer, SECRET.encode(), "HS256", None),
        ):
            assert await ask(verifier, one) == "through"
        await verifier.aclose()

        assert supabase.fetches == 1


async def test_a_legacy_project_without_an_address_is_enough_for_its_own_tokens():
    verifier = TokenVerifier(secret=SECRET)

    assert await ask(verifier, token("anybody", SECRET.encode(), "HS256", None)) == "through"
    assert await ask(verifier, token("anybody")) == "invalid_token"


BAD_CLAIMS: dict[str, dict[str, Any]] = {
    "of another project": {"iss": "https://evil.supabase.co/auth/v1"},
    "without issuer": {"iss": None},
    "for others": {"aud": "others"},
    "without audience": {"aud": None},
    "expired": {"exp": int(time.time()) - 60},
    "without end": {"exp": None},
    "not yet valid": {"nbf": int(time.time()) + 600},
    "of an anonymous key": {"role": "anon"},
    "of a service key": {"role": "service_role"},
    "without a database role": {"role": None},
    "of somebody else": {"sub": SOMEBODY_ELSE},
    "of the same person in capitals": {"sub": USER.upper()},
    "of nobody": {"sub": None},
    "with another role": {"app_metadata": {"role": "user"}},
    "with another role from the hook": {"user_role": "user"},
    "without a role, which is user": {"app_metadata": {}},
    "with app metadata that is none": {"app_metadata": "operator"},
}


@pytest.mark.parametrize("claims", BAD_CLAIMS.values(), ids=BAD_CLAIMS.keys())
async def test_a_token_is_refused(claims):
    async with project() as supabase:
        verifier = supabase.verifier()
        assert await ask(verifier, token(supabase.issuer)) == "through"
        assert await ask(verifier, token(**{"issuer": supabase.issuer} | claims)) == "invalid_token"
        await verifier.aclose()


async def test_a_token_that_just_expired_is_within_the_leeway():
    async with project() as supabase:
        verifier = supabase.verifier()
        assert await ask(verifier, token(supabase.issuer, exp=int(time.time()) - 2)) == "through"
        await verifier.aclose()


async def test_the_role_comes_from_the_hook_then_app_metadata_and_never_from_the_user():
    async with project() as supabase:
        verifier = supabase.verifier()
        hook = token(supabase.issuer, user_role="auditor")
        neither = token(supabase.issuer, app_metadata=None)
        unusable = token(supabase.issuer, user_role="No Role")

        assert await ask(verifier, hook, identity(x_supabase_user_role="auditor")) == "through"
        assert await ask(verifier, neither, identity(x_supabase_user_role="user")) == "through"
        assert await ask(verifier, neither, identity(x_supabase_user_role="admin")) == "invalid_token"
        assert await ask(verifier, unusable, identity(x_supabase_user_role="operator")) == "through"
        await verifier.aclose()


async def test_a_forged_token_is_refused():
    async with project() as supabase:
        verifier = supabase.verifier("another secret of more than 32 characters")
        published = json.dumps(supabase.keys[0]).encode()
        head, payload, _ = token(supabase.issuer).split(".")
        for forged in (
            token(supabase.issuer, OTHER_EC_KEY),
            token(supabase.issuer, OTHER_EC_KEY, kid="unheard"),
            token(supabase.issuer, kid=None),
            token(supabase.issuer, kid="rsa"),
            token(supabase.issuer, P384_KEY, "ES384"),
            token(supabase.issuer, RSA_KEY, "PS256", "rsa"),
            signed_with_a_secret(token(supabase.issuer), published),
            token(supabase.issuer, SECRET.encode(), "HS256", None),
            jwt.encode({"sub": USER, "role": "authenticated"}, None, algorithm="none") + "x",
            f"{head}.{payload}.AAAA",
            "a.b.c",
        ):
            assert await ask(verifier, forged) == "invalid_token"
        await verifier.aclose()


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer x", "Basic YTpi", "Bearer a.b.c d", "Bearer a.b.c\u00e9"]
)
async def test_a_verifier_that_is_configured_wants_a_token(header):
    site = Site(tokens=TokenVerifier(secret=SECRET))
    more = {} if header is None else {"authorization": header}

    answer = await site.get(headers=signed() | more)

    assert (answer.status, answer.code) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_token_is_wanted_on_the_debug_path_too():
    site = Site(debug=True, tokens=TokenVerifier(secret=SECRET))
    one = token("", SECRET.encode(), "HS256", None)

    assert (await site.get(headers=identity(), client=LOOPBACK)).status == 401
    assert (await site.get(headers=identity() | {"authorization": f"bearer {one}"}, client=LOOPBACK)).status == 200


# --- the key set


async def test_a_rotated_key_is_found_and_made_up_ids_bring_no_storm():
    async with project() as supabase:
        keys = supabase.token_keys()
        assert await keys.find("ec") is not None
        supabase.keys.append(public(OTHER_EC_KEY, "next"))

        assert await keys.find("next") is None  # asked too soon after the last fetch
        supabase.now += 30
        assert await keys.find("next") is not None
        for number in range(20):
            assert await keys.find(f"made-up-{number}") is None
        assert supabase.fetches == 2
        await keys.aclose()


async def test_many_first_requests_share_one_fetch():
    async with project() as supabase:
        keys = supabase.token_keys()

        found = await asyncio.gather(*(keys.find("ec") for _ in range(20)))

        assert all(found)
        assert supabase.fetches == 1
        await keys.aclose()


async def test_a_request_that_is_cancelled_leaves_the_shared_fetch_alone():
    async with project() as supabase:
        keys = supabase.token_keys()
        first = asyncio.create_task(keys.find("ec"))
        second = asyncio.create_task(keys.find("ec"))
        await asyncio.sleep(0)
        first.cancel()

        assert await second is not None
        assert supabase.fetches == 1
        await keys.aclose()


async def test_old_keys_are_renewed_beside_the_requests():
    async with project() as supabase:
        keys = supabase.token_keys()
        await keys.find("ec")
        supabase.never = True
        supabase.asked.clear()
        supabase.now += FRESH_SECONDS + 1

        assert await keys.find("ec") is not None  # answered while the server is silent
        await asyncio.wait_for(supabase.asked.wait(), 10)
        await keys.aclose()


async def test_keys_stay_usable_for_an_hour_while_the_key_set_cannot_be_fetched():
    async with project() as supabase:
        keys = supabase.token_keys()
        await keys.find("ec")
        supabase.status = 500
        supabase.asked.clear()

        supabase.now += USABLE_SECONDS - 1
        assert await keys.find("ec") is not None
        await asyncio.wait_for(supabase.asked.wait(), 10)
        supabase.now += 31
        with pytest.raises(Problem) as caught:
            await keys.find("ec")
        assert caught.value.code == "token_keys_unavailable"

        supabase.status = 200
        supabase.now += 2
        assert await keys.find("ec") is not None
        await keys.aclose()


@pytest.mark.parametrize(
    "broken",
    [
        {"status": 500},
        {"status": 302},
        {"body": b"<html>"},
        {"body": b"[]"},
        {"body": b'{"keys": {}}'},
        {"body": b'{"keys": [' + b" " * 300_000 + b"]}"},
    ],
)
async def test_without_any_keys_the_answer_is_to_try_again(broken):
    async with project() as supabase:
        for name, value in broken.items():
            setattr(supabase, name, value)
        verifier = supabase.verifier()

        site = Site(tokens=verifier)
        answer = await site.get(headers=signed() | {"authorization": f"Bearer {token(supabase.issuer)}"})

        assert (answer.status, answer.code) == (503, "token_keys_unavailable")
        assert answer.headers["retry-after"] == "5"
        assert await ask(verifier, token(supabase.issuer)) == "token_keys_unavailable"
        assert supabase.fetches == 1  # the second request did not ask again at once
        await verifier.aclose()


async def test_a_key_set_server_that_is_down_is_to_be_tried_again():
    async with project() as supabase:
        pass
    verifier = supabase.verifier()

    assert await ask(verifier, token(supabase.issuer)) == "token_keys_unavailable"
    await verifier.aclose()


async def test_an_unknown_key_during_an_outage_may_be_a_new_one():
    async with project() as supabase:
        keys = supabase.token_keys()
        await keys.find("ec")
        supabase.status = 503
        supabase.now += 30

        with pytest.raises(Problem) as caught:
            await keys.find("next")
        assert caught.value.code == "token_keys_unavailable"
        assert await keys.find("ec") is not None
        await keys.aclose()


def test_only_usable_keys_of_a_key_set_are_taken():
    weak = rsa.generate_private_key(65537, 1024)
    entries = [
        public(EC_KEY, "good"),
        public(RSA_KEY, "also-good"),
        public(EC_KEY, "encryption", use="enc"),
        public(P384_KEY, "another-curve"),
        public(EC_KEY, "another-algorithm", alg="ES384"),
        public(weak, "weak"),
        {**json.loads(ECAlgorithm.to_jwk(EC_KEY)), "kid": "private"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "symmetric", "alg": "HS256"},
        {"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA", "kid": "off-the-curve"},
        {"kty": "RSA", "kid": "empty"},
        {key: value for key, value in public(EC_KEY, "").items() if key != "kid"},
        "nonsense",
    ]

    assert set(read_key_set(json.dumps({"keys": entries}).encode())) == {"good", "also-good"}


def test_what_is_no_key_set_is_said_to_be_none():
    with pytest.raises(KeySetError):
        read_key_set(b"null")


# --- settings


class Settings:
    DEBUG = False
    ALLOWED_HOSTS = ["agents.example"]
    GATEWAY_SIGNING_KEYS = KeyRing((ACTIVE_KEY,))
    GATEWAY_UNSIGNED_FROM: list[str] = []
    SUPABASE_URL = ""
    SUPABASE_JWT_SECRET = ""


async def test_the_settings_switch_verification_on():
    async with project() as supabase:
        settings = Settings()
        settings.SUPABASE_URL = supabase.site.url
        policy = OutboundPolicy(allowed_hosts=key_set_host(settings.SUPABASE_URL))
        site = Site()
        site.authenticator = Authenticator.from_settings(settings, observer=Remembering(), policy=policy)
        headers = signed(now=time.time())

        assert (await site.get(headers=headers)).code == "unauthenticated"
        good = {"authorization": f"Bearer {token(supabase.issuer)}"}
        assert (await site.get(headers=headers | good)).status == 200
        await site.authenticator.aclose()
