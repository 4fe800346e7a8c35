"""The public keys that sign access tokens: Supabase's key set (JWKS), fetched and kept.

One fetch at a time. Kept for ten minutes, then renewed beside the requests, which go on with the old keys;
when the key set cannot be fetched they stay in use for an hour. A key id that is not there brings a fetch at
most each half minute, so that made-up ids cannot make us a nuisance to Supabase.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable
from typing import Any

import httpx
import orjson
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from agentbackend.foundation.outbound import GuardedClient, OutboundError, OutboundPolicy, guarded_client, read_bounded
from agentbackend.foundation.problems import Problem

logger = logging.getLogger(__name__)

FRESH_SECONDS = 600.0
USABLE_SECONDS = 3600.0
UNKNOWN_KEY_PAUSE_SECONDS = 30.0
FAILED_FETCH_PAUSE_SECONDS = 2.0

_FETCH_SECONDS = 5.0
_LARGEST_KEY_SET = 256 * 1024
_MOST_KEYS = 100
_ALGORITHMS = {"EC": "ES256", "RSA": "RS256"}
_SMALLEST_RSA_BITS = 2048


class KeySetError(Exception):
    """What was fetched is no key set."""


class TokenKeys:
    """The keys of one key set, for one event loop."""

    def __init__(self, url: str, policy: OutboundPolicy, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._policy = policy
        self._clock = clock
        self._client: GuardedClient | None = None
        self._keys: dict[str, PyJWK] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._failed = False
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, kid: str) -> PyJWK | None:
        """The key of this id, or None when the key set does not hold it.

        Raises Problem `token_keys_unavailable` when that cannot be known.
        """
        age = self._clock() - self._fetched_at
        if age > USABLE_SECONDS:
            await self._fetch(pause=FAILED_FETCH_PAUSE_SECONDS)
        elif kid not in self._keys:
            await self._fetch(pause=UNKNOWN_KEY_PAUSE_SECONDS)
        elif age > FRESH_SECONDS and self._may_fetch(UNKNOWN_KEY_PAUSE_SECONDS):
            self._begin_fetch()
        if self._clock() - self._fetched_at > USABLE_SECONDS or (kid not in self._keys and self._failed):
            raise Problem("token_keys_unavailable", headers=((b"retry-after", b"5"),))
        return self._keys.get(kid)

    async def aclose(self) -> None:
        """End a fetch that is going on and close the connections."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def _fetch(self, *, pause: float) -> None:
        """Have the key set fetched, or wait for the fetch that is going on.

        Not within `pause` seconds of the last one.
        """
        if self._fetching is not None:
            await asyncio.shield(self._fetching)
        elif self._may_fetch(pause):
            await asyncio.shield(self._begin_fetch())

    def _may_fetch(self, pause: float) -> bool:
        return self._fetching is None and self._clock() - self._tried_at >= pause

    def _begin_fetch(self) -> asyncio.Task[None]:
        # In an empty context: the fetch belongs to no request and must not carry one's log fields or thread
        # along.
        task = asyncio.get_running_loop().create_task(self._fetch_now(), context=contextvars.Context())
        self._fetching = task
        self._tried_at = self._clock()
        return task

    async def _fetch_now(self) -> None:
        try:
            self._keys = read_key_set(await self._download())
        except (httpx.HTTPError, OutboundError, KeySetError, TimeoutError) as error:
            self._failed = True
            logger.warning("the token keys could not be fetched", extra={"reason": type(error).__name__})
        else:
            self._failed = False
            self._fetched_at = self._clock()
        finally:
            self._fetching = None

    async def _download(self) -> bytes:
        if self._client is None:
            self._client = guarded_client(self._policy, timeout=_FETCH_SECONDS, max_connections=2)
        async with asyncio.timeout(_FETCH_SECONDS):
            request = self._client.build_request("GET", self._url, headers={"accept": "application/json"})
            response = await self._client.send(request, stream=True)
            body = await read_bounded(response, _LARGEST_KEY_SET)
        if response.status_code != 200:
            raise KeySetError(f"status {response.status_code}")
        return body


def read_key_set(document: bytes) -> dict[str, PyJWK]:
    """The usable keys by id: elliptic curve P-256 for ES256, RSA of at least 2048 bits for RS256.

    Others are passed over, so that one of a new kind does no harm. Raises KeySetError when the document is no
    key set.
    """
    try:
        entries = orjson.loads(document)["keys"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise KeySetError("not a key set") from error
    if not isinstance(entries, list):
        raise KeySetError("not a key set")
    found = (_read_key(entry) for entry in entries[:_MOST_KEYS])
    return {kid: key for kid, key in found if key is not None}


def _read_key(entry: Any) -> tuple[str, PyJWK | None]:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or "d" in entry:  # d: a private key
        return "", None
    kid, algorithm = entry.get("kid"), _ALGORITHMS.get(str(entry.get("kty")))
    if not isinstance(kid, str) or not kid or algorithm is None or entry.get("alg", algorithm) != algorithm:
        return "", None
    try:
        key = PyJWK(entry, algorithm)
    except PyJWTError:
        return "", None
    if algorithm == "ES256" and entry.get("crv") != "P-256":
        return "", None
    if algorithm == "RS256" and key.key.key_size < _SMALLEST_RSA_BITS:
        return "", None
    return kid, key
