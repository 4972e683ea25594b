"""Records that could not be understood: noted, seen again, counted, cleared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.events.unreadable import RAW_CHARS, Unreadable
from reconciler.ledger.coverage import unreadable
from reconciler.ledger.coverage.unreadable import ERROR_CHARS, UnreadableCount, UnreadableRow
from reconciler.ledger.storage.connection import connect
from reconciler.ledger.storage.database import Database
from reconciler.location import Location


@pytest.fixture
def db(ledger_at: Location) -> Iterator[Database]:
    with closing(connect(ledger_at)) as db:
        yield db


def test_noted_seen_again_and_understood(db: Database) -> None:
    unreadable.note(db, 42, "issues", [Unreadable("7", "bad", "{}"), Unreadable("8", "bad", "[]")], now=Millis(1000))
    unreadable.note(db, 42, "issues", [Unreadable("7", "worse", "null")], now=Millis(2000))
    unreadable.note(db, -9, "hook_log", [Unreadable("7", "bad", "{}")], now=Millis(1500))
    assert unreadable.unreadable(db, limit=1) == [
        UnreadableRow(42, "issues", "7", "worse", "null", times.iso(Millis(1000)), times.iso(Millis(2000)))
    ]
    assert unreadable.by_source(db) == [
        UnreadableCount(-9, "hook_log", 1, times.iso(Millis(1500)), "bad"),
        UnreadableCount(42, "issues", 2, times.iso(Millis(1000)), "worse"),
    ]
    unreadable.clear(db, 42, "issues", ["7", "9"])
    assert [one.count for one in unreadable.by_source(db)] == [1, 1]


def test_what_is_kept_is_bounded(db: Database) -> None:
    unreadable.note(db, 42, "issues", [Unreadable("7", "e" * 10_000, "r" * 100_000)], now=Millis(0))
    [kept] = unreadable.unreadable(db)
    assert (len(kept.error), len(kept.raw)) == (ERROR_CHARS, RAW_CHARS)


def test_clearing_costs_nothing_where_there_is_nothing(tmp_path: Path) -> None:
    """It is asked with every page of every poll."""
    with closing(connect(tmp_path / "ledger.db")) as db:
        asked: list[str] = []
        db.conn.set_trace_callback(asked.append)
        unreadable.clear(db, 42, "issues", [str(n) for n in range(100)])
        db.conn.set_trace_callback(None)
        [sql] = [one for one in asked if "DELETE" in one]
        plan = [row[-1] for row in db.execute("EXPLAIN QUERY PLAN " + sql).fetchall()]
    assert any("SEARCH unreadable USING PRIMARY KEY (project_id=? AND source=?" in step for step in plan)
