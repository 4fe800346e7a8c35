"""What went wrong between a server and us, in words for whoever asked: never the words of a library, which may hold a header's value.

A server's own words are passed on where they are an answer to the call; its credential is taken out of them.
"""

from __future__ import annotations

import logging
import traceback
from typing import Final

import httpx2
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from agentbackend.foundation.outbound import OutboundRefusedError, OutboundTooLargeError
from tools.mcp_client.contract import RemoteError, Target
from tools.mcp_client.exchange import Exchange

logger = logging.getLogger(__name__)

MAX_WORDS: Final = 1500

_BEFORE_SENDING = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)

# What the SDK says in a server's place. Its codes tell nothing: servers use the same for errors of their own.
_STAND_INS = frozenset({"Server returned an error response", "Not Found", "Session terminated"})
_ENDED = ("SSE stream ", "Connection closed")
_UNREADABLE = ("Failed to parse ", "Unexpected content type")


def explained(error: BaseException, exchange: Exchange, target: Target) -> RemoteError:
    """The error of a session as it is told."""
    cause = exchange.failure or _innermost(error)
    name = repr(target.server.name)
    if isinstance(cause, httpx2.HTTPError | OutboundRefusedError | OutboundTooLargeError):
        return _of_transport(cause, exchange, name)
    if exchange.status in (202, *range(300, 400)) or exchange.status >= 400:
        found = _of_status(exchange, name, cause)
        if found is not None:
            return found
    if isinstance(cause, MCPError):
        return _of_answer(cause, exchange, target)
    if not isinstance(cause, ValidationError | RuntimeError):
        trace = target.credentials.hide("".join(traceback.format_exception(cause)))
        logger.error("a remote server's answer could not be handled\n%s", trace, extra={"server": target.server.name})
    return _no_mcp(exchange, name, bounded(_where(cause), target))


def bounded(words: str, target: Target) -> str:
    """A server's own words, without its credential and no longer than can be told."""
    hidden = target.credentials.hide(words)
    return hidden if len(hidden) <= MAX_WORDS else hidden[:MAX_WORDS] + "..."


def too_late(exchange: Exchange, name: str, seconds: float) -> RemoteError:
    """The time is up. A slow tool is no fault of the server's; one that does not even greet is."""
    return RemoteError(
        f"The server {name!r} did not answer within {seconds:.3g} seconds.",
        passing=True,
        unreachable=not exchange.is_calling,
        perhaps_done=exchange.is_calling,
    )


def _of_transport(cause: Exception, exchange: Exchange, name: str) -> RemoteError:
    if isinstance(cause, OutboundRefusedError):
        return RemoteError(f"The address of the server {name} may not be reached from here.", is_operators=True)
    if isinstance(cause, OutboundTooLargeError):
        limit = exchange.max_bytes // 1024
        return RemoteError(
            f"The server {name} answered with more than {limit} KiB, so reading was stopped.",
            perhaps_done=exchange.is_calling,
        )
    if isinstance(cause, httpx2.PoolTimeout):
        return RemoteError("Too many calls of remote servers are going on. Try again in a moment.", passing=True)
    what = "could not be reached" if isinstance(cause, _BEFORE_SENDING) else "broke off the connection"
    return RemoteError(
        f"The server {name} {what}.",
        passing=True,
        unreachable=True,
        perhaps_done=exchange.is_calling and not isinstance(cause, _BEFORE_SENDING),
    )


def _of_status(exchange: Exchange, name: str, cause: BaseException) -> RemoteError | None:
    """What an HTTP status says; None where the answer's own words say more."""
    status = exchange.status
    if status in (401, 403):
        return RemoteError(f"The server {name} refuses the credential of this service ({status}).", is_operators=True)
    if status >= 500:
        return RemoteError(
            f"The server {name} is in trouble (HTTP {status}).",
            passing=True,
            unreachable=True,
            perhaps_done=exchange.is_calling,
        )
    if 300 <= status < 400:
        text = f"The server {name} sends to another address ({status}), which is not followed."
        return RemoteError(text, is_operators=True)
    if status == 429:
        return RemoteError(f"The server {name} wants fewer calls. Try again in a moment.", passing=True)
    if status == 202:
        return _no_mcp(exchange, name)
    if isinstance(cause, MCPError) and cause.message not in _STAND_INS:
        return None
    if isinstance(cause, MCPError) and cause.message == "Session terminated":
        return RemoteError(f"The server {name} ended the session. Try again.", passing=True)
    text = f"The server {name} does not take the request (HTTP {status}): perhaps its address or protocol is another."
    return RemoteError(text, is_operators=True)


def _of_answer(cause: MCPError, exchange: Exchange, target: Target) -> RemoteError:
    name = repr(target.server.name)
    if cause.message.startswith(_ENDED):
        return RemoteError(
            f"The server {name} ended its answer before it was complete.",
            passing=True,
            unreachable=True,
            perhaps_done=exchange.is_calling,
        )
    is_mcp = exchange.content_type.lower().startswith(("application/json", "text/event-stream"))
    if cause.message.startswith(_UNREADABLE) or not is_mcp:
        return _no_mcp(exchange, name)
    return RemoteError(f"The server {name} refused: {bounded(cause.message, target)}")


def _no_mcp(exchange: Exchange, name: str, where: str = "") -> RemoteError:
    text = f"The server {name} answered with something that is not MCP as it should be{where}."
    return RemoteError(text, perhaps_done=exchange.is_calling)


def _where(cause: BaseException) -> str:
    """The place in a document that does not fit, without what stands there."""
    if not isinstance(cause, ValidationError):
        return ""
    first = cause.errors(include_url=False, include_context=False, include_input=False)[0]
    return f" (see {'.'.join(str(part) for part in first['loc'])})" if first["loc"] else ""


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
