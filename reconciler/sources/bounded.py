"""Bounds answers in size and time, and follows redirects only within one origin. Someone else could answer in
GitLab's place."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

LARGEST_ANSWER = 128 * 1024 * 1024
"""A page of the hook log has 20 bodies of at most 25 MB each. Usually they are below 1 MB together."""
MOST_REDIRECTS = 5
_CHUNK = 64 * 1024
_PORTS = {"http": 80, "https": 443}
_API = "/api/v4"


class TooLarge(requests.RequestException):
    """The answer is too large. A retry would give the same."""


class TooSlow(requests.RequestException):
    """The answer was not complete in time."""


class SentElsewhere(requests.RequestException):
    """A redirect leads away from the configured address. Nothing was sent there."""


class Bounded(HTTPAdapter):
    """Reads every answer, including redirects and errors, piece by piece: at most `largest` bytes, within `within_s`
    seconds of the request. The timeouts of requests apply to single reads, so that an answer that arrives byte by
    byte never times out. One request at a time.
    """

    def __init__(self, largest: int, within_s: float) -> None:
        self._largest = largest
        self._within_s = within_s
        self._deadline = _Deadline()
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        super().init_poolmanager(*arguments, **named)
        self._watch(self.poolmanager)

    def proxy_manager_for(self, *arguments: Any, **named: Any) -> urllib3.ProxyManager:
        manager: urllib3.ProxyManager = super().proxy_manager_for(*arguments, **named)
        self._watch(manager)
        return manager

    def close(self) -> None:
        """Also close the connections, which urllib3 leaves to the garbage collector."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118 - it can't be iterated over
                manager.pools[key].close()
        super().close()

    def send(self, *arguments: Any, **named: Any) -> requests.Response:
        self._deadline = deadline = _Deadline()
        timer = threading.Timer(self._within_s, deadline.expire)
        timer.daemon = True
        timer.start()
        try:
            response = super().send(*arguments, **named)
            # Set requests' own cache of the content: it would read without a bound.
            response._content = self._content(response)
            if deadline.has_expired:  # an answer without a length looks complete when it is cut
                raise requests.ConnectionError
        except TooLarge:
            raise
        except (requests.RequestException, OSError) as error:
            if deadline.has_expired:
                raise TooSlow(f"the answer was not complete after {self._within_s:g} s") from error
            raise
        finally:
            timer.cancel()
            deadline.finish()
        return response

    def _content(self, response: requests.Response) -> bytes:
        pieces, size = [], 0
        for piece in response.iter_content(_CHUNK):
            size += len(piece)
            if size > self._largest:
                response.close()
                raise TooLarge(f"the answer is larger than {self._largest:,} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    def _watch(self, manager: urllib3.PoolManager) -> None:
        """Register the manager's connections with the deadline of their request."""
        adapter = self

        class Watched(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                new = super()._new_conn()
                adapter._deadline.watch(new)  # the deadline covers the proxy and the TLS handshake too
                return new

            def _tunnel(self) -> None:
                super()._tunnel()
                if adapter._deadline.has_expired:  # a proxy's answer looks complete when it is cut
                    raise ConnectionAbortedError  # ssl, given the dead connection, would leave it open

            def putrequest(self, *arguments: Any, **named: Any) -> None:
                if self.sock is not None:
                    adapter._deadline.watch(self.sock)  # a reused connection
                super().putrequest(*arguments, **named)

        class WatchedTls(Watched, HTTPSConnection):
            pass

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Watched

        class TlsPool(HTTPSConnectionPool):
            ConnectionCls = WatchedTls

        manager.pool_classes_by_scheme = {"http": PlainPool, "https": TlsPool}


class _Deadline:
    """Ends a request that takes too long, from another thread: it shuts the socket down, so that the read ends."""

    def __init__(self) -> None:
        self.has_expired = False
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def watch(self, one: Any) -> None:
        """Watch the socket of the request. A duplicate handle is kept, because TLS takes over the socket's own."""
        with self._lock:
            self._forget()
            self._socket = socket.socket(fileno=os.dup(one.fileno()))
            if self.has_expired:
                self._shut()

    def expire(self) -> None:
        """The deadline has passed."""
        with self._lock:
            self.has_expired = True
            self._shut()

    def finish(self) -> None:
        """The request has ended: its connection may be used for another."""
        with self._lock:
            self._forget()

    def _shut(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # the other side has closed it
                self._socket.shutdown(socket.SHUT_RDWR)

    def _forget(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Session(requests.Session):
    """Follows redirects only within an origin, because the token is sent along."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is None:
            return None
        there = urlsplit(urljoin(resp.url, target))
        if _origin(there) != _origin(urlsplit(resp.url)):
            raise SentElsewhere(_elsewhere(there))
        return target


def bounded_session(largest: int = LARGEST_ANSWER, *, within_s: float) -> requests.Session:
    """A session with bounded answers, for one thread at a time. Compressed answers are requested: they have a tenth
    of the size on the wire.
    """
    session = _Session()
    session.max_redirects = MOST_REDIRECTS
    for scheme in ("https://", "http://"):
        session.mount(scheme, Bounded(largest, within_s))
    return session


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    """Scheme, host and port of a URL. An invalid port counts as None."""
    try:
        port = url.port or _PORTS.get(url.scheme)
    except ValueError:
        port = None
    return url.scheme, url.hostname, port


def _elsewhere(there: SplitResult) -> str:
    place = there._replace(netloc=there.netloc.rpartition("@")[2], query="", fragment="")
    before, api, _ = place.path.partition(_API)
    where = f"redirected to another address, {place.geturl()[:300]}, which was not followed: "
    if api and before == before.rstrip("/"):
        return f"{where}if GitLab has moved there, set gitlab.url to {place._replace(path=before).geturl()}"
    return f"{where}check gitlab.url"
