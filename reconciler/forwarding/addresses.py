"""Which addresses may be connected to: public ones, unless the config allows others.

A host's name is looked up here, each address is checked, and the connection is made to the address that was
checked: a name that changes its address between the look-up and the connection (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time

import httpx

from reconciler.config.basics import Address, Network

LOOKUP_KEPT_S = 30.0
"""How long an answer of DNS is used; a kept-alive connection needs no new one at every event."""


class AddressRefused(httpx.TransportError):
    """A host has no address that may be connected to."""


class Guarded(httpx.AsyncBaseTransport):
    """A transport that connects to public addresses, and to the networks that are allowed besides.

    The host's name stays in the Host header, and is what the server's certificate is checked against.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, allowed: list[Network]) -> None:
        self._inner = inner
        self._allowed = allowed
        self._known: dict[tuple[str, int], tuple[float, list[Address]]] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        addresses = await self._addresses(host, port)
        name = request.url.raw_host.decode("ascii")
        for address in addresses[:-1]:
            try:
                return await self._inner.handle_async_request(_to(request, address, name))
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue  # the next address
        return await self._inner.handle_async_request(_to(request, addresses[-1], name))

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _addresses(self, host: str, port: int) -> list[Address]:
        kept = self._known.get((host, port))
        if kept is not None and kept[0] > time.monotonic():
            return kept[1]
        addresses = await look_up(host, port, self._allowed)
        self._known[host, port] = (time.monotonic() + LOOKUP_KEPT_S, addresses)
        return addresses


async def look_up(host: str, port: int, allowed: list[Network]) -> list[Address]:
    """A host's addresses, every one of which may be connected to.

    Raises httpx.ConnectError where it does not resolve, AddressRefused where one may not.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpx.ConnectError(f"{host} does not resolve: {getattr(error, 'strerror', None) or error}") from error
    addresses = list(dict.fromkeys(ipaddress.ip_address(str(entry[4][0]).split("%")[0]) for entry in found))
    refused = [address for address in addresses if not may_connect(address, allowed)]
    if refused or not addresses:
        raise AddressRefused(
            f"{host} has the address {', '.join(map(str, refused)) or 'none'}, which is not public: "
            "allow_private may list networks that are allowed"
        )
    return addresses


def may_connect(address: Address, allowed: list[Network]) -> bool:
    """Whether an address is public, or in a network that is allowed. IPv4 inside IPv6 is looked at as IPv4."""
    inner = embedded_ipv4(address)
    if inner is not None:
        return may_connect(inner, allowed)
    if any(address in network for network in allowed):
        return True
    return address.is_global and not address.is_multicast


def embedded_ipv4(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for: mapped (RFC 4291), NAT64 (RFC 6052), 6to4 (RFC 3056)."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in ipaddress.ip_network("64:ff9b::/96"):
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour


def _to(request: httpx.Request, address: Address, host: str) -> httpx.Request:
    """The same request, to be sent to this address."""
    return httpx.Request(
        request.method,
        request.url.copy_with(host=str(address)),
        headers=request.headers,  # Host among them, as the name was
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": host},
    )
