"""Whether this process can do its work: named checks that the parts register, each with a time limit."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Check = Callable[[], Awaitable[None]]

CHECK_SECONDS = 2.0


class NotReadyError(Exception):
    """A check failed; the text is for operators and holds no secret."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What came of a check: `ok`, a reason when it is not, milliseconds."""

    ok: bool
    reason: str
    duration_ms: float


_checks: dict[str, Check] = {}
_round: asyncio.Task[dict[str, CheckResult]] | None = None


def register(name: str, check: Check) -> None:
    """Add a check, or replace the one of this name. It raises NotReadyError, or anything, when its part is not ready."""
    _checks[name] = check


async def results() -> dict[str, CheckResult]:
    """Run all checks side by side. Who asks while they run gets the same results: strangers may ask as often as they like."""
    global _round
    if _round is None or _round.done() or _round.get_loop() is not asyncio.get_running_loop():
        _round = asyncio.create_task(_all_results(), name="readiness", context=contextvars.Context())
    return await asyncio.shield(_round)


async def _all_results() -> dict[str, CheckResult]:
    names = list(_checks)
    return dict(zip(names, await asyncio.gather(*(_result(_checks[name]) for name in names)), strict=True))


async def _result(check: Check) -> CheckResult:
    started = time.perf_counter()
    reason = ""
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
    except NotReadyError as error:
        reason = str(error)
    except TimeoutError:
        reason = f"no answer within {CHECK_SECONDS:g} s"
    except Exception as error:  # a check may fail in any way; strangers get the kind and no more
        reason = type(error).__name__
    return CheckResult(not reason, reason, round((time.perf_counter() - started) * 1000, 2))
