"""Making events findable: one that can't be is skipped and named, and the rest goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.events import times
from reconciler.events.sighting import Identity, Precision, Sighting, Summary
from reconciler.ledger.errors import LedgerUnavailable
from reconciler.ledger.queue import known
from reconciler.ledger.recording.record import record
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sqlite import SqliteDatabase
from reconciler.ledger.views import search
from reconciler.ledger.views.browse import Filter
from reconciler.ledger.views.words import COLUMNS
from reconciler.location import Location
from tests.support.filled import filled
from tests.support.ledgers import ledger_location, nothing_kept


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
        assert db.execute("SELECT max(rowid) FROM search").fetchone() == (400,)
        with transaction(db):
            db.execute("UPDATE sightings SET title = NULL, payload = '{}', ref = NULL")
            db.execute("UPDATE events SET sighting_id = id")
        assert findable(db) == set(range(1, 401)) - which


@pytest.mark.parametrize("which", [{1}, {299, 300, 301}, set(range(1, 401))])
def test_events_without_a_sighting_are_skipped(ledger_at: Location, which: set[int]) -> None:
    filled(ledger_at, 400)
    with closing(connect(ledger_at)) as db:
        with transaction(db):
            for ident in which:
                db.execute("UPDATE events SET sighting_id = 100000 + id WHERE id = ?", (ident,))
        assert set(index_all(db)) == which
        assert index_all(db) == []
        db.execute("UPDATE events SET sighting_id = id")
        assert findable(db) == set(range(1, 401)) - which


PUSH = {"after": "da1560886d4f094c3e6c9ef40349f7d38b5d27d7", "commits": [{"id": "c5feabde2d8cd023215af4d2ceeb7a64"}]}


def test_an_event_is_found_by_what_people_know_of_it(ledger_at: Location) -> None:
    push = Summary(
        kind="push", project_id=7, project_path="group/Sub/app", author="ada", ref="refs/heads/feature/login-page"
    )
    issue = Summary(
        kind="issue", action="open", project_id=7, project_path="group/sub/app", author="grace", object="issue/23",
        title="Login page: it\'s a Café, naïve_and 日本 crash\\",
    )  # fmt: skip
    with closing(connect(ledger_at)) as db:
        with transaction(db):
            record(db, [reported(1, push, json.dumps(PUSH)), reported(2, issue, "{}")], now=times.now())
        assert index_all(db) == []
        for words, wanted in (
            ("group", [2, 1]),
            ("kind:push", [1]),
            ("action:open", [2]),
            ("author:ada", [1]),
            ("author:gra", [2]),
            ("author:login", []),
            ("project:GROUP/sub/app", [2, 1]),
            ("project:7", [2, 1]),
            ("branch:feature/login-page", [1]),
            ("ref:feature", [1]),
            ("commit:da15608", [1]),
            ("c5feabde2d8cd023215af4d2ceeb7a64", [1]),
            ("#23", [2]),
            ("#2", []),
            ("!23", []),
            ("object:issue/2", [2]),
            ("crash", [2]),
            ("login kind:issue", [2]),
            ('"login page"', [2]),
            ('"page login"', []),
            ('"login pa"', [2]),
            ('"log page"', []),
            ('title:"it\'s a cafe"', [2]),
            ("CAFÉ naive_AND", [2]),
            ("日", [2]),
            ("crash\\", [2]),
            ("unknown:crash", []),
            ("author:ada #23", []),
            ("nothing-like-it", []),
            ('"', []),
            ("AND OR NOT *", []),
            ("crash' | 'kind:push", []),
        ):
            assert [row["id"] for row in search.find(db, words, before=9, limit=9)] == wanted, words
        assert search.find(db, "group", before=2, limit=9)[0]["id"] == 1
        assert known.heard(db, ["push", "pus", "open", "grace", "'", 'a"b']) == {"push", "open"}


def test_a_text_of_any_length_can_be_indexed_and_looked_for(ledger_at: Location) -> None:
    long = Summary(kind="note", title="start " + "ü" * 50_000 + " ".join(f"word{n}" for n in range(100_000)))
    with closing(connect(ledger_at)) as db:
        with transaction(db):
            record(db, [reported(1, long, "{}"), reported(2, Summary(kind="note", title="x"), "{}")], now=times.now())
        assert index_all(db) == []
        assert [row["id"] for row in search.find(db, "start", before=9, limit=9)] == [1]
        assert search.find(db, "y" * 100_000 + " '" * 100_000, before=9, limit=9) == []


def test_a_search_with_a_filter_reads_what_the_words_find_once(ledger_at: Location) -> None:
    with closing(connect(ledger_at)) as db:
        authors = ["ada", "grace", "linus"]
        some = [reported(n, Summary(kind="note", author=authors[n % 3], title="word"), "{}") for n in range(1000)]
        with transaction(db):
            record(db, some, now=times.now())
        index_all(db)
        pages, before = list[int](), 1 << 62
        while rows := search.find_filtered(db, "wor", Filter(author="ada"), before=before, limit=100):
            pages += [row["id"] for row in rows]
            before = pages[-1]
        assert pages == list(range(1000, 0, -3))
        asked: list[str] = []
        if isinstance(db, SqliteDatabase):
            db.conn.set_trace_callback(asked.append)
        assert search.find_filtered(db, "wor", Filter(author="nobody"), before=1 << 62, limit=100) == []
        assert sum(not one.startswith("--") for one in asked) <= 1  # those are the index's own
        assert search.find_filtered(db, "?", Filter(author="ada"), before=1 << 62, limit=100) == []


TYPED = st.text(st.sampled_from("aAb éÉñÀЖжΣσς日本09.-_/:'\"\\*&|!()<#,+\0\n"), max_size=30)


@pytest.mark.postgresql
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(titles=st.lists(TYPED, min_size=1, max_size=3), words=TYPED)
def test_any_words_find_the_same_in_both(both: tuple[Database, Database], titles: list[str], words: str) -> None:
    found = []
    for db in both:
        with nothing_kept(db):
            rows = [(number, dict.fromkeys(COLUMNS, "a1") | {"title": one}) for number, one in enumerate(titles)]
            search.insert(db, rows)
            found.append(search.matching(db, words, before=9, limit=9))
    assert found[0] == found[1]


@pytest.mark.postgresql
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(title=st.text(max_size=60), words=st.text(max_size=60))
def test_any_text_can_be_indexed_and_any_words_are_a_query(
    both: tuple[Database, Database], title: str, words: str
) -> None:
    """The two may disagree on what a letter is in rare scripts."""
    for db in both:
        with nothing_kept(db):
            search.insert(db, [(1, dict.fromkeys(COLUMNS, title))])
            assert search.matching(db, words, before=9, limit=9) in ([], [1])


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[Database, Database]]:
    with (
        ledger_location("postgresql", tmp_path) as server,
        closing(connect(tmp_path / "ledger.db")) as sqlite,
        closing(connect(server)) as postgresql,
    ):
        yield sqlite, postgresql


def reported(number: int, summary: Summary, payload: str) -> Sighting:
    at = times.now()
    identity = Identity(f"{summary.kind}:{number}", at, Precision.UNIQUE_ID)
    return Sighting("webhook:default", str(number), identity, summary, at, payload, str(number))


@pytest.mark.parametrize("left", [0, 20, 40, 60, 80])
def test_a_full_disk_is_told_as_such_and_skips_no_event(tmp_path: Path, left: int) -> None:
    """Whenever the disk becomes full: SQLite ends the transaction by itself then, and the savepoint in it."""
    with closing(connect(tmp_path / "ledger.db")) as db:
        with transaction(db):
            titles = [" ".join(f"word{n}x{k}" for k in range(100)) for n in range(200)]
            some = [reported(n, Summary(kind="note", title=title), "{}") for n, title in enumerate(titles)]
            record(db, some, now=times.now())
        db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0] + left}")
        with pytest.raises(LedgerUnavailable, match="full"):
            index_all(db)
        db.execute("PRAGMA max_page_count = 1000000")
        assert index_all(db) == []
        assert len(findable(db)) == len(some)


def test_a_damaged_index_is_told_as_damage(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    filled(path, 3)
    with closing(connect(path)) as db:
        index_all(db)
        db.execute("DELETE FROM search_data")
    filled(path, 3, first=3)
    with closing(connect(path)) as db, pytest.raises(Exception, match="damaged"):
        index_all(db)
