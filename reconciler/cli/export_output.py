"""Where an export goes: to standard output, or to a file that is there only when it is complete."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp
from typing import BinaryIO

from reconciler.cli.common import USAGE, fail
from reconciler.cli.output import OutputFailed, discard_pending, ended_like_interrupted


@contextmanager
def output(target: Path | None) -> Iterator[BinaryIO]:
    """A file to write to: `target`, or standard output. What goes wrong with it ends the program, with a message."""
    if target is None:
        with _to_stdout() as file:
            yield file
    else:
        with ended_like_interrupted(), _to_file(target) as file:
            yield file


@contextmanager
def _to_stdout() -> Iterator[BinaryIO]:
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        discard_pending()
        fail("the output is not complete: whoever read it has stopped")


@contextmanager
def _to_file(target: Path) -> Iterator[BinaryIO]:
    try:
        path = target.resolve()
        mode = _mode(path)
        # Beside the file, so that it can be renamed; only its owner may read it, as the ledger.
        number, name = mkstemp(prefix=f".{path.name[:100]}.", suffix=".partial", dir=path.parent)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a loop of links
        fail(f"{target}: can't be written: {getattr(error, 'strerror', None) or error}")
    made = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            yield file
            file.flush()
            if mode is not None:
                os.fchmod(number, mode)
            os.fsync(number)
            made.replace(path)
    except OutputFailed:
        raise
    except OSError as error:
        fail(f"{target}: can't be written: {error.strerror or error}")
    except KeyboardInterrupt:
        fail(f"interrupted: {target} is as it was before; run the same command again")
    finally:
        with suppress(OSError):
            made.unlink()


def _mode(path: Path) -> int | None:
    """The mode of the file that is replaced; None if there is none."""
    try:
        found = path.stat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found):
        fail(f"{path}: is a folder: give the name of a file in it", USAGE)
    if not stat.S_ISREG(found):
        fail(f"{path}: is not a file that can be replaced; for a pipe or a device write `--output - > {path}`", USAGE)
    return stat.S_IMODE(found)
