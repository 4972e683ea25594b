"""The formats of `export`: which one is written, and values at the edges of what a format can hold."""

from __future__ import annotations

import csv
import io
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from reconciler.cli.export_formats import COLUMNS, FORMATS, Format, format_for
from reconciler.cli.export_output import output
from reconciler.ledger.views.export import Exported
from tests.reconciler.cli.test_export import config_of
from tests.support.filled import filled
from tests.support.service import run

AT = "2026-11-24T10:00:00.123Z"


def event(**more: Any) -> Exported:
    made: dict[str, Any] = dict.fromkeys(COLUMNS) | {
        "id": "evt_1", "kind": "note", "happened_at": AT, "recorded_at": AT, "seen_at": AT,
        "source": "webhook:default", "sources": ["webhook:default"], "unknown": [], "redacted": [], "payload": "{}",
    }  # fmt: skip
    return Exported(**made | more)


def written(form: Format, *events: Exported) -> bytes:
    file = io.BytesIO()
    writer = FORMATS[form](file)
    writer.write(events)
    writer.finish()
    return file.getvalue()


def test_every_line_end_in_csv_is_within_its_cell(tmp_path: Path) -> None:
    import duckdb
    import pandas as pd

    titles = ["a\rb", "\r", "a\r\nb", "a\nb", '"\r"', "a,b", '"', " a ", "'", "a\tb"]
    file = tmp_path / "e.csv"
    file.write_bytes(written("csv", *(event(title=title) for title in titles)))
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["title"] for row in rows] == titles
    assert list(pd.read_csv(file)["title"]) == titles
    with duckdb.connect() as db:
        found = db.execute("SELECT title FROM read_csv(?, header = true, all_varchar = true)", [str(file)]).fetchall()
    assert [title for (title,) in found] == titles


def test_times_in_parquet_are_exact() -> None:
    from pyarrow import int64, parquet

    times = ["9999-12-31T23:59:59.999Z", "0001-01-01T00:00:00.001Z", "1969-12-31T23:59:59.999Z", "no time"]
    table = parquet.read_table(io.BytesIO(written("parquet", *(event(happened_at=text) for text in times))))
    found = table["happened_at"].cast(int64()).to_pylist()
    assert found == [253402300799999, -62135596799999, -1, None]
    assert all(b"no time" in written(form, event(happened_at="no time")) for form in FORMATS if form != "parquet")


def test_the_name_of_the_file_says_the_format(tmp_path: Path) -> None:
    names: dict[str, Format] = {
        "e.csv": "csv", "E.CSV": "csv", "e.parquet": "parquet", "e.ndjson": "ndjson", "e.jsonl": "ndjson",
        "e": "ndjson", "csv": "ndjson", "e.txt": "ndjson",
    }  # fmt: skip
    assert {name: format_for(None, Path(name)) for name in names} == names
    assert (format_for(None, None), format_for("csv", Path("e.txt"))) == ("ndjson", "csv")
    filled(tmp_path / "ledger.db", 1)
    config, file = str(config_of(tmp_path / "ledger.db", tmp_path)), tmp_path / "e.csv"
    assert run("export", "-c", config, "-o", str(file)).returncode == 0
    assert file.read_text().startswith("id,kind,")
    done = run("export", "-c", config, "-o", str(file), "--format", "parquet")
    words = f"{file}: a file of this name would be csv, not parquet: change the name or --format\n"
    assert (done.returncode, done.stderr) == (2, words)


def test_a_sighup_that_is_ignored_ends_nothing(tmp_path: Path) -> None:
    """As after `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with output(tmp_path / "e") as file:
            file.write(b"all of it")
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (tmp_path / "e").read_bytes() == b"all of it"


@pytest.mark.parametrize(
    ("command", "option", "known"),
    [
        ("export", "--format", "'ndjson', 'csv', 'parquet'"),
        ("serve", "--only", "'receiver', 'worker'"),
        ("serve", "--log-level", "'debug', 'info', 'warning', 'error'"),
    ],
)
def test_a_word_that_is_none_of_those_known(command: str, option: str, known: str) -> None:
    done = run(command, option, "xml")
    words = f"Invalid value for '{option}': 'xml' is not one of {known}.\nSee `gitlab-reconciler {command} --help`\n"
    assert (done.returncode, done.stderr) == (2, words)
