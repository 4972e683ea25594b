"""Puts another file in an intake's place, so that a kill at any moment leaves one that is complete.

Nothing here opens a file: an intake is three of them, which have to be moved together.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from reconciler.ledger.storage.files import sync

_SUFFIXES = ("-wal", "-shm", "")


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """No other process opens an intake in this folder, or replaces one, while the block lasts.

    Whoever opened one file while its log is exchanged would share that log with the next file. Raises OSError.
    """
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def exchange(path: Path, made: Path, aside: Path) -> None:
    """Replace an intake. After a kill anywhere in here, the next that opens it finishes this (`finish`)."""
    made.replace(_replacing(path))
    sync(path.parent)
    for suffix in ("", "-wal", "-shm"):  # the file first: while it is there, the new one does not count
        with contextlib.suppress(FileNotFoundError):
            _beside(path, suffix).rename(_beside(aside, suffix))
    sync(path.parent)
    finish(path)
    for left in path.parent.glob(f"{path.name}.new-*"):  # of kills, or of a receiver that came too late
        left.unlink(missing_ok=True)


def finish(path: Path) -> None:
    """Move the new file of `exchange` to the path, if the damaged one has gone from there. Raises OSError."""
    made = _replacing(path)
    if not made.exists():
        return
    if path.exists():  # a kill came before the damaged file was moved: what was copied may have grown since
        made.unlink()
        return
    leave_log(path)
    made.rename(path)
    sync(path.parent)


def leave_log(path: Path) -> None:
    """The log of an intake that was moved without it must not be taken for that of the new file."""
    left = path.with_name(f"{path.name}.left-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}")
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            _beside(path, suffix).rename(_beside(left, suffix))


def remove(path: Path) -> None:
    for suffix in _SUFFIXES:
        _beside(path, suffix).unlink(missing_ok=True)


def _replacing(path: Path) -> Path:
    return path.with_name(f"{path.name}.replacing")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
