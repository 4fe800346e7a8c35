"""The official SDK's client in a process of its own, where `a2a` is nothing but the SDK: does what stdin says, tells stdout.

One JSON command a line in, `{"event": ...}` for each thing that comes, then `{"end": true}` or `{"error": name, "message": text}`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any
from uuid import uuid4

import httpx
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.utils.signing import create_signature_verifier
from google.protobuf.json_format import MessageToDict, ParseDict
from jwt import PyJWK

from a2a import types


async def main() -> None:
    for line in iter(sys.stdin.readline, ""):
        command = json.loads(line)
        try:
            async with httpx.AsyncClient(headers=command["headers"], timeout=60.0, trust_env=False) as http:
                await carry_out(command, http)
            say(end=True)
        except Exception as error:
            say(error=type(error).__name__, message=str(error))


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


async def carry_out(command: dict[str, Any], http: httpx.AsyncClient) -> None:
    verify = await verifier(http, command["base"])
    card = await A2ACardResolver(http, command["base"]).get_agent_card(signature_verifier=verify)
    config = ClientConfig(
        httpx_client=http,
        streaming=command.get("streaming", True),
        supported_protocol_bindings=[command.get("binding", "JSONRPC")],
    )
    client = ClientFactory(config).create(card)
    match command["do"]:
        case "card":
            say(event=MessageToDict(card))
            extended = types.GetExtendedAgentCardRequest()
            say(event=MessageToDict(await client.get_extended_agent_card(extended, signature_verifier=verify)))
        case "send":
            await tell(client.send_message(wish(command)), command)
        case "subscribe":
            await tell(client.subscribe(types.SubscribeToTaskRequest(id=command["task"])), command)
        case "get":
            say(event=MessageToDict(await client.get_task(types.GetTaskRequest(id=command["task"]))))
        case "list":
            found = await client.list_tasks(ParseDict(command.get("filters", {}), types.ListTasksRequest()))
            say(event=MessageToDict(found))
        case "cancel":
            say(event=MessageToDict(await client.cancel_task(types.CancelTaskRequest(id=command["task"]))))
        case "push":
            config_of = ParseDict({"taskId": command["task"], **command["config"]}, types.TaskPushNotificationConfig())
            say(event=MessageToDict(await client.create_task_push_notification_config(config_of)))


def wish(command: dict[str, Any]) -> types.SendMessageRequest:
    message = {"messageId": str(uuid4()), "role": "ROLE_USER", "parts": command["parts"], **command.get("message", {})}
    return ParseDict(
        {"message": message, "configuration": command.get("configuration", {})}, types.SendMessageRequest()
    )


async def tell(events: Any, command: dict[str, Any]) -> None:
    count = 0
    async for event in events:
        say(event=MessageToDict(event))
        count += 1
        if count == command.get("leave_after"):
            return


async def verifier(http: httpx.AsyncClient, base: str) -> Any:
    origin = base.split("/a2a/")[0]
    keys = (await http.get(f"{origin}/.well-known/jwks.json")).json()["keys"]
    found = {key["kid"]: PyJWK(key) for key in keys}
    return create_signature_verifier(lambda kid, jku: found[kid], ["ES256"])


asyncio.run(main())
