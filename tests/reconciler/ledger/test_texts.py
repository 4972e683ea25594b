"""Whatever text comes from outside can be written, and costs nobody a transaction."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.events import times
from reconciler.events.sighting import Identity, Precision, Sighting, Summary
from reconciler.ledger.queue import deliveries, destinations
from reconciler.ledger.queue.destinations import DestinationSpec
from reconciler.ledger.queue.routes import Candidate, Route, Undecided
from reconciler.ledger.recording.record import record
from reconciler.ledger.storage.any_text import writable
from reconciler.ledger.storage.connection import transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sqlite import SqliteDatabase
from tests.support import outcomes
from tests.support.ledgers import NewLedger

BAD = "caf\u00e9 \ud800 \udfff"
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=5)


@pytest.fixture
def db(new_ledger: NewLedger) -> Iterator[Database]:
    with new_ledger() as db:
        with transaction(db):
            destinations.sync(db, [DestinationSpec("one")], now=times.now())
        yield db


def undecided(_: Candidate) -> bool:
    raise Undecided(BAD)


def sighting(number: int, text: str = "x") -> Sighting:
    return Sighting(
        source="webhook:default",
        source_id=str(number),
        identity=Identity(f"note:{number}", times.now(), Precision.GITLAB_TIME),
        summary=Summary(kind="note", project_id=1, title=text, author=text),
        seen_at=times.now(),
        payload="{}",
        payload_sha=str(number),
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ANY_TEXT, min_size=1, max_size=8))
def test_every_row_is_written_once_and_in_order(db: Database, texts: list[str]) -> None:
    with transaction(db):
        db.execute("DELETE FROM meta WHERE name LIKE 'row %'")
        db.executemany("INSERT INTO meta VALUES (?, ?)", [(f"row {n}", text) for n, text in enumerate(texts)])
        db.execute("INSERT INTO meta VALUES (:name, :value)", {"name": "row x", "value": texts[0]})
    written = db.execute("SELECT value FROM meta WHERE name LIKE 'row %' ORDER BY name").fetchall()
    lacks = "" if isinstance(db, SqliteDatabase) else "\0"
    expected = [writable(text) for text in [*texts, texts[0]]]
    assert [value for (value,) in written] == [text.replace(lacks, "\ufffd") if lacks else text for text in expected]


@given(ANY_TEXT)
def test_only_what_can_t_be_written_is_replaced(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        writable(text).encode()
    else:
        assert writable(text) == text


def test_halves_of_one_character_are_put_together() -> None:
    assert writable("\ud83d\ude00") == "\U0001f600"


def test_an_event_is_recorded_whatever_its_filter_says(db: Database) -> None:
    with transaction(db):
        record(db, [sighting(1), sighting(2)], now=times.now(), routes=[Route(1, "project", undecided)])
    found = db.execute("SELECT state, last_error FROM deliveries").fetchall()
    assert found == [("dead", "the filter can't decide: caf\u00e9 \ufffd \ufffd")] * 2


def test_what_a_destination_answers_and_a_transform_says(db: Database) -> None:
    with transaction(db):
        record(db, [sighting(1, BAD)], now=times.now(), routes=[Route(1, "project", lambda _: True)])
        failed = deliveries.Attempt(1, 1, None, 1, times.now(), times.now(), 500, BAD, BAD, BAD)
        outcomes.retry(db, failed, pause=times.SECOND, now=times.now())
        outcomes.mark_dead(db, failed)
        destinations.pause(db, 1, BAD, now=times.now())
    [(error,)] = db.execute("SELECT DISTINCT error FROM attempts").fetchall()
    assert error == writable(BAD)
    assert destinations.destination_states(db)[0].paused_why == writable(BAD)


def test_what_is_asked_for_may_be_any_text_too(db: Database) -> None:
    assert db.execute("SELECT count(*) FROM sightings WHERE title = ?", (BAD,)).fetchone() == (0,)
