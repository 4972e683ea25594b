"""Output that ends early: the disk is full, the reader is gone, or a signal ends the command."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class OutputFailed(OSError):
    """Output was lost, in whole or in part."""

    def __str__(self) -> str:
        return f"can't write to standard output: {self.strerror}"


@contextmanager
def output_failures() -> Iterator[None]:
    """Raise OutputFailed if output can't be written, to tell it from errors of other files.

    A reader that went away (`… | head`) stays a BrokenPipeError.
    """
    before = sys.stdout
    try:
        raw = _Raw(before.fileno(), "w", closefd=False)
    except io.UnsupportedOperation:  # not a real file: something captures the output
        yield
        return
    before.flush()
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw), before.encoding, before.errors, line_buffering=before.isatty()
    )
    try:
        yield
    finally:
        sys.stdout = before


def discard_pending() -> None:
    """Discard what could not be written: Python would try again at exit, and complain."""
    os.dup2(os.open(os.devnull, os.O_RDWR), sys.stdout.fileno())


@contextmanager
def ended_like_interrupted() -> Iterator[None]:
    """SIGTERM and SIGHUP remove what was begun, like SIGINT. One that is ignored (`nohup`) stays so."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    ends = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) != signal.SIG_IGN]
    before = {one: signal.signal(one, interrupt) for one in ends}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


class _Raw(io.FileIO):
    def write(self, data: bytes, /) -> int:  # type: ignore[override]  # the buffer in front gives bytes
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            why = "it is closed" if error.errno == errno.EBADF else error.strerror
            raise OutputFailed(error.errno, why) from error
