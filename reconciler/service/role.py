"""The role of a process of the service, and what it shares with the others: a socket to the parent, a pipe to the
worker, and memory in which the receiver counts.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import threading
from dataclasses import dataclass
from enum import Enum

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.service.notify import notify
from reconciler.service.receiver_counts import ReceiverCounts


class Said(Enum):
    """What a process reports to its parent, as one byte."""

    READY = b"R"
    ALIVE = b"A"
    RELOADED = b"L"
    """The config was read again, and is used."""
    REFUSED = b"N"
    """The config was read again, and is not used."""
    STARTING = b"S"
    """The start takes long: a repair or an upgrade of the ledger."""


_PR_SET_PDEATHSIG = 1

STATE = {
    Said.READY: "READY=1",
    Said.ALIVE: "WATCHDOG=1",
    Said.STARTING: "EXTEND_TIMEOUT_USEC=60000000",
}
"""The same for systemd (sd_notify(3)), for a process without a parent of ours."""


@dataclass
class Link:
    """What connects the receiver with the worker. It outlives both."""

    counts: ReceiverCounts
    wake_reader: int
    """The end of a pipe that the worker reads: a byte arrives after webhooks were appended."""
    wake_writer: int
    """The other end, for the receiver."""
    since: Millis
    """When the parent began, with the receiver's port bound: no connection is refused from then on."""

    @classmethod
    def make(cls) -> Link:
        """A new link, to be made before the processes are forked."""
        wake_reader, wake_writer = os.pipe()
        os.set_blocking(wake_reader, False)
        os.set_blocking(wake_writer, False)
        return cls(ReceiverCounts(), wake_reader, wake_writer, times.now())

    def wake(self) -> None:
        """Webhooks were appended."""
        with contextlib.suppress(BlockingIOError):  # the pipe is full, so the worker will be woken anyway
            os.write(self.wake_writer, b"w")

    def read_all(self) -> None:
        """Empty the pipe."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.wake_reader, 65536):
                pass


class Role:
    """One process: the receiver or the worker, below a parent or on its own (`serve --only`).

    `listener` is the receiver's socket if the parent has bound it, `port` the port that it was bound to.
    """

    def __init__(
        self,
        name: str,
        *,
        parent: socket.socket | None = None,
        link: Link | None = None,
        listener: socket.socket | None = None,
        port: int | None = None,
    ) -> None:
        self.name = name
        self.link = link
        self.listener = listener
        self.port = port
        self._parent = parent
        if parent is not None:
            _die_with_parent()
        self.service_pid = os.getpid() if parent is None else os.getppid()
        """The process that a person stops, and asks to reload."""
        if parent is not None:
            threading.Thread(target=_end_with, args=(parent,), daemon=True, name="parent").start()

    @property
    def is_alone(self) -> bool:
        """Whether it has no parent of ours."""
        return self._parent is None

    def take_reloads(self) -> None:
        """Receive SIGHUP from now on, and one that was sent earlier. It ends a process that has no handler."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    def say(self, what: Said) -> None:
        """Tell the parent, or systemd if there is no parent."""
        if self._parent is None:
            if what in STATE:
                notify(STATE[what])
            return
        with contextlib.suppress(OSError):  # the parent ends, and so will we; or it is stopped and reads nothing
            self._parent.send(what.value, socket.MSG_DONTWAIT)


def _die_with_parent() -> None:
    """Have Linux kill this process when the parent ends (prctl(2)), even if it is stopped or hung."""
    with contextlib.suppress(OSError, AttributeError):  # on other systems the thread below does it alone
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _end_with(parent: socket.socket) -> None:
    """End with the parent: once it is killed, its port and its ledger must not stay in use."""
    with contextlib.suppress(OSError):
        while parent.recv(64):
            pass
    os._exit(1)
