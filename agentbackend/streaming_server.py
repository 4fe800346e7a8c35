"""Daphne with a short way to the socket for streams, and with back-pressure.

Stock Daphne queues each part of a streamed answer and wakes the reactor for it, and it keeps whatever a slow reader does not take. Here
a part goes straight to the socket when nothing is queued, and `send` waits while the transport's buffer is full, so that a reader who is
slow slows nobody but itself. The first and the last part, TLS and errors stay on Daphne's own path.

What never becomes a request (a line too long, headers too large, no HTTP) is answered here, as a problem like any other; and bodies are
left alone, where Twisted would parse forms on its own.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

# The event loop of Daphne's reactor is chosen before daphne.server is imported.
from agentbackend import event_loop  # noqa: F401  isort:skip
import daphne.server
from daphne.http_protocol import HTTPFactory, WebRequest
from daphne.server import Server
from twisted.internet import interfaces, tcp
from twisted.web import http
from zope.interface import implementer

from agentbackend.foundation.problems import Problem

logger = logging.getLogger(__name__)


MAX_LINE_BYTES = 64 * 1024
"""Longest request line and header line, and the most that all header lines may have together."""


class _Request(WebRequest):  # type: ignore[misc]
    """A request whose body is for the application alone."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._parsePOSTFormSubmission = False


class _Channel(http.HTTPChannel):  # type: ignore[misc]
    """A connection that says why it refuses what is no request."""

    MAX_LENGTH = MAX_LINE_BYTES
    totalHeadersSize = 2 * MAX_LINE_BYTES

    def lineReceived(self, line: bytes) -> None:
        """One line of a request's head."""
        self._lines_seen = getattr(self, "_lines_seen", 0) + 1
        super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """The request line, or a header line, is longer than MAX_LENGTH."""
        self._refuse("headers_too_large" if getattr(self, "_lines_seen", 0) else "uri_too_long")

    def allHeadersReceived(self) -> None:
        """The head is complete: what comes next begins with a request line again."""
        self._lines_seen = 0
        super().allHeadersReceived()

    def _respondToBadRequestAndDisconnect(self) -> None:
        self._refuse("headers_too_large" if self._receivedHeaderSize > self.totalHeadersSize else "malformed_request")

    def _refuse(self, code: str) -> None:
        problem = Problem(code)
        body = problem.body()
        self.transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%b"
            % (problem.kind.status, http.RESPONSES.get(problem.kind.status, b"Refused"), len(body), body)
        )
        self.loseConnection()


class _HTTPFactory(HTTPFactory):  # type: ignore[misc]
    """Makes the connections and requests above."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.protocol = lambda: http._GenericHTTPChannelProtocol(_Channel())

    def buildProtocol(self, address: Any) -> Any:
        """A connection whose requests are ours."""
        protocol = super().buildProtocol(address)
        protocol.requestFactory = _Request
        return protocol


daphne.server.HTTPFactory = _HTTPFactory


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
