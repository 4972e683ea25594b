"""Whether the files that are open are still those at the ledger's path.

A process can go on writing to a file that was moved, removed or replaced, and all of that is lost when it ends.
SQLite does not check this in WAL mode, so we do: three `stat` calls per commit, which take a few microseconds.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

Identity = tuple[int, int]
"""Device and inode."""


class Files:
    """The ledger's files as they were when it was opened: the database, its write-ahead log, and the log's index.

    They are never opened here: closing a second descriptor of an SQLite file would release SQLite's locks on it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()  # the working directory may change later
        self._opened = {suffix: identity(self._at(suffix)) for suffix in ("", "-wal", "-shm")}

    def trouble(self) -> str | None:
        """What is wrong with them, and what to do; None if they are still the files that were opened."""
        for suffix, opened in self._opened.items():
            path = self._at(suffix)
            try:
                now = identity(path)
            except OSError as error:
                return f"{path}: can't be looked at: {error.strerror}: nothing is written until it can"
            if now != opened:
                return _advice(path, suffix, gone=now is None)
        return None

    @property
    def path(self) -> Path:
        """The path of the database file."""
        return self._path

    @property
    def database(self) -> Identity | None:
        """The database file that was opened."""
        return self._opened[""]

    def _at(self, suffix: str) -> Path:
        return self._path.with_name(self._path.name + suffix)


def make_private(path: Path) -> None:
    """Create a file that only its owner may read, unless there is one: events may be confidential.

    SQLite gives the files beside it the same mode. An existing file is not opened: closing it again would release the
    locks that SQLite holds on it in this process (POSIX). Raises OSError.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def identity(path: Path) -> Identity | None:
    """Which file is at a path; None if there is none. Raises OSError if that can't be determined."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _advice(path: Path, suffix: str, *, gone: bool) -> str:
    what = "was moved or removed while it was in use" if gone else "is another file than the one in use"
    if not suffix:
        do = (
            "move the very same file back (not a copy of it) and this goes on; or stop the service, put the file "
            "to be used in its place, and start it again"
        )
    else:
        do = "stop the service, which then writes what it still holds into the ledger, and start it again"
    return f"{path}: {what}: nothing is written to it; {do}"
