"""The connections of HTTP destinations: an httpx transport over aiohttp, which costs a seventh of httpx's own.

It connects only to addresses that were checked, sends nothing twice, follows no redirect, unpacks nothing, keeps no
cookies and ignores the environment. Errors are httpx's.
"""

from __future__ import annotations

import asyncio
import ipaddress
import select
import socket
import ssl
from collections.abc import AsyncIterator
from functools import lru_cache

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, AbstractStreamWriter, ResolveResult
from yarl import URL

from reconciler.config.basics import Network
from reconciler.forwarding.addresses import look_up, require_allowed

LOOKUP_KEPT_S = 30
"""How long a DNS answer is used, so that not every connection needs a look-up."""
IDLE_S = 4.0
"""How long an idle connection is kept. Many servers close theirs after 5 s: no request may be sent just then."""
HEADER_BYTES = 64 * 1024
"""The longest header of an answer."""
MOST_HEADERS = 1000
PART_BYTES = 1 << 20
"""Large bodies are written in parts, so that other requests are not held up."""
_LOST = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError)
_CLOSED = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)
_NOT_AUTOMATIC = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class Transport(httpx.AsyncBaseTransport):
    """Keeps up to `connections` connections alive. `timeout_s` limits a request together with its answer.

    With a `proxy`, it is the proxy whose address is checked: the proxy looks the destination up.
    """

    def __init__(
        self, *, tls: ssl.SSLContext, connections: int, timeout_s: float, allowed: list[Network], proxy: str | None
    ) -> None:
        self._tls = tls
        self._connections = connections
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._allowed = allowed
        self._proxy = None if proxy is None else URL(proxy)
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._session is None:  # it needs a running loop
            self._session = self._open()
        response = await self._send(self._session, request, await request.aread())
        reason = (response.reason or "").encode("ascii", "replace")
        return httpx.Response(
            response.status,
            headers=response.raw_headers,
            stream=_Body(response),
            request=request,
            extensions={"reason_phrase": reason},
        )

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _send(
        self, session: aiohttp.ClientSession, request: httpx.Request, body: bytes
    ) -> aiohttp.ClientResponse:
        """Send a request once. If a kept connection turns out to be closed before anything was written to it, another
        one is used.
        """
        for tries_left in reversed(range(self._connections + 1)):
            whole = _Whole(body)
            try:
                return await session.request(
                    request.method,
                    _address(request.url),
                    headers=[(name.decode("ascii"), _text(value)) for name, value in request.headers.raw],
                    data=whole,
                    allow_redirects=False,
                    proxy=self._proxy,
                )
            except (aiohttp.ClientError, TimeoutError) as problem:
                error = problem
                lost = isinstance(error, _LOST) and not isinstance(error, aiohttp.ClientConnectorError)
                if whole.given or not (lost and tries_left):
                    break
        raise _as_httpx(error) from error.__cause__ or error

    def _open(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            ssl=self._tls,
            limit=self._connections,
            keepalive_timeout=IDLE_S,
            resolver=_Resolver(self._allowed),
            ttl_dns_cache=LOOKUP_KEPT_S,
            socket_factory=self._socket,
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_NOT_AUTOMATIC,
            auto_decompress=False,
            trust_env=False,
            max_line_size=HEADER_BYTES,
            max_field_size=HEADER_BYTES,
            max_headers=MOST_HEADERS,
        )

    def _socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """Called for every connection, also to an address in a URL, for which no resolver is asked.

        Raises AddressRefused.
        """
        family, kind, protocol, _, (address, *_) = info
        require_allowed(str(address), [ipaddress.ip_address(str(address))], self._allowed)
        return socket.socket(family, kind, protocol)


class _Resolver(AbstractResolver):
    """Resolves names. Fails unless all of a name's addresses may be connected to."""

    def __init__(self, allowed: list[Network]) -> None:
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET6 if address.version == 6 else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in await look_up(host, port, self._allowed)
        ]

    async def close(self) -> None:
        """There is nothing to close."""


class _Whole(aiohttp.Payload):
    """A request's body. `given` says whether any of the request was given to a connection that was open."""

    _autoclose = True  # it is in memory

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self._size = len(body)
        self.given = False

    async def write(self, writer: AbstractStreamWriter) -> None:
        # aiohttp writes the head together with the first part, so nothing was written before.
        self.given = writer.transport is not None and not _is_closed(writer.transport)
        if not self.given:
            raise aiohttp.ClientConnectionResetError("the server has closed the connection")
        for start in range(0, max(1, len(self._value)), PART_BYTES):
            await writer.write(self._value[start : start + PART_BYTES])

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return bytes(self._value).decode(encoding, errors)


def _is_closed(transport: asyncio.WriteTransport) -> bool:
    """Whether the other side has closed a connection, also if the event loop has not read that yet."""
    one = transport.get_extra_info("socket")
    if transport.is_closing() or one is None or one.fileno() < 0:
        return transport.is_closing()
    asked = select.poll()
    asked.register(one.fileno(), _CLOSED)
    return bool(asked.poll(0))


class _Body(httpx.AsyncByteStream):
    """The body of an answer. If it is closed before its end, so is its connection."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _as_httpx(error) from error.__cause__ or error

    async def aclose(self) -> None:
        self._response.release()


@lru_cache(16)
def _address(url: httpx.URL) -> URL:
    """A URL for aiohttp, without the user and password, which are in a header."""
    return URL(str(url.copy_with(userinfo=b"")), encoded=True)


def _text(value: bytes) -> str:
    """A header's value as aiohttp wants it: it writes UTF-8, so UTF-8 goes out byte for byte."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _as_httpx(error: aiohttp.ClientError | TimeoutError) -> httpx.TransportError:
    """The same error in httpx's terms, with the system's own words where there are any."""
    words = str(error.__cause__ or error) or type(error).__name__
    if isinstance(error, TimeoutError):
        return httpx.ReadTimeout(words)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return httpx.ProxyError(f"the proxy answered {error.status} {error.message}")
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return httpx.ProxyError(f"the proxy can't be reached: {words}")
    if isinstance(error, aiohttp.ClientConnectorError):
        return httpx.ConnectError(words)
    if isinstance(error, aiohttp.InvalidURL):
        return httpx.UnsupportedProtocol(f"{str(error)[:200]} is not a URL of HTTP")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return httpx.RemoteProtocolError("the server closed the connection without an answer")
    if isinstance(error, aiohttp.ClientResponseError):
        return httpx.RemoteProtocolError(f"the answer is not HTTP: {error.message}")
    if isinstance(error, aiohttp.ClientPayloadError):
        return httpx.RemoteProtocolError(f"the answer is not complete: {words}")
    return httpx.ReadError(words)
