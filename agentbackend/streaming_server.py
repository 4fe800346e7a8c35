"""Daphne with a short way to the socket for streams, and with back-pressure.

Stock Daphne queues each part of a streamed answer and wakes the reactor for it, and it keeps whatever a slow reader does not take. Here
a part goes straight to the socket when nothing is queued, and `send` waits while the transport's buffer is full, so that a reader who is
slow slows nobody but itself. The first and the last part, TLS and errors stay on Daphne's own path.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

# The event loop of Daphne's reactor is chosen before daphne.server is imported.
from agentbackend import event_loop  # noqa: F401  isort:skip
from daphne.http_protocol import WebRequest
from daphne.server import Server
from twisted.internet import interfaces, tcp
from zope.interface import implementer

logger = logging.getLogger(__name__)


@implementer(interfaces.IPushProducer)
class _Flow:
    """Twisted's word on whether the transport takes more: a push producer that only remembers."""

    def __init__(self) -> None:
        self._resumed: asyncio.Future[None] | None = None

    def pauseProducing(self) -> None:
        if self._resumed is None:
            self._resumed = asyncio.get_running_loop().create_future()

    def resumeProducing(self) -> None:
        resumed, self._resumed = self._resumed, None
        if resumed is not None and not resumed.done():
            resumed.set_result(None)

    def stopProducing(self) -> None:
        self.resumeProducing()

    @property
    def is_paused(self) -> bool:
        return self._resumed is not None

    async def resumed(self) -> None:
        if self._resumed is not None:
            await asyncio.shield(self._resumed)


class StreamingServer(Server):  # type: ignore[misc]
    """Daphne's server with `handle_reply` shortened for the middle parts of a streamed answer."""

    async def handle_reply(self, protocol: Any, message: dict[str, Any]) -> None:
        """Send one message of an application; returns when the transport can take more."""
        if message["type"] != "http.response.body" or not isinstance(protocol, WebRequest):
            await super().handle_reply(protocol, message)
            return
        if message.get("more_body"):
            await self._send_part(protocol, message)
            return
        if getattr(protocol, "flow", None) is not None and not protocol.finished and protocol.channel is not None:
            protocol.flow = None
            protocol.unregisterProducer()
        await super().handle_reply(protocol, message)

    async def _send_part(self, protocol: Any, message: dict[str, Any]) -> None:
        connection = self.connections.get(protocol)
        if connection is None or "disconnected" in connection or protocol.finished or protocol.channel is None:
            return
        flow = getattr(protocol, "flow", None)
        if flow is None:
            flow = protocol.flow = _Flow()
            protocol.registerProducer(flow, True)
        if not _written_at_once(protocol, message.get("body", b"")):
            await super().handle_reply(protocol, message)
        if flow.is_paused:
            await flow.resumed()


def _written_at_once(protocol: Any, body: bytes) -> bool:
    """Write a chunk straight to the socket; False when that is not possible and nothing was written."""
    transport = protocol.channel.transport
    if not protocol.startedWriting or not protocol.chunked or not body or not isinstance(transport, tcp.Server):
        return False
    if transport.disconnecting or not transport.connected or transport.dataBuffer or transport._tempDataBuffer:
        return False
    chunk = b"%x\r\n%b\r\n" % (len(body), body)
    protocol.sentLength += len(body)
    written = transport.writeSomeData(chunk)
    if (
        not isinstance(written, int) or written < 0
    ):  # an error: Twisted finds it on its own path and closes the connection
        transport.write(chunk)
    elif written < len(chunk):
        transport.write(chunk[written:])
    return True
