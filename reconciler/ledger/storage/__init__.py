"""The databases that a ledger can be in."""

from __future__ import annotations

import sys


def _import_sqlite_utils() -> None:
    """Import it without pandas and numpy, which it imports if they are installed. Nothing here uses them; they would
    take a second of each start, and begin threads, of which one would take the signals that the main thread blocks.
    """
    absent = [name for name in ("pandas", "numpy") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: it can't be imported
    try:
        import sqlite_utils  # noqa: F401
    finally:
        for name in absent:
            del sys.modules[name]


_import_sqlite_utils()
