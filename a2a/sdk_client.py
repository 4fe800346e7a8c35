"""The client of remote agents, on the official SDK. Imported by `loading` only.

Connections are shared by all agents, one pool an event loop; an agent with a client certificate or authorities of its own has one for
itself, which is made anew when those change. What an agent sends is bounded before the SDK reads it.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import logging
import re
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID
from weakref import WeakKeyDictionary

import httpx
import jwt
import orjson
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct

from a2a.client import Client, ClientCallContext, ClientConfig, ClientFactory
from a2a.client.card_resolver import parse_agent_card
from a2a.client.errors import A2AClientError
from a2a.contract import (
    FoundCard,
    OutgoingMessage,
    Piece,
    RemoteAgentError,
    SignatureCheck,
    Target,
    TaskState,
    Update,
)
from a2a.remote_cards import BINDINGS, MAX_CARD_BYTES, same_host
from a2a.tls import tls_context
from a2a.types import (
    AgentCard,
    Artifact,
    CancelTaskRequest,
    GetTaskRequest,
    Message,
    Part,
    Role,
    SendMessageConfiguration,
    SendMessageRequest,
    StreamResponse,
    SubscribeToTaskRequest,
    Task,
)
from a2a.types import TaskState as WireState
from a2a.utils.errors import A2AError, TaskNotFoundError
from a2a.utils.signing import SignatureVerificationError, create_signature_verifier
from agentbackend.foundation.outbound import (
    GuardedClient,
    OutboundError,
    OutboundRefusedError,
    OutboundTooLargeError,
    guarded_client,
    read_bounded,
)
from tools import process

MAX_ANSWER_BYTES: Final = 2 * 1024 * 1024
MAX_KEY_SET_BYTES: Final = 64 * 1024
MAX_PARTS: Final = 500
MAX_WORDS: Final = 1500
MAX_CONNECTIONS: Final = 100
SHORT_SECONDS: Final = 20.0
"""For questions that an agent answers from what it knows: its card, how a task stands."""
CANCEL_SECONDS: Final = 5.0

_CONNECT_SECONDS = 10.0
_ALGORITHMS = ["ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA"]
_MODES = ["text/plain", "text/markdown", "application/json"]
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BEFORE_SENDING = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_STATES = {
    WireState.TASK_STATE_SUBMITTED: TaskState.SUBMITTED,
    WireState.TASK_STATE_WORKING: TaskState.WORKING,
    WireState.TASK_STATE_COMPLETED: TaskState.COMPLETED,
    WireState.TASK_STATE_FAILED: TaskState.FAILED,
    WireState.TASK_STATE_CANCELED: TaskState.CANCELED,
    WireState.TASK_STATE_REJECTED: TaskState.REJECTED,
    WireState.TASK_STATE_INPUT_REQUIRED: TaskState.INPUT_REQUIRED,
    WireState.TASK_STATE_AUTH_REQUIRED: TaskState.AUTH_REQUIRED,
}

# The SDK's own lines repeat what agents send; what matters of it is raised, and logged by us.
logging.getLogger("a2a.client").setLevel(logging.CRITICAL)
logging.getLogger("a2a.utils").setLevel(logging.CRITICAL)


@dataclass(slots=True)
class _Pool:
    """Connections, and how many requests use them. One that is retired is closed with its last request."""

    http: GuardedClient
    key: str = ""
    uses: int = 0
    is_retired: bool = False


class SdkClient:
    """`AgentClient` on the SDK."""

    def __init__(self) -> None:
        self._shared: WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = WeakKeyDictionary()
        self._own: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[UUID, _Pool]] = WeakKeyDictionary()

    def can_stream(self, target: Target) -> bool:
        """As the accepted card says."""
        return bool(_card_of(target).capabilities.streaming)

    async def stream(self, target: Target, message: OutgoingMessage) -> AsyncIterator[Update]:
        """Send a message and yield what comes; raises RemoteAgentError."""
        request = _request(message)
        async with self._client(target, streaming=True) as (client, context):
            async with aclosing(client.send_message(request, context=context)) as events:  # type: ignore[type-var]
                async for event in events:
                    yield _update(event, target)

    async def send(self, target: Target, message: OutgoingMessage) -> Update:
        """Send a message; returns the first that is said, which may be the answer."""
        async with self._client(target, streaming=False) as (client, context):
            async with aclosing(client.send_message(_request(message), context=context)) as events:  # type: ignore[type-var]
                async for event in events:
                    return _update(event, target)
        raise _rubbish(target)

    async def subscribe(self, target: Target, task_id: str) -> AsyncIterator[Update]:
        """Follow a task; raises RemoteAgentError."""
        request = SubscribeToTaskRequest(id=task_id)
        async with self._client(target, streaming=True) as (client, context):
            async with aclosing(client.subscribe(request, context=context)) as events:  # type: ignore[type-var]
                async for event in events:
                    yield _update(event, target)

    async def get(self, target: Target, task_id: str) -> Update:
        """How a task stands; raises RemoteAgentError."""
        async with self._client(target, streaming=False, seconds=SHORT_SECONDS) as (client, context):
            return _of_task(await client.get_task(GetTaskRequest(id=task_id), context=context), target)

    async def cancel(self, target: Target, task_id: str) -> None:
        """Ask for the end of a task; raises RemoteAgentError."""
        async with self._client(target, streaming=False, seconds=CANCEL_SECONDS) as (client, context):
            await client.cancel_task(CancelTaskRequest(id=task_id), context=context)

    async def read_card(self, target: Target) -> FoundCard:
        """Read the card and check its signature."""
        agent = target.agent
        async with _once(target, tls_context(target)) as http:
            card = await _read_object(http, agent.card_url, target, MAX_CARD_BYTES, target.headers())
            keys = await _keys(http, card, target)
        return FoundCard(card, check_signature(card, keys))

    async def read_document(self, target: Target, url: str) -> Any:
        """Read a JSON document."""
        async with _once(target, tls_context(target)) as http:
            return await _read_json(http, url, target, MAX_ANSWER_BYTES, {})

    async def aclose(self) -> None:
        """Close this event loop's connections."""
        loop = asyncio.get_running_loop()
        for pool in (self._shared.pop(loop, None), *self._own.pop(loop, {}).values()):
            if pool is not None:
                await pool.http.aclose()

    @asynccontextmanager
    async def _client(
        self, target: Target, *, streaming: bool, seconds: float | None = None
    ) -> AsyncIterator[tuple[Client, ClientCallContext]]:
        """The SDK's client for one request; all that fails within becomes RemoteAgentError."""
        pool = await self._pool(target)
        pool.uses += 1
        try:
            yield _sdk_client(pool.http, target, streaming), _call_context(target, seconds)
        except RemoteAgentError:
            raise
        except Exception as error:
            raise explained(error, target) from None
        finally:
            pool.uses -= 1
            if pool.is_retired and not pool.uses:
                await pool.http.aclose()

    async def _pool(self, target: Target) -> _Pool:
        loop = asyncio.get_running_loop()
        agent = target.agent
        key = _tls_key(target)
        if not key:
            if loop not in self._shared:
                self._shared[loop] = _Pool(_new_http(None))
            return self._shared[loop]
        own = self._own.setdefault(loop, {})
        known = own.get(agent.id)
        if known is not None and known.key == key:
            return known
        made = own[agent.id] = _Pool(_new_http(tls_context(target)), key)
        if known is not None:
            known.is_retired = True
            if not known.uses:
                await known.http.aclose()
        return made


