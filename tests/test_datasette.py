"""packaging/datasette/metadata.yaml: its tables and queries are those of a real ledger."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler.events import times
from reconciler.events.sighting import Identity, Precision, Recovery, Sighting, Summary
from reconciler.ledger.recording.record import record
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.views.search import index_step

ROOT = Path(__file__).parents[1]
METADATA: dict[str, Any] = yaml.safe_load((ROOT / "packaging" / "datasette" / "metadata.yaml").read_text("utf-8"))
LEDGER = METADATA["databases"]["ledger"]
ASKED = {"since": "2020-01-01", "words": "author:ada", "event": 1}
NOW = times.now()


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """A ledger that has a row for each query, read as Datasette does."""
    path = tmp_path_factory.mktemp("datasette") / "ledger.db"
    one = Sighting(
        source="project_events",
        source_id="1",
        identity=Identity("note:1", NOW, Precision.UNIQUE_ID),
        summary=Summary(
            "note", None, 42, "group/1", "ada", title='Fix "v1.0" AND more', ref="feature/x-1.2", object="issue/12"
        ),
        seen_at=NOW,
        payload="{}",
        payload_sha="1",
        recovery=Recovery("api", ["a"]),
    )
    at = times.iso(NOW)
    with closing(connect(path)) as db:
        with transaction(db):
            record(db, [one], now=NOW)
            index_step(db)
            db.execute("INSERT INTO destinations (id, name, ordering, active) VALUES (1, 'a', 'project', 1)")
            db.execute(
                "INSERT INTO deliveries (event_id, destination_id, state, lane, opened_at, next_attempt_at)"
                " VALUES (1, 1, 'dead', '42', ?1, ?1)", (at,),
            )  # fmt: skip
            db.execute(
                "INSERT INTO attempts (event_id, destination_id, number, started_at, duration_ms)"
                " VALUES (1, 1, 1, ?, 5)",
                (at,),
            )
            db.execute("INSERT INTO sources (project_id, source, watched_since) VALUES (42, 'jobs', ?)", (at,))
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as conn:
            yield conn


@pytest.mark.parametrize("name", LEDGER["queries"])
def test_its_queries_find_what_they_say(name: str, ledger: sqlite3.Connection) -> None:
    sql = LEDGER["queries"][name]["sql"]
    assert set(re.findall(r":(\w+)", sql)) <= set(ASKED)
    assert len(ledger.execute(sql, ASKED).fetchall()) == 1


@pytest.mark.parametrize(
    "words",
    [
        *("group/1", "feature/x", "feature/x-1.2", "v1.0", "#12", "author:ada", "branch:feature/x"),
        *("project:group/1", "group/1 v1.0 #12", "  Fix   and ", '"v1.0"', "fix !", "issue/12", "(fix) {more} [^"),
    ],
)
def test_words_are_found_as_they_are(words: str, ledger: sqlite3.Connection) -> None:
    found = ledger.execute(LEDGER["queries"]["find"]["sql"], ASKED | {"words": words}).fetchall()
    assert [row[0] for row in found] == [1]


@pytest.mark.parametrize(
    "words",
    [
        *("", " ", '"', "*", "-", "#1", "!12", "#12x", "group/2", "feature/y", "v1.0 #13", "fix OR nothing"),
        *("note NOT bug", "author:group/1", "author:", "other:ada", "NEAR(fix", "'"),
    ],
)
def test_other_words_find_nothing(words: str, ledger: sqlite3.Connection) -> None:
    assert ledger.execute(LEDGER["queries"]["find"]["sql"], ASKED | {"words": words}).fetchall() == []


def test_its_tables_and_columns_are_there(ledger: sqlite3.Connection) -> None:
    for table, about in LEDGER["tables"].items():
        columns = {column for _, column, *_ in ledger.execute(f"PRAGMA table_info({table})")}
        named = {about.get("sort_desc"), about.get("label_column"), *about.get("facets", [])} - {None}
        assert columns and named <= columns, table


def test_the_page_has_every_query() -> None:
    page = (ROOT / "docs" / "datasette.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.M) == list(LEDGER["queries"])
