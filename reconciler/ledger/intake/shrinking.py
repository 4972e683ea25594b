"""Gives free pages of an intake's file back to the disk, in steps: whoever appends waits for one step at most.

A step is one transaction, so a kill leaves the file as it was before it or after it. The next checkpoint then makes
the file itself smaller.
"""

from __future__ import annotations

import sqlite3

STEP_PAGES = 100
"""At most so many pages are given back at once. SQLite's cache would not hold many more, and write them twice."""
SPARE_PAGES = 1024
"""So many free pages are kept, for the next webhooks: 8 MB."""
COPIED_PAGES = 64
"""A file of an earlier version is written anew once no more pages than these are used, which takes milliseconds."""

_INCREMENTAL = 2


def give_back(conn: sqlite3.Connection) -> bool:
    """Give some free pages back. Returns whether there are more to be given back. Raises sqlite3.Error.

    Used pages at the end of the file are moved to free ones. So this waits until most pages are free: what is
    used now may be trimmed soon.
    """
    free, used = _pages(conn)
    if free <= max(SPARE_PAGES, used):
        return False
    if conn.execute("PRAGMA auto_vacuum").fetchone()[0] != _INCREMENTAL:
        if used <= COPIED_PAGES:
            _write_anew(conn)
        return False
    conn.executescript(f"PRAGMA incremental_vacuum({STEP_PAGES})")  # `execute` would give one page back
    left, used = _pages(conn)
    return max(SPARE_PAGES, used) < left < free


def _pages(conn: sqlite3.Connection) -> tuple[int, int]:
    """How many pages are free, and how many are used."""
    free: int = conn.execute("PRAGMA freelist_count").fetchone()[0]
    return free, conn.execute("PRAGMA page_count").fetchone()[0] - free


def _write_anew(conn: sqlite3.Connection) -> None:
    """Write the used pages of a file that was made without auto_vacuum to its beginning, with it."""
    conn.execute("PRAGMA temp_store = MEMORY")  # there may be no folder for a temporary file
    conn.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
    conn.execute("VACUUM")