def _new_http(tls: ssl.SSLContext | None) -> GuardedClient:
    """Connections to agents. How long an answer may take is the delegation's matter."""
    return guarded_client(
        process.outbound_policy(),
        timeout=httpx.Timeout(_CONNECT_SECONDS, read=None),
        total_seconds=None,
        max_response_bytes=MAX_ANSWER_BYTES,
        max_connections=MAX_CONNECTIONS,
        tls=tls,
    )


def _tls_key(target: Target) -> str:
    """Another one when what its TLS is made of is; empty where the shared connections will do."""
    agent = target.agent
    if not agent.client_certificate and not agent.trusted_ca:
        return ""
    secrets = [target.credentials[name] for name in (agent.client_certificate, agent.client_key) if name]
    return hashlib.sha256("\0".join([agent.trusted_ca, *secrets]).encode()).hexdigest()


@asynccontextmanager
async def _once(target: Target, tls: ssl.SSLContext | None) -> AsyncIterator[httpx.AsyncClient]:
    """Connections for the moment; all that fails within becomes RemoteAgentError."""
    policy = process.outbound_policy()
    try:
        async with guarded_client(policy, timeout=_CONNECT_SECONDS, total_seconds=SHORT_SECONDS, tls=tls) as http:
            async with asyncio.timeout(SHORT_SECONDS):
                yield http
    except RemoteAgentError:
        raise
    except Exception as error:
        raise explained(error, target) from None


def _card_of(target: Target) -> AgentCard:
    card = target.agent.accepted_card
    if card is None:
        raise RemoteAgentError(f"No card of the agent {target.agent.name!r} is accepted.")
    return parse_agent_card(copy.deepcopy(card))


def _sdk_client(http: httpx.AsyncClient, target: Target, streaming: bool) -> Client:
    config = ClientConfig(
        streaming=streaming,
        polling=not streaming,
        httpx_client=http,
        supported_protocol_bindings=list(BINDINGS),
        accepted_output_modes=_MODES,
    )
    return ClientFactory(config).create(_card_of(target))


