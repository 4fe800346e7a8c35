"""Nonces of signed requests: each is good once, for all processes of the service."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from datetime import UTC, datetime
from uuid import UUID

import psycopg
from psycopg_pool import PoolTimeout

from agentbackend.foundation.database import DatabaseClosedError, database
from agentbackend.foundation.problems import Problem
from agentbackend.gateway.signature import ALLOWED_SKEW_SECONDS, SignatureClaim

logger = logging.getLogger(__name__)

# A nonce must outlive its signature, also when this machine's clock and the database's differ.
_KEPT_SECONDS = 2 * ALLOWED_SKEW_SECONDS
_LONGEST_WAIT_SECONDS = 5.0
_NO_DATABASE = (psycopg.Error, PoolTimeout, DatabaseClosedError, TimeoutError, OSError)

_USE = "INSERT INTO gateway_nonces (id, expires_at) VALUES (%s, %s) ON CONFLICT DO NOTHING"
_PRUNE = "DELETE FROM gateway_nonces WHERE expires_at < now()"


async def use_nonce(claim: SignatureClaim) -> None:
    """Mark a verified signature as used.

    Raises Problem: `replayed_request` the second time, `unavailable` when it cannot be written, because a
    request that might be a replay is not let through.
    """
    expires_at = datetime.fromtimestamp(claim.timestamp + _KEPT_SECONDS, tz=UTC)
    try:
        async with asyncio.timeout(_LONGEST_WAIT_SECONDS):
            used = await database.execute(_USE, (_nonce_id(claim), expires_at))
    except _NO_DATABASE as error:
        logger.warning("a nonce could not be stored", extra={"reason": type(error).__name__})
        raise Problem("unavailable", "The request cannot be checked at the moment.") from error
    if not used:
        raise Problem("replayed_request")


async def prune_nonces() -> int:
    """Delete what has expired; the service calls this each minute. Returns how many there were."""
    return await database.execute(_PRUNE)


def _nonce_id(claim: SignatureClaim) -> UUID:
    """128 bits of a digest: nonces have any form up to 128 characters, and each key has its own."""
    return UUID(bytes=hashlib.sha256(f"{claim.key.kid}\n{claim.nonce}".encode()).digest()[:16])
