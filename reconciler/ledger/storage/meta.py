"""The `meta` table: single values by name. It is read and written here only.

The caller holds the transaction.
"""

from __future__ import annotations

from reconciler.ledger.storage.database import Database

_PUT = "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
_RAISE = """
    INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value
     WHERE excluded.value > meta.value
"""


def get(db: Database, name: str) -> str | None:
    """The value of a name; None if it has none."""
    row = db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def with_prefix(db: Database, prefix: str) -> dict[str, str]:
    """The values of all names that begin with `prefix`, by the rest of the name."""
    rows = db.execute("SELECT name, value FROM meta WHERE name >= ? AND name < ?", (prefix, _after(prefix)))
    return {name.removeprefix(prefix): str(value) for name, value in rows.fetchall()}


def names(db: Database, prefix: str) -> list[str]:
    """All names that begin with `prefix`, without it, in the order in which they sort."""
    rows = db.execute("SELECT name FROM meta WHERE name >= ? AND name < ?", (prefix, _after(prefix)))
    return sorted(name.removeprefix(prefix) for (name,) in rows.fetchall())


def delete_before(db: Database, prefix: str, name: str) -> None:
    """Remove the names that begin with `prefix` and sort before `name`."""
    db.execute("DELETE FROM meta WHERE name >= ? AND name < ?", (prefix, name))


def put(db: Database, name: str, value: str) -> None:
    """Set the value of a name."""
    db.execute(_PUT, (name, value))


def raise_to(db: Database, name: str, value: str) -> None:
    """Set the value of a name, unless the present one sorts after it."""
    db.execute(_RAISE, (name, value))


def delete(db: Database, *names: str) -> None:
    """Remove names. Names that are not there are ignored."""
    db.executemany("DELETE FROM meta WHERE name = ?", [(name,) for name in names])


def _after(prefix: str) -> str:
    """What sorts after all names with this prefix: an index then finds them."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
