"""Tables at any width: every row has one line, what is short stays whole, and long texts are cut."""

from __future__ import annotations

import io
import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from reconciler.cli.tables import GAP, NARROWEST, Listing
from tests.support.filled import filled
from tests.support.terminal import on_terminal

DATE = "2026-11-25 17:45:11"


def lines(listing: Listing, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, soft_wrap=True, emoji=False, markup=False, highlight=False)
    console.print(listing)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


texts = st.text(st.characters(min_codepoint=32, max_codepoint=0x4FFF, categories=["L", "N", "Zs"]), max_size=60)


@given(rows=st.lists(st.tuples(texts, texts), min_size=1, max_size=4), width=st.integers(40, 200))
def test_every_row_is_one_line_and_a_date_is_whole(rows: list[tuple[str, str]], width: int) -> None:
    listing = Listing("id", "happened", "project", "title", right=("id",), texts=("project", "title"))
    for n, (project, title) in enumerate(rows):
        listing.add(str(n), DATE, project, title)
    shown = lines(listing, max(width, 2 + len(DATE) + 2 * NARROWEST + 3 * GAP))
    assert len(shown) == len(rows) + 1
    for n, line in enumerate(shown[1:]):
        assert line.startswith(f"{n:>2}  {DATE}")


def test_what_has_no_room_is_cut_or_left_out() -> None:
    listing = Listing("id", "happened", "project", "author", "title", "sources", right=("id",),
                      texts=("project", "author", "title", "sources"), spare=("author", "sources"))  # fmt: skip
    title = "A title that goes on for a while"
    listing.add("7", DATE, "organisation/team/service", "somebody", title, "webhook:default hook_log")
    wide, narrow, narrowest = lines(listing, 200), lines(listing, 80), lines(listing, 48)
    assert title in wide[1]
    assert "hook_log" in wide[1]
    assert max(map(len, narrow)) <= 80
    assert "team/service" in narrow[1]  # of a path the end says most
    assert "A title that …" in narrow[1]
    assert narrowest[0].split() == ["id", "happened", "project", "title"]
    assert DATE in narrowest[1]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A ledger with long names, dead letters with long errors, and gaps; no GitLab."""
    folder = tmp_path_factory.mktemp("tables")
    whole = {
        "gitlab": {"url": "http://127.0.0.1:9", "token": "x"},
        "projects": [1, 2],
        "receiver": {"port": 0, "hooks": [{"token": "t"}]},
        "destinations": [
            {"name": "a-destination-with-a-long-name", "kind": "file", "path": "an-archive-of-events.ndjson"},
        ],
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(whole))
    filled(folder / "ledger.db", 7)
    now = "2026-10-01T00:00:00.000Z"
    with sqlite3.connect(folder / "ledger.db") as db:
        db.execute("PRAGMA foreign_keys = OFF")
        db.execute("UPDATE projects SET path = 'some-organisation/a-platform-team/service-' || id")
        db.execute(
            "UPDATE sightings SET project_path = 'some-organisation/a-platform-team/service-' || project_id,"
            " title = 'A title that goes on and on, longer than any terminal is wide', author = 'somebody'"
        )
        insert = "INSERT INTO {} ({}) VALUES ({})"
        rows: tuple[tuple[str, dict[str, Any]], ...] = (
            ("destinations", {"id": 1, "name": "a-destination-with-a-long-name", "ordering": "project", "active": 1}),
            *(("deliveries", {"event_id": n, "destination_id": 1, "state": "dead", "lane": "x", "attempts": 1,
                              "opened_at": now, "next_attempt_at": now, "first_attempt_at": now, "finished_at": now,
                              "last_status": 422, "last_error": "HTTP 422 Unprocessable: " + "words " * 30})
              for n in (1, 2)),
            ("attempts", {"event_id": 1, "destination_id": 1, "number": 1, "started_at": now, "duration_ms": 5,
                          "error_class": "http_4xx", "error": "HTTP 422 Unprocessable: " + "words " * 30 + "end"}),
            *(("sources", {"project_id": 1, "source": source, "watched_since": now})
              for source in ("merge_requests", "project_events")),
            ("coverage", {"project_id": 1, "source": "project_events", "covered_from": now,
                          "covered_through": "2026-10-02T00:00:00.000Z"}),
        )  # fmt: skip
        for table, row in rows:
            db.execute(insert.format(table, ", ".join(row), ", ".join("?" * len(row))), list(row.values()))
    yield file


TABLES = {
    "events": 7,
    "events show 1": 1,
    "dead-letters": 2,
    "dead-letters show 1": 1,
    "status": 5,
    "gaps": 1,
    "destinations": 1,
    "destinations test a-destination-with-a-long-name": 7,
}
"""Commands, and how many rows one of their tables has."""


@pytest.mark.parametrize("command", TABLES)
def test_at_80_columns_no_word_and_no_date_breaks(config: Path, command: str) -> None:
    shown = on_terminal(*command.split(), "-c", str(config), columns=80).replace("\r\n", "\n")
    shown = re.sub(r"\x1b\[\d*m", "", shown)
    dates = re.findall(r"\d{4}-\d\d-\d\d(?! \d\d:\d\d:\d\d|T\d)", shown)
    assert dates == []
    rows = [line for line in shown.splitlines() if re.search(r"\S  .*\d{4}-\d\d-\d\d|file  events", line)]
    assert len([row for row in rows if len(row) <= 80]) >= TABLES[command], shown
    table_lines = [line for line in shown.splitlines() if "  20" in line or "…" in line]
    assert max(map(len, table_lines), default=0) <= 80, shown


def test_what_is_cut_is_whole_elsewhere(config: Path) -> None:
    assert "words end" in on_terminal("dead-letters", "show", "1", "-c", str(config), columns=80)
    first = json.loads(on_terminal("events", "--json", "-c", str(config)).splitlines()[0])
    assert first["title"].endswith("is wide")
