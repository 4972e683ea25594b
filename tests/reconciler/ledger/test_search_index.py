"""Making events findable: one that can't be is skipped and named, and the rest goes on."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.views import search
from tests.support.filled import filled


def index_all(db: Database) -> list[int]:
    """Index until nothing is left; the events that were skipped."""
    skipped, more = [], True
    while more:
        with transaction(db):
            step = search.index_step(db)
        skipped += step.skipped
        assert (step.why is None) == (not step.skipped)
        more = step.more
    return skipped


def findable(db: Database) -> set[int]:
    return {row["id"] for row in search.find(db, "kind:note", before=1 << 62, limit=1000)}


@pytest.mark.parametrize(
    "spoil",
    [
        "UPDATE sightings SET title = CAST(x'ff' AS TEXT) WHERE id = ?",  # text that is none, as Python sees it
        "UPDATE sightings SET payload = CAST(x'c3' AS TEXT) WHERE id = ?",
        "UPDATE sightings SET payload = x'00' WHERE id = ?",
        "UPDATE sightings SET ref = x'07' WHERE id = ?",
        "UPDATE events SET sighting_id = 100000 + id WHERE id = ?",
    ],
)
@pytest.mark.parametrize("which", [{1}, {150}, {400}, {299, 300, 301}, set(range(1, 401))])
def test_events_that_can_t_be_indexed_are_skipped(tmp_path: Path, spoil: str, which: set[int]) -> None:
    path = tmp_path / "ledger.db"
    filled(path, 400)
    with closing(connect(path)) as db:
        db.execute("PRAGMA foreign_keys = OFF")
        for ident in which:
            db.execute(spoil, (ident,))
        skipped = index_all(db)
        assert set(skipped) == which
        assert len(skipped) == len(which)  # each is named once
        assert index_all(db) == []
        last = [row for (row,) in db.execute("SELECT max(rowid) FROM search")]
        assert last == [400]
        with transaction(db):
            db.execute("UPDATE sightings SET title = NULL, payload = '{}', ref = NULL")
            db.execute("UPDATE events SET sighting_id = id")
        assert findable(db) == set(range(1, 401)) - which


def test_a_damaged_index_is_told_as_damage(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    filled(path, 3)
    with closing(connect(path)) as db:
        index_all(db)
        db.execute("DELETE FROM search_data")
    filled(path, 3, first=3)
    with closing(connect(path)) as db, pytest.raises(Exception, match="damaged"):
        index_all(db)
