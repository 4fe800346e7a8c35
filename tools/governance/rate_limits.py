"""How often a tool may be called: a moving window over all processes (Redis), or in this one.

The counting is the `limits` package's. When Redis is away the limit is kept by each process for itself: less strict, never absent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import lru_cache
from typing import Final

from django.conf import settings
from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import MovingWindowRateLimiter
from limits.errors import StorageError

from audit.actor import Actor
from tools.calls import RateLimitScope

logger = logging.getLogger(__name__)

MOST_SECONDS: Final = 30 * 24 * 3600
_WARN_EVERY_SECONDS = 60.0


class RateLimitFormatError(ValueError):
    """This is no rate limit; the text is for the person who wrote it."""


class RateLimitedError(Exception):
    """The limit is used up; `retry_after_seconds` says when there is room again."""

    def __init__(self, limit: RateLimitItem, retry_after_seconds: float) -> None:
        self.limit = limit
        self.retry_after_seconds = retry_after_seconds
        super().__init__(f"more than {limit}")


@lru_cache(maxsize=1024)
def read_limit(text: str) -> RateLimitItem:
    """A limit as administrators write it: `30/minute`, `5 per 10 second`. Raises RateLimitFormatError."""
    try:
        item = parse(text)
    except ValueError:
        raise RateLimitFormatError(
            f"{text!r} is no rate limit: write for example 30/minute or 5 per 10 second."
        ) from None
    if item.amount < 1 or not 1 <= item.get_expiry() <= MOST_SECONDS:
        raise RateLimitFormatError(f"{text!r}: at least one call, in one second to thirty days.")
    return item


class RateLimiter:
    """Counts calls; one per process and event loop."""

    def __init__(self, redis_url: str = "") -> None:
        self._local = MovingWindowRateLimiter(MemoryStorage())
        self._shared = MovingWindowRateLimiter(_redis(redis_url)) if redis_url else None
        self._warned_at = float("-inf")

    async def use(self, limit: RateLimitItem, *parts: str) -> None:
        """Count one use of what `parts` name; raises RateLimitedError when that is one too many."""
        if self._shared is not None:
            try:
                await self._use(self._shared, limit, parts)
            except (StorageError, OSError, TimeoutError):
                self._warn()
            else:
                return
        await self._use(self._local, limit, parts)

    async def _use(self, limiter: MovingWindowRateLimiter, limit: RateLimitItem, parts: tuple[str, ...]) -> None:
        if await limiter.hit(limit, *parts):
            return
        window = await limiter.get_window_stats(limit, *parts)
        raise RateLimitedError(limit, max(0.0, window.reset_time - time.time()))

    def _warn(self) -> None:
        if time.monotonic() - self._warned_at > _WARN_EVERY_SECONDS:
            self._warned_at = time.monotonic()
            logger.warning("Redis is away: each process keeps rate limits for itself")


_limiters: dict[asyncio.AbstractEventLoop, RateLimiter] = {}


async def use_tool_limit(text: str, scope: RateLimitScope, tool: str, actor: Actor) -> None:
    """Count a call of a tool under its limit; raises RateLimitedError."""
    loop = asyncio.get_running_loop()
    limiter = _limiters.get(loop)
    if limiter is None:
        for closed in [other for other in _limiters if other.is_closed()]:
            del _limiters[closed]
        limiter = _limiters[loop] = RateLimiter(settings.REDIS_URL)
    whose = actor.id if scope is RateLimitScope.CALLER else "*"
    await limiter.use(read_limit(text), "tool", tool, actor.tenant, whose)


def _redis(url: str) -> Storage:
    return RedisStorage(
        f"async+{url}", wrap_exceptions=True, implementation="redispy", key_prefix="agentbackend:limits"
    )
