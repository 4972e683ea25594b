"""The lock of the service: one process at a time serves a ledger, by whatever path it opens the file.

There are two locks, and the kernel releases both however the process ends. One is on a file beside the ledger, which
names the process that holds it. The other is on the ledger's own file, so that a hard link, another mount, or a
removed lock file does not allow a second service: an "open file description" lock, on a byte far beyond those that
SQLite locks.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reconciler.ledger.errors import LedgerInUse, LedgerUnavailable
from reconciler.ledger.storage.files import make_private

ASKED_PATIENCE_S = 0.5
"""`service_process` holds the lock for a moment, and a start waits for that."""
ASKED_PAUSE_S = 0.02

_FAR = 1 << 62
"""SQLite locks bytes around 1 << 30."""
_FLOCK = "hhqqi4x"  # struct flock: type, whence, start, length, pid


@contextmanager
def only_service(path: Path, *, make: bool = False, pid: int | None = None) -> Iterator[None]:
    """Hold the lock of the service. With `make`, as the service uses it, the ledger's file is created if there is
    none, so that it can be locked. `pid` is the process that is named as the service; by default this one.

    Raises LedgerInUse if another service holds it, and LedgerUnavailable if the files can't be opened.
    """
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context(lock_file(path).open("a+"))
            _take(lock.fileno(), path, serving=make)
            if make:
                make_private(path)
            own = _open(path)
        except OSError as error:
            raise LedgerUnavailable(
                f"{path}: can't be opened for writing: {error.strerror}: {error.filename}"
            ) from error
        if own is not None:
            # Never closed before SQLite has closed it: that would release SQLite's locks (POSIX).
            held.callback(os.close, own)
            _take_own(own, path, serving=make)
        lock.truncate(0)
        lock.write(str(os.getpid() if pid is None else pid))
        lock.flush()
        yield


def service_process(path: Path) -> int | None:
    """The process that serves a ledger; None if none does."""
    try:
        with lock_file(path).open("r") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read().strip() or 0) or None
    except (OSError, ValueError):
        return None
    return None


def lock_file(path: Path) -> Path:
    """Beside the file itself, not beside a link to it."""
    real = path.resolve()
    return real.with_name(real.name + ".lock")


def _take(lock: int, path: Path, *, serving: bool) -> None:
    deadline = time.monotonic() + ASKED_PATIENCE_S
    while not _taken(lock):
        if time.monotonic() < deadline:
            time.sleep(ASKED_PAUSE_S)
            continue
        owner = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
        raise LedgerInUse(_in_use(path, f"process {owner or 'unknown'}", serving=serving))


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def _take_own(file: int, path: Path, *, serving: bool) -> None:
    command: int | None = getattr(fcntl, "F_OFD_SETLK", None)
    if command is None:  # not on Linux: the lock file must do
        return
    try:
        fcntl.fcntl(file, command, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _FAR, 1, 0))
    except (BlockingIOError, PermissionError):
        who = "under another name of the file, or its lock file was removed"
        raise LedgerInUse(_in_use(path, who, serving=serving)) from None
    except OSError:  # the file system has no such locks
        return


def _in_use(path: Path, who: str, *, serving: bool) -> str:
    if not serving:
        return f"{path}: a `serve` ({who}) has this ledger; stop it first"
    return (
        f"{path}: another `serve` ({who}) has this ledger; stop it first, or give this one a ledger.path of its own"
    )
