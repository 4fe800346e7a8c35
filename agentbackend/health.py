"""`/health`: the process lives. `/readiness`: it can do its work, check by check."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse

from agentbackend import readiness


async def health(request: HttpRequest) -> JsonResponse:
    """Liveness: touches nothing that could be away."""
    return JsonResponse({"status": "ok"})


async def ready(request: HttpRequest) -> JsonResponse:
    """Readiness: 200 when every registered check passes, else 503 with what did not."""
    found = await readiness.results()
    well = bool(found) and all(result.ok for result in found.values())
    checks = {
        name: {"ok": result.ok, "duration_ms": result.duration_ms} | ({} if result.ok else {"reason": result.reason})
        for name, result in found.items()
    }
    return JsonResponse({"status": "ready" if well else "not ready", "checks": checks}, status=200 if well else 503)
