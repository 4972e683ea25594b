"""A wire to a server that can be cut, frozen and mended."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType


class Wire:
    """`with Wire(port) as wire:` passes everything on from `wire.port`, unless it is cut or frozen."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._ends: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._flows = threading.Event()
        self._flows.set()
        self.far_ports: set[int] = set()
        """The ports from which the server sees the connections come that are open."""
        self.port = 0
        self.mend()

    def mend(self) -> None:
        """Listen: on the same port as before. What a frozen wire holds is passed on."""
        self._flows.set()
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self.port = self._listener.getsockname()[1]
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def freeze(self) -> None:
        """Pass nothing on, and break nothing: neither side hears that the other has gone."""
        self._flows.clear()

    def cut(self) -> None:
        """Break every connection, and refuse new ones."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for end in list(self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._flows.set()

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # the server is down
                near.close()
                continue
            self._ends |= {near, far}
            self.far_ports.add(far.getsockname()[1])
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        port = one.getsockname()[1]
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                self._flows.wait()
                other.sendall(data)
        self._flows.wait()
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._ends.discard(one)
        self.far_ports.discard(port)
        one.close()
