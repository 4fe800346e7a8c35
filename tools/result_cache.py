"""Results that answer the same call again for a while: in Django's cache (Redis when several processes share one).

What is kept is what the model was told; only whole results of tools without side effects are kept, never errors. A result is found
again by the same version of the tool, for the same user or role, with the same arguments. Who asks still passes the whole door.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from functools import lru_cache
from typing import Any

import orjson
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache

from audit.actor import Actor
from tools.calls import CacheScope
from tools.output import Output
from tools.registry import RegisteredTool, Snapshot

logger = logging.getLogger(__name__)


def key_of(snapshot: Snapshot, tool: RegisteredTool, arguments: dict[str, Any], actor: Actor) -> str:
    """Where the result of this call is kept; elsewhere once the remote server behind it is another, or is switched off."""
    server = snapshot.servers.get(str(tool.handler.get("server", "")))
    behind = [server.url, server.enabled] if server else None
    whose = actor.id if tool.cache_scope is CacheScope.USER else f"role:{actor.role}"
    named = [tool.definition.name, tool.definition.version, tool.version_id, actor.tenant, whose, behind, arguments]
    return f"tool-result:{hashlib.sha256(orjson.dumps(named, option=orjson.OPT_SORT_KEYS)).hexdigest()}"


async def find(key: str) -> Output | None:
    """The kept result; None when there is none, or the cache cannot be asked."""
    try:
        kept = await asyncio.to_thread(_cache().get, key)
        if kept is None:
            return None
        text, value = orjson.loads(kept)
    except Exception:  # a cache that is away costs time, never a call
        logger.warning("the cache of results cannot be read", exc_info=True)
        return None
    return Output(text, value, truncated=False)


async def keep(key: str, output: Output, seconds: int) -> None:
    """Keep a result; one that the cache cannot take is not kept."""
    try:
        await asyncio.to_thread(_cache().set, key, orjson.dumps([output.text, output.value]), seconds)
    except Exception:
        logger.warning("a result could not be kept", exc_info=True)


@lru_cache(maxsize=1)
def _cache() -> BaseCache:
    """One connection object for all threads: Django would make one for each, with a pool of its own."""
    cache: BaseCache = caches.create_connection("default")
    return cache
