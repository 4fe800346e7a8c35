"""Opens the model port: the provider of the settings, or the scripted demo model when none is set."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import httpx2
from openai import AsyncOpenAI, DefaultAioHttpClient

from agentbackend.foundation.outbound import OutboundPolicy
from agentbackend.foundation.outbound.httpx2_client import guarded_client_httpx2
from orchestration.demo_model.transport import DemoTransport
from orchestration.model_port import ModelPort
from orchestration.model_port.chat_completions import ChatCompletions
from orchestration.model_port.several import Access

MAX_CONNECTIONS = 1000
# Given always: the package would take an empty variable of the environment for an address.
DEFAULT_BASE_URL = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Where the model is and how long to wait for it (seconds). Neither key nor base URL: the demo model."""

    api_key: str = ""
    base_url: str = ""
    connect_timeout: float = 10.0
    first_token_timeout: float = 60.0
    idle_timeout: float = 60.0
    proxy: str = ""
    ca_file: str = ""
    demo_delay_seconds: float = 0.015


def open_model_port(
    config: ModelConfig,
    prepare: Callable[[httpx2.AsyncClient], None] | None = None,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> ModelPort:
    """The port; call inside the event loop. Environment proxies are ignored: only the configured one is used.

    `prepare` is called with the HTTP client, for instrumentation; `sleep` waits between two tries.
    """
    if not config.api_key and not config.base_url:
        return open_demo_port(config, prepare, sleep=sleep)
    timeout = _timeout(config)
    http_client = _http_client(config, timeout)
    _prepare(http_client, prepare)
    client = AsyncOpenAI(
        # Some servers want no key; the package insists on one.
        api_key=config.api_key or "none",
        base_url=config.base_url or DEFAULT_BASE_URL,
        http_client=http_client,
        timeout=timeout,
        max_retries=0,
    )
    return _port(client, config, sleep)


def open_demo_port(
    config: ModelConfig,
    prepare: Callable[[httpx2.AsyncClient], None] | None = None,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> ModelPort:
    """The port to the scripted demo model."""
    http_client = httpx2.AsyncClient(transport=DemoTransport(config.demo_delay_seconds), timeout=_timeout(config))
    _prepare(http_client, prepare)
    client = AsyncOpenAI(api_key="demo", base_url="http://demo.invalid/v1", http_client=http_client, max_retries=0)
    return _port(client, config, sleep)


def open_provider_port(
    access: Access,
    config: ModelConfig,
    policy: OutboundPolicy,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> ModelPort:
    """The port to a provider that an operator added in the console: reached through the guarded client, as all such addresses are."""
    timeout = _timeout(config)
    http_client = guarded_client_httpx2(
        policy, timeout=timeout, total_seconds=None, max_response_bytes=None, max_connections=MAX_CONNECTIONS
    )
    client = AsyncOpenAI(
        api_key=access.key or "none",
        base_url=access.provider.base_url,
        http_client=http_client,
        timeout=timeout,
        max_retries=0,
    )
    limits = replace(
        config,
        first_token_timeout=access.provider.first_token_seconds or config.first_token_timeout,
        idle_timeout=access.provider.idle_seconds or config.idle_timeout,
    )
    return _port(client, limits, sleep)


def _timeout(config: ModelConfig) -> httpx2.Timeout:
    """Only for the connection: the port itself limits all other waits."""
    return httpx2.Timeout(None, connect=config.connect_timeout)


def _prepare(client: httpx2.AsyncClient, prepare: Callable[[httpx2.AsyncClient], None] | None) -> None:
    if prepare is not None:
        prepare(client)


def _port(client: AsyncOpenAI, config: ModelConfig, sleep: Callable[[float], Awaitable[None]]) -> ModelPort:
    return ChatCompletions(
        client, first_token_timeout=config.first_token_timeout, idle_timeout=config.idle_timeout, sleep=sleep
    )


def _http_client(config: ModelConfig, timeout: httpx2.Timeout) -> httpx2.AsyncClient:
    verify = ssl.create_default_context(cafile=config.ca_file) if config.ca_file else True
    limits = httpx2.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=100)
    # aiohttp underneath: measured at half the CPU of the default transport for a paced stream (docs/models.md).
    return DefaultAioHttpClient(
        timeout=timeout,
        limits=limits,
        verify=verify,
        proxy=config.proxy or None,
        trust_env=False,
        follow_redirects=False,
    )
