"""An answer of GitLab's, or of what stands in its place, is bounded: in size, in time, and in where it comes from."""

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
"""A page of the hook log has 20 bodies, and GitLab sends none above 25 MB; all of it is usually below one."""
MOST_REDIRECTS = 5
_CHUNK = 64 * 1024
_PORTS = {"http": 80, "https": 443}
_API = "/api/v4"


class TooLarge(requests.RequestException):
    """Asking again would bring it again."""


class TooSlow(requests.RequestException):
    """It began, or did not, and had not ended in time."""


class SentElsewhere(requests.RequestException):
    """A redirect leads away from the address that the config names. Nothing was sent there."""


class Bounded(HTTPAdapter):
    """Reads every answer, redirects' and errors' among them, piece by piece, no more than so much of it, and no
    longer than so many seconds from the request on: the timeouts of requests are for one read, and each byte of an
    answer that trickles begins them anew. One request at a time.
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
        """Close the connections too: urllib3 leaves that to the garbage collector."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118 - it can't be iterated over
                manager.pools[key].close()
        super().close()

    def send(self, *arguments: Any, **named: Any) -> requests.Response:
        self._deadline = deadline = _Deadline()
        timer = threading.Timer(self._within_s, deadline.pass_by)
        timer.daemon = True
        timer.start()
        try:
            response = super().send(*arguments, **named)
            # Where requests itself keeps what it has read: it would read without a bound.
            response._content = self._content(response)
            if deadline.is_past:  # where only its end says how long an answer is, a cut one looks whole
                raise requests.ConnectionError
        except TooLarge:
            raise
        except (requests.RequestException, OSError) as error:
            if deadline.is_past:
                raise TooSlow(f"the answer had not come to its end after {self._within_s:g} s") from error
            raise
        finally:
            timer.cancel()
            deadline.meet()
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
        """Have the manager's connections show themselves to the deadline of their request."""
        adapter = self

        class Watched(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                new = super()._new_conn()
                adapter._deadline.watch(new)  # a proxy answers, and TLS begins, before anything is asked
                return new

            def putrequest(self, *arguments: Any, **named: Any) -> None:
                if self.sock is not None:
                    adapter._deadline.watch(self.sock)  # one that was used before
                super().putrequest(*arguments, **named)

        class WatchedTls(Watched, HTTPSConnection):
            pass

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Watched

        class TlsPool(HTTPSConnectionPool):
            ConnectionCls = WatchedTls

        manager.pool_classes_by_scheme = {"http": PlainPool, "https": TlsPool}


class _Deadline:
    """Ends a request that takes too long, from another thread: who waits for its next byte finds that none comes."""

    def __init__(self) -> None:
        self.is_past = False
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def watch(self, one: Any) -> None:
        """The request goes over this socket. What is kept is a handle of our own: TLS takes a socket's away."""
        with self._lock:
            self._forget()
            self._socket = socket.socket(fileno=os.dup(one.fileno()))
            if self.is_past:
                self._shut()

    def pass_by(self) -> None:
        """The time is over."""
        with self._lock:
            self.is_past = True
            self._shut()

    def meet(self) -> None:
        """The answer is read, or given up: its connection may be used for another."""
        with self._lock:
            self._forget()

    def _shut(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # the other side was faster
                self._socket.shutdown(socket.SHUT_RDWR)

    def _forget(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Session(requests.Session):
    """Follows redirects within an origin alone: the token goes along."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is None:
            return None
        there = urlsplit(urljoin(resp.url, target))
        if _origin(there) != _origin(urlsplit(resp.url)):
            raise SentElsewhere(_elsewhere(there))
        return target


def bounded_session(largest: int = LARGEST_ANSWER, *, within_s: float) -> requests.Session:
    """A session whose answers are bounded, for one thread at a time. Packed ones are asked for: they are a tenth of
    the size on the wire.
    """
    session = _Session()
    session.max_redirects = MOST_REDIRECTS
    for scheme in ("https://", "http://"):
        session.mount(scheme, Bounded(largest, within_s))
    return session


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    """Scheme, host and port of a URL; ports that are none are none's."""
    try:
        port = url.port or _PORTS.get(url.scheme)
    except ValueError:
        port = None
    return url.scheme, url.hostname, port


def _elsewhere(there: SplitResult) -> str:
    place = there._replace(netloc=there.netloc.rpartition("@")[2], query="", fragment="")
    before, api, _ = place.path.partition(_API)
    where = f"we are sent to another address, {place.geturl()[:300]}, where nothing was asked: "
    if api and before == before.rstrip("/"):
        return f"{where}if GitLab is there now, set gitlab.url to {place._replace(path=before).geturl()}"
    return f"{where}is gitlab.url right?"
