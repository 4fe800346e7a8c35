"""An application behind the gateway that says who was let in: served by Daphne in a test."""

from __future__ import annotations

import json
from typing import Any

from agentbackend.foundation.keyring import KeyRing
from agentbackend.gateway.authentication import Authenticator, GatewayAuthentication
from tests.gateway.support import ACTIVE_KEY, Remembering


async def say_who(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer with the caller's id and role, the path as sent and the body's length."""
    message = await receive()
    actor = scope["actor"]
    said = [actor.id, actor.role, scope["raw_path"].decode(), len(message["body"])]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(said).encode()})


application = GatewayAuthentication(
    say_who, Authenticator(keys=KeyRing((ACTIVE_KEY,)), allowed_hosts=["agents.example"], observer=Remembering())
)
