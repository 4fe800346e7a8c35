"""The announcing: what is due is claimed for a while and posted by jobs; a claim that nobody ends comes round again.

So each state is announced at least once, also when the process that saw it, or was announcing it, died. A receiver that cannot be
reached or answers with an error is tried again, less and less often, for about half a day.

A request carries the task as a `StreamResponse`, the configuration's token and credentials, and, where the service has a key for
cards, a JSON Web Token signed with it (ES256) that names the delivery and the body's SHA-256.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import httpx
import jwt

from a2a.push.configs import opened
from a2a.run_port import RunPort
from a2a.serving.progress import brought_up_to_date
from a2a.signing_keys import SigningKeys
from a2a.task_store import unended_tasks
from agentbackend.foundation.database import Database
from agentbackend.foundation.outbound import GuardedClient, OutboundError, OutboundPolicy, guarded_client
from tools.vault import VaultError

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS: Final = 10.0
CLAIM_SECONDS: Final = 60.0
MOST_ATTEMPTS: Final = 14
KEPT_DAYS: Final = 7
MOST_AT_ONCE: Final = 100
_FIRST_PAUSE_SECONDS: Final = 2.0
_LONGEST_PAUSE_SECONDS: Final = 4 * 3600.0
_MAX_ANSWER: Final = 64 * 1024
_FIRST: Final = UUID(int=0)

_CLAIM = """
UPDATE a2a_pushdelivery SET next_at = now() + make_interval(secs => %s)
WHERE id IN (SELECT id FROM a2a_pushdelivery WHERE ended_at IS NULL AND next_at <= now() ORDER BY next_at LIMIT %s
    FOR UPDATE SKIP LOCKED)
RETURNING id
"""
_DELIVERY = """
SELECT delivery.payload, delivery.attempts, config.task_id, config.config_id, config.url, config.scheme, config.kid, config.sealed,
    EXISTS (SELECT FROM a2a_pushdelivery AS earlier WHERE earlier.config_id = delivery.config_id AND earlier.ended_at IS NULL
            AND earlier.id < delivery.id)
FROM a2a_pushdelivery AS delivery JOIN a2a_pushconfig AS config ON config.id = delivery.config_id
WHERE delivery.id = %s AND delivery.ended_at IS NULL
"""


@dataclass(slots=True)
class Announcer:
    """Announces states of tasks. `keys`: what requests are signed with, if anything."""

    database: Database
    runs: RunPort
    policy: OutboundPolicy
    keys: SigningKeys
    _client: GuardedClient | None = None
    _looked_at: UUID = _FIRST

    async def due(self) -> list[UUID]:
        """Look at tasks that somebody waits for, and claim what is to be announced now; whoever gets the ids announces it."""
        waiting = await unended_tasks(self.database, self._looked_at, MOST_AT_ONCE, announced_only=True)
        self._looked_at = waiting[-1].id if len(waiting) == MOST_AT_ONCE else _FIRST
        await brought_up_to_date(self.database, self.runs, waiting)
        rows = await self.database.fetch_all(_CLAIM, (CLAIM_SECONDS, MOST_AT_ONCE))
        return [row[0] for row in rows]

    async def look_at_all(self) -> None:
        """Bring every task up to date that has not ended, so that lists tell how it stands; whoever asks for one is told anyway."""
        after = _FIRST
        while some := await unended_tasks(self.database, after, MOST_AT_ONCE, announced_only=False):
            await brought_up_to_date(self.database, self.runs, some)
            after = some[-1].id

    async def announce(self, delivery_id: UUID) -> None:
        """Post one announcement and note what came of it. Raises nothing that a second try could help."""
        row = await self.database.fetch_one(_DELIVERY, (delivery_id,))
        if row is None:
            return
        payload, attempts, task_id, config_id, url, scheme, kid, sealed, comes_later = row
        if comes_later:  # states are announced in their order
            await self._again(delivery_id, attempts, 1.0, "an earlier state is announced first", counts=False)
            return
        try:
            secrets = opened(task_id, config_id, kid, sealed)
            problem = await self._post(delivery_id, url, payload.encode(), scheme, secrets)
        except VaultError:
            logger.exception("the secrets of a push notification cannot be opened")
            problem = "its secrets cannot be opened"
        if not problem:
            await self._end(delivery_id, "")
        elif attempts + 1 >= MOST_ATTEMPTS:
            logger.warning("a push notification is given up", extra={"delivery": str(delivery_id), "reason": problem})
            await self._end(delivery_id, problem)
        else:
            pause = min(_FIRST_PAUSE_SECONDS * 2.5**attempts, _LONGEST_PAUSE_SECONDS) * random.uniform(0.8, 1.2)  # noqa: S311
            await self._again(delivery_id, attempts, pause, problem)

    async def remove_old(self) -> None:
        """Forget what was announced, or given up, some days ago."""
        await self.database.execute(
            "DELETE FROM a2a_pushdelivery WHERE ended_at < now() - make_interval(days => %s)", (KEPT_DAYS,)
        )

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _post(self, delivery_id: UUID, url: str, body: bytes, scheme: str, secrets: dict[str, str]) -> str:
        """Why it was not taken; empty when it was. Never what the receiver said: that is not ours to keep."""
        headers = {"content-type": "application/json", "a2a-version": "1.0"}
        if secrets["token"]:
            headers["x-a2a-notification-token"] = secrets["token"]
        if scheme and secrets["credentials"]:
            headers["authorization"] = f"{scheme} {secrets['credentials']}"
        if signature := self._signature(delivery_id, body):
            headers["x-a2a-notification-signature"] = signature
        if self._client is None:
            self._client = guarded_client(
                self.policy,
                timeout=TIMEOUT_SECONDS,
                total_seconds=TIMEOUT_SECONDS,
                max_response_bytes=_MAX_ANSWER,
                max_connections=20,
            )
        try:
            answer = await self._client.post(url, content=body, headers=headers)
        except OutboundError as error:
            return str(error)[:300]
        except (httpx.HTTPError, OSError, ValueError) as error:
            return f"could not be reached ({type(error).__name__})"
        return "" if answer.is_success else f"answered with status {answer.status_code}"

    def _signature(self, delivery_id: UUID, body: bytes) -> str:
        key = self.keys.active
        if key is None:
            return ""
        now = datetime.now(UTC)
        claims: dict[str, Any] = {
            "iat": now,
            "exp": now + timedelta(minutes=5),
            "jti": str(delivery_id),
            "request_body_sha256": sha256(body).hexdigest(),
        }
        return jwt.encode(claims, key.private, algorithm="ES256", headers={"kid": key.kid})

    async def _end(self, delivery_id: UUID, problem: str) -> None:
        await self.database.execute(
            "UPDATE a2a_pushdelivery SET ended_at = now(), attempts = attempts + 1, problem = %s WHERE id = %s",
            (problem, delivery_id),
        )

    async def _again(
        self, delivery_id: UUID, attempts: int, seconds: float, problem: str, *, counts: bool = True
    ) -> None:
        await self.database.execute(
            "UPDATE a2a_pushdelivery SET next_at = now() + make_interval(secs => %s), attempts = %s, problem = %s WHERE id = %s",
            (seconds, attempts + (1 if counts else 0), problem, delivery_id),
        )


def as_arguments(deliveries: Sequence[UUID]) -> list[str]:
    """Ids as a job's arguments."""
    return [str(delivery) for delivery in deliveries]
