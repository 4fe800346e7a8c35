"""Which IP addresses are public, so that a request of somebody else's making may go there.

Written out instead of relying on `ipaddress.is_global`, whose tables differ between Python's patch releases
and which takes NAT64, 6to4 and unassigned IPv6 space as global (checked on 3.11.7).
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address

# IANA's special-purpose registry for IPv4, multicast and what is reserved: everything that is not a public
# host.
_CLOSED_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by carrier-grade NAT, also some clouds' metadata
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local: metadata services
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
_OPEN_V6 = IPv6Network("2000::/3")  # the only space that is assigned for global unicast
_CLOSED_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments; Teredo, which carries an IPv4 address
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which carries an IPv4 address
        "3fff::/20",  # documentation
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")


def read_address(text: str) -> IPAddress:
    """An address as a resolver writes it, without its zone; raises ValueError. IPv4 within IPv6 becomes IPv4.

    That is done for mapped addresses and for the well-known NAT64 prefix, through which IPv6-only networks
    reach public IPv4; what they carry is then judged.
    """
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_public(address: IPAddress) -> bool:
    """Whether the address belongs to a host of the public internet."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _CLOSED_V4)
    return address in _OPEN_V6 and not any(address in network for network in _CLOSED_V6)


def written_address(host: str) -> IPAddress | None:
    """The address that a URL's host spells out, also as `127.1`, `0x7f000001` or `2130706433`; None for a name."""
    text = host.removeprefix("[").removesuffix("]").rstrip(".")
    try:
        return read_address(text)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(text))
    except (OSError, UnicodeError):
        return None
