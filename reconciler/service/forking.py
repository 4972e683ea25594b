"""What must happen before a process forks."""

from __future__ import annotations

import time
from pathlib import Path

PATIENCE_S = 2.0
PAUSE_S = 0.001

_THREADS = Path("/proc/self/task")


def until_alone() -> None:
    """Wait until this process has no thread but this one, on Linux.

    A thread that was joined may still be ending, and hold a lock of a C library (OpenSSL has one). A process
    that is forked at that moment never sees the lock released, and would hang when it exits, if not before.
    """
    deadline = time.monotonic() + PATIENCE_S
    while _threads() > 1 and time.monotonic() < deadline:
        time.sleep(PAUSE_S)


def _threads() -> int:
    try:
        return len(list(_THREADS.iterdir()))
    except OSError:
        return 1
