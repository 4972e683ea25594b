"""Writes several new files, all of them or none."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

PRIVATE = 0o600


class NewFile(msgspec.Struct, frozen=True):
    """A file to write. `private`: only its owner may read it."""

    path: Path
    text: str
    private: bool = True


def write_all(files: list[NewFile]) -> None:
    """Write files, over those that are there. They appear together, the last one last.

    Raises OSError; then none was written, unless the disk failed while they were put into place.
    """
    made: list[tuple[str, Path]] = []
    try:
        for one in files:
            target = one.path.resolve()  # a link stays one
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
            made.append((name, target))
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                if not one.private:
                    os.fchmod(descriptor, 0o666 & ~_umask())
                file.write(one.text)
                file.flush()
                os.fsync(descriptor)
        with _uninterrupted():
            while made:
                name, target = made[0]
                Path(name).replace(target)
                del made[0]
    finally:
        for name, _ in made:
            with contextlib.suppress(OSError):
                Path(name).unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait for the end of this."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
