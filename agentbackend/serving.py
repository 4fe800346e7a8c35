"""Serving on one port: Daphne's reactor with the service around it, from the first connection to the last event."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Any

from agentbackend.streaming_server import StreamingServer  # isort:skip - chooses the event loop before daphne does
import daphne.server
from daphne.endpoints import build_endpoint_description_strings
from django.conf import settings
from twisted.internet import reactor

from agentbackend.asgi import application
from agentbackend.service import service
from agentbackend.tls_endpoint import TlsFilesError, description, server_from_string, tls_options

logger = logging.getLogger(__name__)

_LAST_WORDS_SECONDS = 2.0

daphne.server.serverFromString = server_from_string
_CLOSING_SECONDS = 15.0
"""What closing everything may take after the grace period; then the process ends all the same: its runs are claimed by others."""


class ListenError(Exception):
    """The port cannot be listened on."""


class _Server(StreamingServer):
    """A server that says why it could not listen instead of only stopping."""

    listen_failure = ""

    def listen_error(self, failure: Any) -> None:
        """Called by Daphne when an endpoint cannot be opened."""
        self.listen_failure = failure.getErrorMessage()
        self.stop()


class Serving:
    """One process's listening socket and its life; `run` returns after a clean shut-down."""

    def __init__(self, host: str, port: int) -> None:
        self._loop: asyncio.AbstractEventLoop = reactor._asyncioEventloop
        self._server = _Server(
            application=application,
            endpoints=_endpoints(host, port),
            signal_handlers=False,
            server_name="",
            ready_callable=lambda: logger.info("listening", extra={"host": host, "port": port}),
        )
        self._drain_task: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Start, serve until SIGTERM, SIGINT or SIGHUP, drain. Raises ListenError, or what keeps the service from starting."""
        self._loop.run_until_complete(service.start())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.add_signal_handler(number, self._on_signal, number)
        self._server.run()
        if self._server.listen_failure:
            self._loop.run_until_complete(service.stop())
            raise ListenError(self._server.listen_failure)

    def _on_signal(self, number: int) -> None:
        if self._drain_task is not None:
            logger.warning("a second signal: stopping at once")
            self._server.stop()
            return
        logger.info("draining", extra={"signal": signal.Signals(number).name})
        self._drain_task = self._loop.create_task(self._drain())

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(settings.SHUTDOWN_GRACE_SECONDS + _CLOSING_SECONDS):
                await service.stop()
                await self._last_words()
        except TimeoutError:
            waiting = sorted(task.get_name() for task in asyncio.all_tasks() if task is not self._drain_task)
            logger.error("the shut-down takes too long and is broken off", extra={"tasks": waiting[:50]})
        except Exception:
            logger.exception("the shut-down was not clean")
        finally:
            # Daphne cancels all applications in the reactor's own shut-down: nothing may be left for it.
            self._server.stop()

    async def _last_words(self) -> None:
        """Give the applications whose streams were ended a moment to send their last part."""
        running = [
            details["application_instance"]
            for details in self._server.connections.values()
            if "application_instance" in details and "disconnected" not in details
        ]
        if running:
            await asyncio.wait(running, timeout=_LAST_WORDS_SECONDS)


def _endpoints(host: str, port: int) -> list[str]:
    """Where to listen, and how: with TLS where there is a certificate. Raises TlsFilesError."""
    certificate, key, clients = settings.TLS_CERT_FILE, settings.TLS_KEY_FILE, settings.TLS_CLIENT_CA_FILE
    if not certificate:
        found: list[str] = build_endpoint_description_strings(host=host, port=port)
        return found
    tls_options(certificate, key, clients)  # what is wrong with the files is said before anything starts
    return [description(host, port, certificate=certificate, key=key, clients=clients)]


__all__ = ["ListenError", "Serving", "TlsFilesError"]
