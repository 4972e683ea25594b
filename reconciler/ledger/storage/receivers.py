"""The receivers of an intake, in a file beside it: which processes they are, when each was last alive, why it can't
accept webhooks, and what became of its last reload.

It is no database, and no lock that keeps others out: several receivers may append to one intake. Each holds a record
lock on a byte of its own, which the kernel releases however the process ends, so that nobody signals a process that
only has the same number.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from reconciler.events import times
from reconciler.events.times import Millis

_FAR = 1 << 40
_FLOCK = "qqihh" if sys.platform == "darwin" else "hhqqi4x"  # struct flock
_MOST_BYTES = 1 << 20
_TRIES = 5
"""A reader may meet a write that goes on."""


class Receiver(msgspec.Struct, frozen=True):
    """A receiver. `service` is the process to ask for a reload: itself, or its parent. `reloads` grows with each
    reload, and `error` says why the last one was refused. `since` is when it began; None in earlier versions.
    `failure` says why webhooks can't be appended to the intake, since `failing_since`.
    """

    pid: int
    service: int
    alive_at: Millis
    reloads: int = 0
    error: str | None = None
    since: Millis | None = None
    failure: str | None = None
    failing_since: Millis | None = None


_RECEIVERS = msgspec.json.Decoder(list[Receiver])


class Register(ABC):
    """The receiver's own side, for any thread. The methods raise OSError or LedgerUnavailable."""

    def __init__(self, *, service: int) -> None:
        self._own = Receiver(os.getpid(), service, times.now(), since=times.now())
        self._lock = threading.Lock()

    def alive(self, failure: str | None = None) -> None:
        """The receiver is alive. `failure` says why it can't append webhooks to the intake."""
        with self._lock:
            since = None if failure is None else self._own.failing_since or times.now()
            self._note(failure=failure, failing_since=since)

    def reloaded(self, error: str | None) -> None:
        """The receiver has read its config again; `error` says why it was refused."""
        with self._lock:
            self._note(reloads=self._own.reloads + 1, error=error)

    def _note(self, **changes: Any) -> None:
        self._own = msgspec.structs.replace(self._own, **changes, alive_at=times.now())
        self._write()

    @abstractmethod
    def _write(self) -> None:
        """Write `_own`."""

    @abstractmethod
    def close(self) -> None:
        """The receiver ends."""


class ReceiverFile(Register):
    """In the file beside the intake. One that was removed is made again. The methods raise OSError."""

    def __init__(self, intake: Path, *, service: int) -> None:
        super().__init__(service=service)
        self._path = receivers_path(intake)
        self._file: int | None = None

    def close(self) -> None:
        """Nothing: the end of the process releases its lock."""

    def _write(self) -> None:
        file = self._opened()
        with _written_by_one(file):
            others = [one for one in _read(file) if one.pid != self._own.pid and _holds(file, one.pid)]
            made = msgspec.json.encode([*others, self._own])
            os.pwrite(file, made, 0)
            os.ftruncate(file, len(made))

    def _opened(self) -> int:
        if self._file is not None:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._file), self._path.stat()):
                    return self._file
            os.close(self._file)
            self._file = None
        self._file = file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(OSError):  # a file system without locks: then `reload` does not find it
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _FAR + self._own.pid)
        return file


def running(intake: Path) -> list[Receiver]:
    """The receivers that run, as far as this process can see and signal them (not those in another container)."""
    with _reading(intake) as file:
        return [] if file is None else [one for one in _read(file) if _holds(file, one.pid)]


def noted(intake: Path) -> Sequence[Receiver]:
    """All that the file says: also of receivers in other containers, and of those that ended last."""
    with _reading(intake) as file:
        return [] if file is None else _read(file)


def receivers_path(intake: Path) -> Path:
    """Beside the file itself, not beside a link to it."""
    real = intake.resolve()
    return real.with_name(real.name + ".lock")


@contextmanager
def _reading(intake: Path) -> Iterator[int | None]:
    """Never in a receiver's own process: closing the file would release its lock (POSIX)."""
    try:
        file = os.open(receivers_path(intake), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield file
    finally:
        os.close(file)


@contextmanager
def _written_by_one(file: int) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _read(file: int) -> Sequence[Receiver]:
    for _ in range(_TRIES):
        with contextlib.suppress(msgspec.MsgspecError, ValueError):
            return _RECEIVERS.decode(os.pread(file, _MOST_BYTES, 0) or b"[]")
    return []


def _holds(file: int, pid: int) -> bool:
    """Whether this very process holds its byte: the kernel names the holder as it is seen from here."""
    if _FLOCK.startswith("q"):
        asked = struct.pack(_FLOCK, _FAR + pid, 1, 0, fcntl.F_RDLCK, os.SEEK_SET)
    else:
        asked = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, _FAR + pid, 1, 0)
    try:
        told = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
    except OSError:
        return False
    kind, holder = (told[3], told[2]) if _FLOCK.startswith("q") else (told[0], told[4])
    return bool(kind != fcntl.F_UNLCK and holder == pid)
