"""What the service may reach: public addresses, and what the operator lists in OUTBOUND_ALLOWED_HOSTS."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import httpx

from agentbackend.foundation.outbound.addresses import IPAddress, is_public, read_address, written_address
from agentbackend.foundation.outbound.errors import OutboundPolicyError, OutboundRefusedError

Resolver = Callable[[str, int], Awaitable[list[str]]]

_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class OutboundSettings(Protocol):
    """The settings that make a policy."""

    OUTBOUND_ALLOWED_HOSTS: list[str]
    OUTBOUND_PROXY: str
    OUTBOUND_CA_FILE: str


@dataclass(frozen=True, slots=True)
class AllowedTarget:
    """An entry of OUTBOUND_ALLOWED_HOSTS: a name or a network, at one port or (None) at all."""

    name: str
    network: IPv4Network | IPv6Network | None
    port: int | None

    @classmethod
    def parse(cls, entry: str) -> AllowedTarget:
        """Read `host`, `host:port`, an address, `address:port`, `[address]:port` or a CIDR network."""
        network = _network(entry)
        if network is not None:
            return cls("", network, None)
        host, separator, port_text = entry.rpartition(":")
        if not separator:
            return cls(_name(entry), None, None)
        if not port_text.isdecimal() or not 0 < int(port_text) < 65536:
            raise OutboundPolicyError(f"OUTBOUND_ALLOWED_HOSTS: {entry!r} has no usable port.")
        network = _network(host.removeprefix("[").removesuffix("]"))
        return cls("" if network else _name(host), network, int(port_text))

    def matches_name(self, host: str, port: int) -> bool:
        """Whether this entry names the host, whatever it resolves to."""
        return bool(self.name) and self.name == host and self.port in (None, port)

    def matches_address(self, address: IPAddress, port: int) -> bool:
        """Whether this entry holds the address."""
        return self.network is not None and address in self.network and self.port in (None, port)


def _network(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def _name(text: str) -> str:
    name = text.lower().rstrip(".")
    if _NAME.fullmatch(name) is None:
        raise OutboundPolicyError(f"OUTBOUND_ALLOWED_HOSTS: {text!r} is no host, address or network.")
    return name


@dataclass(frozen=True, slots=True)
class Proxy:
    """The proxy that requests to public targets go through: an URL without credentials, and these."""

    url: str
    credentials: tuple[str, str] | None

    @classmethod
    def parse(cls, text: str) -> Proxy | None:
        """Read OUTBOUND_PROXY; empty is no proxy.

        The error does not repeat the value: it may hold a password.
        """
        if not text:
            return None
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise OutboundPolicyError("OUTBOUND_PROXY: is not an URL.") from None
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise OutboundPolicyError("OUTBOUND_PROXY: must be http://host:port or https://host:port.")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        credentials = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        return cls(f"{parts.scheme}://{host}:{port or _DEFAULT_PORTS[parts.scheme]}", credentials)


@dataclass(frozen=True, slots=True)
class Route:
    """Where a checked target is: its addresses, and whether the operator allowed it by name or network."""

    addresses: tuple[str, ...]
    exempt: bool


async def resolve_by_system(host: str, port: int) -> list[str]:
    """The host's addresses in the system's order; raises OSError when there are none. Runs in a thread."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class OutboundPolicy:
    """What may be reached, and how: shared by all guarded clients of a process.

    `allowed_hosts` are exempt from the address check and are reached without the proxy. `prepare` is called
    with each new client (the composition root adds tracing there). Raises OutboundPolicyError naming the
    setting that cannot be read.
    """

    def __init__(
        self,
        *,
        allowed_hosts: Iterable[str] = (),
        proxy: str = "",
        ca_file: str = "",
        resolve: Resolver = resolve_by_system,
        prepare: Callable[[Any], None] | None = None,
    ) -> None:
        self.allowed = tuple(AllowedTarget.parse(entry) for entry in allowed_hosts)
        self.proxy = Proxy.parse(proxy)
        self.prepare = prepare
        self.ca_file = ca_file
        self.tls = tls_context(ca_file)
        self._resolve = resolve

    @classmethod
    def from_settings(
        cls,
        settings: OutboundSettings,
        *,
        also_allowed: Iterable[str] = (),
        prepare: Callable[[Any], None] | None = None,
    ) -> OutboundPolicy:
        """The policy of the settings.

        `also_allowed` adds hosts that another setting names (`host` or `host:port`).
        """
        return cls(
            allowed_hosts=[*settings.OUTBOUND_ALLOWED_HOSTS, *also_allowed],
            proxy=settings.OUTBOUND_PROXY,
            ca_file=settings.OUTBOUND_CA_FILE,
            prepare=prepare,
        )

    def check_url(self, scheme: str, host: str, userinfo: bytes) -> None:
        """Refuse what no address can make right: other schemes, credentials in the URL, no host."""
        if scheme not in _DEFAULT_PORTS:
            raise OutboundRefusedError(f"the scheme {scheme!r} is not allowed")
        if userinfo:
            raise OutboundRefusedError("an URL with credentials is not allowed")
        if not host:
            raise OutboundRefusedError("the URL names no host")

    def check_written_host(self, host: str, port: int) -> None:
        """Refuse what needs no resolver to be told from a public host: addresses in any spelling, and localhost.

        For forms: what a name leads to is checked when it is connected to.
        """
        name = host.lower().rstrip(".")
        is_local_name = name == "localhost" or name.endswith(".localhost")
        address = written_address("127.0.0.1" if is_local_name else name)
        if address is None or is_public(address) or self._is_allowed(address, port):
            return
        if not any(target.matches_name(name, port) for target in self.allowed):
            raise OutboundRefusedError(f"the host {host!r} is not a public one")

    async def route(self, host: str, port: int) -> Route:
        """Resolve and check a target: every address must be public or allowed, else OutboundRefusedError.

        Raises OSError when the name has no address. The caller connects to these addresses and not to the
        name, so that an answer that changes in between changes nothing.
        """
        name = host.lower().rstrip(".")
        addresses = await self._addresses(host, port)
        if any(target.matches_name(name, port) for target in self.allowed):
            return Route(addresses, exempt=True)
        allowed = [self._is_allowed(read_address(text), port) for text in addresses]
        public = [is_public(read_address(text)) for text in addresses]
        if not all(one or other for one, other in zip(allowed, public, strict=True)):
            raise OutboundRefusedError(f"the host {host!r} is not a public one")
        return Route(addresses, exempt=all(allowed))

    async def _addresses(self, host: str, port: int) -> tuple[str, ...]:
        try:
            addresses = await self._resolve(host, port)
        except UnicodeError:  # a label that cannot stand in the DNS
            addresses = []
        if not addresses:
            raise OSError(f"the host {host!r} has no address")
        return tuple(addresses)

    def _is_allowed(self, address: IPAddress, port: int) -> bool:
        return any(target.matches_address(address, port) for target in self.allowed)


def tls_context(ca_file: str) -> ssl.SSLContext:
    """Certificates are checked against the bundled authorities and `ca_file`; the environment adds none."""
    context = httpx.create_ssl_context(trust_env=False)
    if ca_file:
        try:
            context.load_verify_locations(cafile=Path(ca_file))
        except (OSError, ssl.SSLError) as error:
            raise OutboundPolicyError("OUTBOUND_CA_FILE: holds no usable certificates.") from error
    return context
