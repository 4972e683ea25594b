"""The receiver's port, which the parent holds: no connection is refused while the receiver restarts."""

from __future__ import annotations

import contextlib
import socket
import time

from reconciler.service import listen_addresses
from reconciler.service.errors import ServiceError
from reconciler.service.web import is_listening, listen

PATIENCE_S = 2.0
"""A start right after a kill waits for the port: the processes that had it end a moment later."""
PAUSE_S = 0.02


class ReceiverPort:
    """A bound port. `listener` is its socket; None if it was closed."""

    def __init__(self, host: str, port: int) -> None:
        """Bind it. Raises ServiceError if it can't be bound."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and listen_addresses.is_taken(host, port):
            time.sleep(PAUSE_S)
        self.listener: socket.socket | None = listen(host, port)
        self.number: int = self.listener.getsockname()[1]
        self._host = host

    def listen_again(self) -> None:
        """Replace a socket that has stopped listening although nobody closed it, if that is possible now."""
        if self.listener is not None and not is_listening(self.listener):
            self.close()
        if self.listener is None:
            with contextlib.suppress(ServiceError):  # the receiver tries again
                self.listener = listen(self._host, self.number)

    def close(self) -> None:
        """Close this process's socket. Those of others stay open."""
        if self.listener is not None:
            self.listener.close()
            self.listener = None
