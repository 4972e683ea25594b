"""Decides which addresses may be connected to: public ones, and those that the config allows.

A host's name is resolved here, each address is checked, and the connection is made to an address that was
checked (see `transport`). So changing a name's address between check and connection gains nothing (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import httpx

from reconciler.config.basics import Address, Network

EVERYWHERE: list[Network] = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]

NOT_PUBLIC_4 = [
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carriers' NAT
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, clouds' metadata among them
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments: DS-Lite, the dummy address, PCP and TURN anycast
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4, deprecated
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast among them
    )
]
"""IANA's registry of special-purpose IPv4 addresses, and multicast."""

PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
"""The range assigned for the Internet. Everything else has another meaning or none: loopback, unique local and
link-local, site-local, multicast, local NAT64 (64:ff9b:1::/48), IPv4-compatible (::/96), translated
(::ffff:0:0:0/96), segment routing (5f00::/16), discard-only."""
NOT_PUBLIC_6 = [
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
    )
]
"""The parts of it that IANA's registry of special-purpose IPv6 addresses excludes. 6to4 is checked as IPv4."""
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class AddressRefused(httpx.TransportError):
    """A host has no address that may be connected to."""


async def look_up(host: str, port: int, allowed: list[Network]) -> list[Address]:
    """Resolve a host to addresses, all of which may be connected to.

    Raises httpx.ConnectError if the name does not resolve, AddressRefused if an address is not allowed.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpx.ConnectError(f"{host} does not resolve: {getattr(error, 'strerror', None) or error}") from error
    addresses = list(dict.fromkeys(ipaddress.ip_address(str(entry[4][0]).split("%")[0]) for entry in found))
    require_allowed(host, addresses, allowed)
    return addresses


async def private_addresses(host: str, port: int) -> list[Address]:
    """A host's addresses that are not public; none if its name does not resolve."""
    try:
        return [one for one in await look_up(host, port, EVERYWHERE) if not may_connect(one, [])]
    except httpx.TransportError:
        return []


def require_allowed(host: str, addresses: list[Address], allowed: list[Network]) -> None:
    """Raises AddressRefused if a host has no address, or one that may not be connected to."""
    refused = [address for address in addresses if not may_connect(address, allowed)]
    if refused or not addresses:
        raise AddressRefused(
            f"{host} has the address {', '.join(map(str, refused)) or 'none'}, which is not public: "
            "list its network in allow_private if that is intended"
        )


def may_connect(address: Address, allowed: list[Network]) -> bool:
    """Whether an address is public or in an allowed network. IPv4 inside IPv6 is checked as IPv4."""
    inner = embedded_ipv4(address)
    if inner is not None:
        return may_connect(inner, allowed)
    if any(address in network for network in allowed):
        return True
    return is_public(address) and all(may_connect(inner, allowed) for inner in _isatap(address))


def is_public(address: Address) -> bool:
    """Whether an address is public. The list is our own: Python's differs from version to version."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in NOT_PUBLIC_4)
    return address in PUBLIC_6 and not any(address in network for network in NOT_PUBLIC_6)


def embedded_ipv4(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for: mapped (RFC 4291), NAT64 (RFC 6052), 6to4 (RFC 3056)."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour


def _isatap(address: Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 address in the lower half of an ISATAP address (RFC 5214), whatever network that is in."""
    if isinstance(address, ipaddress.IPv6Address) and (int(address) >> 32) & 0xFCFF_FFFF == 0x0000_5EFE:
        return [ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)]
    return []