def _call_context(target: Target, seconds: float | None) -> ClientCallContext:
    return ClientCallContext(service_parameters=target.headers(), timeout=seconds)


def _request(message: OutgoingMessage) -> SendMessageRequest:
    metadata = ParseDict(dict(message.metadata), Struct()) if message.metadata else None
    return SendMessageRequest(
        message=Message(
            message_id=message.message_id,
            context_id=message.context_id,
            task_id=message.task_id,
            role=Role.ROLE_USER,
            parts=[Part(text=message.text)],
            metadata=metadata,
        ),
        configuration=SendMessageConfiguration(accepted_output_modes=_MODES),
    )


# --- what comes back


def _update(event: StreamResponse, target: Target) -> Update:
    match event.WhichOneof("payload"):
        case "task":
            return _of_task(event.task, target)
        case "message":
            piece = Piece("", _text(event.message.parts, target))
            return Update(event.message.task_id, event.message.context_id, pieces=(piece,), is_answer=True)
        case "status_update":
            status = event.status_update.status
            words = _text(status.message.parts, target)
            return Update(event.status_update.task_id, event.status_update.context_id, _state(status.state), words)
        case "artifact_update":
            update = event.artifact_update
            piece = _of_artifact(update.artifact, target, whole=not update.append)
            return Update(update.task_id, update.context_id, pieces=(piece,))
    return Update()


def _of_task(task: Task, target: Target) -> Update:
    words = _text(task.status.message.parts, target)
    pieces = tuple(_of_artifact(artifact, target, whole=True) for artifact in task.artifacts[:MAX_PARTS])
    return Update(task.id, task.context_id, _state(task.status.state), words, pieces)


def _of_artifact(artifact: Artifact, target: Target, *, whole: bool) -> Piece:
    return Piece(artifact.artifact_id or "artifact", _text(artifact.parts, target), whole)


def _state(state: Any) -> TaskState:
    return _STATES.get(state, TaskState.UNSPECIFIED)


def _text(parts: Iterable[Part], target: Target) -> str:
    """The text of parts, clean and without our credential; other parts are named, each on a line of its own."""
    text, is_apart = "", False
    for _, part in zip(range(MAX_PARTS), parts, strict=False):
        was_apart, is_apart = is_apart, part.WhichOneof("content") != "text"
        text += ("\n" if text and (is_apart or was_apart) else "") + _part(part)
    return target.credentials.hide(_CONTROLS.sub("\ufffd", text))


def _part(part: Part) -> str:
    match part.WhichOneof("content"):
        case "text":
            return str(part.text)
        case "data":
            return json.dumps(MessageToDict(part.data), ensure_ascii=False)
        case "raw":
            return f"[file: {_named(part)}, {len(part.raw)} bytes]"
        case "url":
            return f"[file: {_named(part)}]"
    return ""


def _named(part: Part) -> str:
    return ", ".join(word for word in (part.filename or "without a name", part.media_type) if word)


# --- cards


async def _read_object(
    http: httpx.AsyncClient, url: str, target: Target, limit: int, headers: dict[str, str]
) -> dict[str, Any]:
    found = await _read_json(http, url, target, limit, headers)
    if not isinstance(found, dict):
        raise RemoteAgentError(f"What is at the address of {target.agent.name!r} is no card of an agent.")
    try:
        parse_agent_card(copy.deepcopy(found))
    except Exception:  # whatever it is that the SDK stumbles over
        raise RemoteAgentError(f"What is at the address of {target.agent.name!r} is no card of an agent.") from None
    return found


async def _read_json(http: httpx.AsyncClient, url: str, target: Target, limit: int, headers: dict[str, str]) -> Any:
    request = http.build_request("GET", url, headers={"accept": "application/json", **headers})
    response = await http.send(request, stream=True)
    if response.status_code != 200:
        await response.aclose()
        raise _of_status(response.status_code, target)
    body = await read_bounded(response, limit)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise RemoteAgentError(f"What is at the address of {target.agent.name!r} is no JSON.") from None


async def _keys(http: httpx.AsyncClient, card: dict[str, Any], target: Target) -> dict[str, jwt.PyJWK] | None:
    """The keys that may have signed the card; None where nobody said which. A `jku` of another host is never asked."""
    agent = target.agent
    named = [header["jku"] for header in _protected_headers(card) if isinstance(header.get("jku"), str)]
    urls = [agent.key_set_url] if agent.key_set_url else [url for url in named if same_host(url, agent.card_url)][:1]
    if not urls or not card.get("signatures"):
        return None
    try:
        if same_host(urls[0], agent.card_url):
            found = await _read_json(http, urls[0], target, MAX_KEY_SET_BYTES, {})
        else:
            async with _once(target, None) as other:
                found = await _read_json(other, urls[0], target, MAX_KEY_SET_BYTES, {})
    except (RemoteAgentError, OutboundError, httpx.HTTPError):
        return None
    return dict(_public_keys(found))


