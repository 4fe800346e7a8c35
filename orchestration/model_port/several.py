"""One port for all providers: the service's own, the demo model, and those that operators add while it runs.

A provider's port is opened when it is first needed, and opened anew when its row or its key has changed; the former one is closed as
soon as nobody reads from it any more.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from orchestration.model_port import ModelError, ModelEvent, ModelPort, ModelRequest
from orchestration.model_providers.catalogue import Models, Provider
from orchestration.model_providers.names import DEFAULT_PROVIDER, DEMO_PROVIDER
from tools.credentials import MissingCredentialError, resolve
from tools.registry import Snapshot

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Access:
    """How a provider is reached: its row, and its key."""

    provider: Provider
    key: str = field(repr=False)


@dataclass(slots=True)
class _Opened:
    access: Access
    port: ModelPort
    readers: int = 0
    replaced: bool = False


class SeveralProviders:
    """A ModelPort whose requests name a model as agents do: `model`, or `provider:model`.

    `own` answers for the provider of the settings; `open_demo` and `open_provider` open the ports of others; `models` and `registry`
    tell what is known of providers and of stored keys.
    """

    def __init__(
        self,
        own: ModelPort,
        *,
        open_demo: Callable[[], ModelPort],
        open_provider: Callable[[Access], ModelPort],
        models: Callable[[], Awaitable[Models]],
        registry: Callable[[], Awaitable[Snapshot]],
    ) -> None:
        self._own = own
        self._open_demo = open_demo
        self._open_provider = open_provider
        self._models = models
        self._registry = registry
        self._demo: ModelPort | None = None
        self._opened: dict[str, _Opened] = {}
        self._leaving: set[ModelPort] = set()

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[list[ModelEvent]]]:
        """See ModelPort.stream."""
        models = await self._models()
        name = models.named(request.model)
        there = replace(request, model=name.model)
        if name.provider in (DEFAULT_PROVIDER, DEMO_PROVIDER):
            port = self._own if name.provider == DEFAULT_PROVIDER else self._demo_port()
            async with port.stream(there) as batches:
                yield batches
            return
        opened = await self._at(models.providers[name.provider])
        opened.readers += 1
        try:
            async with opened.port.stream(there) as batches:
                yield batches
        finally:
            opened.readers -= 1
            if opened.replaced and not opened.readers:
                await self._close(opened.port)

    async def aclose(self) -> None:
        """Close all connections to all providers."""
        ports = [self._own, *(opened.port for opened in self._opened.values()), *self._leaving]
        if self._demo is not None:
            ports.append(self._demo)
        self._opened.clear()
        for port in ports:
            await port.aclose()

    def _demo_port(self) -> ModelPort:
        if self._demo is None:
            self._demo = self._open_demo()
        return self._demo

    async def _at(self, provider: Provider) -> _Opened:
        if not provider.enabled:
            raise _not_usable(provider, "is switched off")
        access = Access(provider, await self._key_of(provider))
        opened = self._opened.get(provider.name)
        if opened is not None and opened.access == access:
            return opened
        # No await between this look and the next: two runs that find the change at once must not open two ports.
        self._opened[provider.name] = fresh = _Opened(access, self._open_provider(access))
        if opened is not None:
            await self._replace(opened)
        return fresh

    async def _key_of(self, provider: Provider) -> str:
        if not provider.credential:
            return ""
        try:
            return resolve([provider.credential], (await self._registry()).vault)[provider.credential]
        except MissingCredentialError as error:
            raise _not_usable(provider, f"lacks its credential: {error}") from None

    async def _replace(self, opened: _Opened) -> None:
        opened.replaced = True
        self._leaving.add(opened.port)
        if not opened.readers:
            await self._close(opened.port)

    async def _close(self, port: ModelPort) -> None:
        if port in self._leaving:
            self._leaving.discard(port)
            await port.aclose()


def _not_usable(provider: Provider, why: str) -> ModelError:
    """The operator finds the reason in the log; the user is told whom it is up to."""
    logger.warning("the model provider %s %s", provider.name, why)
    return ModelError(
        "model_refused", "The model's provider is not set up completely. An operator of this service can."
    )
