"""A pooler in front of PostgreSQL, like PgBouncer with `pool_mode = transaction`: each transaction of a client takes
the session that was free last. It can also say nothing, as a proxy does whose server is gone.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple
from urllib.parse import urlsplit

from psycopg.conninfo import conninfo_to_dict

from reconciler.location import PostgresUrl

_ENCRYPTION = (80877103, 80877104)
_OK = struct.pack("!cII", b"R", 8, 0)
_TOLD = {
    "server_version": "15.0",
    "server_encoding": "UTF8",
    "client_encoding": "UTF8",
    "integer_datetimes": "on",
    "standard_conforming_strings": "on",
    "default_transaction_read_only": "off",
    "in_hot_standby": "off",
}
_READY = struct.pack("!cIc", b"Z", 5, b"I")


class _Message(NamedTuple):
    kind: bytes
    body: bytes

    @property
    def whole(self) -> bytes:
        return struct.pack("!cI", self.kind, len(self.body) + 4) + self.body


class Pooler:
    """Use it as `pooler(url)`. Clients that come once it `is_silent`, and those that are there, hear nothing more."""

    def __init__(self, url: PostgresUrl, sessions: int) -> None:
        self._asked = conninfo_to_dict(url.value)
        self._server = (urlsplit(url.value).hostname, urlsplit(url.value).port or 5432)
        self.is_silent = threading.Event()
        self._over = threading.Event()
        self._opened: list[socket.socket] = []
        self._free = [self._session() for _ in range(sessions)]
        self._changed = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._opened.append(self._listener)
        where = f"{self._asked['user']}@127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = PostgresUrl(urlsplit(url.value)._replace(netloc=where).geturl())
        threading.Thread(target=self._accept, daemon=True).start()

    def end(self) -> None:
        self._over.set()
        for one in self._opened:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _session(self) -> socket.socket:
        asked = {"user": self._asked["user"], "database": self._asked["dbname"]}
        asked["options"] = self._asked.get("options", "")
        words = b"".join(f"{name}\0{value}\0".encode() for name, value in asked.items()) + b"\0"
        session = socket.create_connection(self._server)
        self._opened.append(session)
        session.sendall(struct.pack("!II", len(words) + 8, 196608) + words)
        while _message(session).kind != b"Z":
            pass
        return session

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._opened.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError, EOFError, struct.error):  # it has ended
            while struct.unpack("!I", _packet(client)[:4])[0] in _ENCRYPTION:
                client.sendall(b"N")
            self._wait_if_silent()
            told = [_Message(b"S", f"{name}\0{value}\0".encode()).whole for name, value in _TOLD.items()]
            key = _Message(b"K", struct.pack("!II", client.fileno(), 1)).whole  # a number of its own
            client.sendall(_OK + b"".join(told) + key + _READY)
            while True:
                self._transaction(client)

    def _transaction(self, client: socket.socket) -> None:
        asked = _asked(client)
        with self._changed:
            self._changed.wait_for(lambda: self._free)
            session = self._free.pop()
        last = b""
        try:
            while not last:
                self._wait_if_silent()
                session.sendall(asked)
                kind = b""
                while kind != b"Z":
                    kind, body = answer = _message(session)
                    if kind == b"Z" and body == b"I":
                        last = answer.whole
                    else:
                        client.sendall(answer.whole)
                if not last:
                    asked = _asked(client)
        finally:
            with self._changed:
                self._free.append(session)
                self._changed.notify_all()
        client.sendall(last)  # once the session is free: the client's next statement may come at once

    def _wait_if_silent(self) -> None:
        if self.is_silent.is_set():
            self._over.wait()


@contextmanager
def pooler(url: PostgresUrl, *, sessions: int = 2) -> Iterator[Pooler]:
    """A pooler in front of a ledger."""
    made = Pooler(url, sessions)
    try:
        yield made
    finally:
        made.end()


def _asked(client: socket.socket) -> bytes:
    """What a client sends until it waits for an answer."""
    asked = b""
    while True:
        one = _message(client)
        if one.kind == b"X":
            raise EOFError
        asked += one.whole
        if one.kind in (b"Q", b"S"):
            return asked


def _message(there: socket.socket) -> _Message:
    return _Message(_exactly(there, 1), _packet(there))


def _packet(there: socket.socket) -> bytes:
    return _exactly(there, struct.unpack("!I", _exactly(there, 4))[0] - 4)


def _exactly(there: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        if not (some := there.recv(size - len(found))):
            raise EOFError
        found += some
    return found