def _public_keys(document: Any) -> Iterator[tuple[str, jwt.PyJWK]]:
    listed = document.get("keys") if isinstance(document, dict) else None
    for key in listed if isinstance(listed, list) else []:
        if (
            not isinstance(key, dict)
            or key.get("kty") not in ("EC", "RSA", "OKP")
            or not isinstance(key.get("kid"), str)
        ):
            continue
        try:
            yield key["kid"], jwt.PyJWK(key)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue


def _protected_headers(card: dict[str, Any]) -> Iterator[dict[str, Any]]:
    listed = card.get("signatures")
    for signature in listed[:10] if isinstance(listed, list) else []:
        try:
            protected = signature["protected"].encode()
            header = orjson.loads(jwt.utils.base64url_decode(protected))
        except (TypeError, KeyError, ValueError, AttributeError):
            continue
        if isinstance(header, dict):
            yield header


def check_signature(card: dict[str, Any], keys: dict[str, jwt.PyJWK] | None) -> SignatureCheck:
    """Whether one of these keys signed what the card says."""
    if not card.get("signatures"):
        return SignatureCheck("unsigned")
    asked: list[str] = []

    def key_of(kid: str | None, jku: str | None) -> jwt.PyJWK:
        if not kid or kid not in (keys or {}):
            raise jwt.PyJWTError("this key is not known")
        asked.append(kid)
        return (keys or {})[kid]

    try:
        create_signature_verifier(key_of, _ALGORITHMS)(parse_agent_card(copy.deepcopy(card)))
    except SignatureVerificationError:
        return SignatureCheck("invalid", asked[0]) if asked else SignatureCheck("unknown_key")
    except Exception:  # a card of this form has no signature that could be checked
        return SignatureCheck("invalid")
    return SignatureCheck("valid", asked[-1])


# --- what goes wrong


def explained(error: BaseException, target: Target) -> RemoteAgentError:
    """An error of the SDK or of the transport as it is told."""
    name = repr(target.agent.name)
    for cause in _causes(error):
        if isinstance(cause, OutboundRefusedError):
            return RemoteAgentError(f"The address of the agent {name} may not be reached from here.", unsent=True)
        if isinstance(cause, OutboundTooLargeError):
            return RemoteAgentError(f"The agent {name} said more than may be read, so reading was stopped.")
        if isinstance(cause, httpx.HTTPStatusError):
            return _of_status(cause.response.status_code, target)
        if isinstance(cause, httpx.PoolTimeout):
            return RemoteAgentError("Too many tasks are with other agents. Try again.", passing=True, unsent=True)
        if isinstance(cause, httpx.TransportError | OutboundError | TimeoutError):
            return _of_transport(error, cause, name)
    if isinstance(error, TaskNotFoundError):
        return RemoteAgentError(f"The agent {name} does not know the task.", is_unknown_task=True)
    is_told = isinstance(error, A2AError) and not isinstance(error, A2AClientError)
    if is_told or str(error).startswith("JSON-RPC Error"):
        words = target.credentials.hide(_CONTROLS.sub("\ufffd", str(error)))[:MAX_WORDS]
        return RemoteAgentError(f"The agent {name} refused: {words}")
    return _rubbish(target)


def _of_transport(error: BaseException, cause: BaseException, name: str) -> RemoteAgentError:
    if any(isinstance(one, ssl.SSLError) for one in _causes(error)):
        text = f"No secure connection to the agent {name} could be made: a certificate is not accepted."
        return RemoteAgentError(text, unreachable=True, unsent=True)
    if isinstance(cause, _BEFORE_SENDING):
        return RemoteAgentError(f"The agent {name} could not be reached.", passing=True, unreachable=True, unsent=True)
    return RemoteAgentError(f"The agent {name} broke off the connection.", passing=True, unreachable=True)


def _of_status(status: int, target: Target) -> RemoteAgentError:
    name = repr(target.agent.name)
    if status in (401, 403):
        return RemoteAgentError(f"The agent {name} refuses the credential of this service ({status}).")
    if status >= 500:
        return RemoteAgentError(f"The agent {name} is in trouble (HTTP {status}).", passing=True, unreachable=True)
    if 300 <= status < 400:
        return RemoteAgentError(f"The agent {name} sends to another address ({status}), which is not followed.")
    if status == 429:
        return RemoteAgentError(f"The agent {name} wants fewer tasks. Try again in a moment.", passing=True)
    return RemoteAgentError(f"The agent {name} does not take the request (HTTP {status}).")


def _rubbish(target: Target) -> RemoteAgentError:
    return RemoteAgentError(f"The agent {target.agent.name!r} answered with something that is not A2A as it should be.")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, the outermost first."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


client = SdkClient()
"""The process's client."""
