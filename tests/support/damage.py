"""Damage to an SQLite file, as a bad disk does it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

HEADER = 100
"""Bytes at the beginning of the file."""


def pages_of(ledger: Path, name: str) -> list[int]:
    """The pages of a table, or of an index."""
    with closing(sqlite3.connect(ledger)) as db:
        return [page for (page,) in db.execute("SELECT pageno FROM dbstat WHERE name = ? ORDER BY path", (name,))]


def overwrite(ledger: Path, pages: list[int]) -> None:
    """Fill pages with what is no page. The file's header stays."""
    with ledger.open("r+b") as file:
        size = int.from_bytes(file.read(18)[16:])
        for page in pages:
            start = size * (page - 1) + (HEADER if page == 1 else 0)
            file.seek(start)
            file.write(b"\xff" * (size * page - start))
