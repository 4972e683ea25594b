"""`export`: what it has, for whom, and what is left where it fails."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler.cli.common import Failed
from reconciler.cli.export_formats import FORMATS, Format
from reconciler.cli.export_output import output
from reconciler.config.destinations import Destination
from reconciler.events import times
from reconciler.events.sighting import ALERT, Identity, Precision, Recovery, Sighting, Summary
from reconciler.events.times import DAY, Millis
from reconciler.forwarding.formats import Formatter
from reconciler.forwarding.kinds.http import HttpDestination
from reconciler.ledger.queue.deliveries import outgoing
from reconciler.ledger.recording.record import record
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.ids import event_ids
from reconciler.ledger.views import export as reading
from reconciler.ledger.views.browse import Filter
from reconciler.location import Location
from tests.support.filled import filled
from tests.support.ledgers import NewLedger
from tests.support.service import run
from tests.support.terminal import Running, on_terminal

DAY_1 = Millis(times.from_iso("2026-11-24T10:00:00.123Z"))
ODD = '{"object_kind": "push",  "n": 10000000000000000000000001.0,\n "title": "=1+1,\\u00e4 \\"quoted\\" 漢"}'
COLUMNS = [*reading.Exported.__struct_fields__]


def sighting(n: int, **more: Any) -> Sighting:
    made: dict[str, Any] = {
        "source": "webhook:default",
        "source_id": f"delivery-{n}",
        "identity": Identity(f"note:{n}", Millis(DAY_1 + n * DAY), Precision.UNIQUE_ID),
        "summary": Summary("note", "create", 42, "group/project", "ada", "=1+1, a\n'title'", "main", "issue/7"),
        "seen_at": Millis(DAY_1 + n * DAY + 5),
        "payload": ODD,
        "payload_sha": f"{n}",
    }
    return Sighting(**made | more)


EVENTS = [
    sighting(0),
    sighting(0, source="project_events", source_id="9", payload='{"a":1}', recovery=Recovery("api", ["a.b", "c"])),
    sighting(1, source="project_events", source_id="10", payload='{"b":1}', recovery=Recovery("api", ["a.b", "c"])),
    sighting(2, summary=Summary("push"), recovery=Recovery("hook_log", redacted=["user.email"])),
    sighting(3, payload="not JSON"),
    sighting(4, summary=Summary(ALERT)),
]


@pytest.fixture
def ledger(ledger_at: Location) -> Iterator[Database]:
    with closing(connect(ledger_at)) as db:
        for one in EVENTS:  # one after the other: the ids are then as here
            with transaction(db):
                record(db, [one], now=Millis(one.seen_at + 7))
        yield db


@pytest.fixture
def config(ledger: Database, ledger_at: Location, tmp_path: Path) -> Path:
    return config_of(ledger_at, tmp_path)


def config_of(location: Location, folder: Path) -> Path:
    where = {"path": str(location)} if isinstance(location, Path) else {"url": location.value}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({"receiver": {"hooks": [{"token": "t"}]}, "ledger": where}))
    return file


def as_delivered(db: Database, number: int) -> dict[str, Any]:
    """What a destination gets of an event, with the names of the export."""
    to: Destination = HttpDestination.model_validate({"name": "d", "url": "https://example.com"})
    made = Formatter(to, event_id=event_ids(db), gitlab_url="https://gitlab.example.com")
    message = made.message(outgoing(db, number), attempt=1, now=times.now())
    lists = {name: message.headers.get(f"X-Reconciler-{name.title()}", "") for name in ("unknown", "redacted")}
    return {
        "id": message.headers["webhook-id"],
        "source": message.headers["X-Reconciler-Source"],
        "recovered": message.headers.get("X-Reconciler-Recovered"),
        **{name: text.split(",") if text else [] for name, text in lists.items()},
        **{name: message.about[name] for name in ("kind", "action", "project_path")},
        "payload": message.body.decode(),
    }


def test_every_format_has_what_destinations_get(ledger: Database, config: Path, tmp_path: Path) -> None:
    for form in FORMATS:
        done = run("export", "-c", str(config), "--format", form, "-o", str(tmp_path / f"e.{form}"))
        assert (done.returncode, done.stdout) == (0, f"Exported 4 events to {tmp_path / f'e.{form}'}.\n"), done.stderr
        assert done.stderr.endswith("exported 100%: 4 events\n")
    wanted = [as_delivered(ledger, number) for number in (1, 2, 3, 4)]

    lines = [json.loads(line) for line in (tmp_path / "e.ndjson").read_text().splitlines()]
    assert [list(one) for one in lines] == [COLUMNS] * 4
    assert ODD.replace("\n", " ") in (tmp_path / "e.ndjson").read_text()
    assert agreeing(lines) == [
        one | {"payload": json.loads(one["payload"]) if "not" not in one["payload"] else "not JSON"} for one in wanted
    ]
    assert lines[0]["sources"] == ["webhook:default", "project_events"]
    assert [lines[1][name] for name in ("happened_at", "seen_at", "recorded_at")] == [
        "2026-11-25T10:00:00.123Z", "2026-11-25T10:00:00.128Z", "2026-11-25T10:00:00.135Z",
    ]  # fmt: skip

    with (tmp_path / "e.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == COLUMNS
    cells = [dict(zip(header, row, strict=True)) for row in rows]
    assert [one["title"] for one in cells] == ["=1+1, a\n'title'"] * 2 + ["", "=1+1, a\n'title'"]
    assert agreeing(cells) == [
        {name: "" if value is None else json.dumps(value, separators=(",", ":")) if isinstance(value, list) else value
         for name, value in one.items()} for one in wanted
    ]  # fmt: skip


def agreeing(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each row what a delivery has too; what is not known is an empty text there."""
    names = ("id", "source", "recovered", "unknown", "redacted", "kind", "action", "project_path", "payload")
    empty = ("action", "project_path")
    return [{name: one[name] or "" if name in empty else one[name] for name in names} for one in rows]


def test_parquet_is_read_by_duckdb_and_by_pandas(ledger: Database, config: Path, tmp_path: Path) -> None:
    import duckdb  # here: it takes seconds, and few tests need it
    import pandas as pd

    file = tmp_path / "e.parquet"
    assert run("export", "-c", str(config), "--format", "parquet", "-o", str(file)).returncode == 0
    wanted = [as_delivered(ledger, number) for number in (1, 2, 3, 4)]

    with duckdb.connect() as db:
        found = db.execute(f"SELECT * FROM '{file}' ORDER BY happened_at").fetchall()
        [(n, project)] = db.execute(
            f"SELECT payload->>'b', project_id FROM '{file}' WHERE recovered = 'api'"
        ).fetchall()
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in found]
    assert agreeing(rows) == wanted
    assert (n, project, rows[2]["project_id"]) == ("1", 42, None)
    assert rows[0]["happened_at"].timestamp() * 1000 == DAY_1

    frame = pd.read_parquet(file)
    assert str(frame["happened_at"].dtype) == "datetime64[ms, UTC]"
    assert [list(names) for names in frame["unknown"]] == [one["unknown"] for one in wanted]
    assert list(frame["payload"]) == [one["payload"] for one in wanted]
    assert list(frame.resample("D", on="happened_at").size()) == [1, 1, 1, 1]


def numbers(db: Database, wanted: Filter) -> list[int]:
    return [int(one.id.rpartition("_")[2]) for part in reading.parts(db, wanted) for one in part.events]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Filter(since=Millis(DAY_1 + DAY), until=Millis(DAY_1 + 3 * DAY)), [2, 3]),
        (Filter(until=DAY_1), []),
        (Filter(source="project_events"), [1, 2]),
        (Filter(project=42, kind="note", since=Millis(DAY_1 + 1)), [2, 4]),
        (Filter(kind=ALERT), [5]),
    ],
)
def test_it_has_what_a_filter_matches(ledger: Database, wanted: Filter, found: list[int]) -> None:
    assert numbers(ledger, wanted) == found


def test_what_changes_meanwhile_repeats_and_skips_nothing(new_ledger: NewLedger) -> None:
    """Events that are recorded later are not in it, merged ones go, and times may change: each is passed once."""
    with new_ledger() as db:
        with transaction(db):
            record(db, [sighting(n, payload="x" * reading.BYTES) for n in range(4)], now=DAY_1)
        parts = reading.parts(db, Filter())
        seen = [next(parts)]
        assert not db.in_transaction
        with transaction(db):
            record(db, [sighting(9)], now=DAY_1)
            db.execute("UPDATE events SET merged_into = 1 WHERE id = 3")
            db.execute("UPDATE events SET happened_at = '2020-01-01T00:00:00.000Z' WHERE id = 2")
        seen += parts
    assert [([one.id[-2:] for one in part.events], part.passed) for part in seen] == [
        (["_1"], 0.25), (["_2"], 0.5), (["_4"], 1.0),
    ]  # fmt: skip


def test_a_statement_looks_at_few_events(ledger: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if a filter matches few of them, or none."""
    monkeypatch.setattr(reading, "STEP", 2)
    for wanted in (Filter(source="nowhere"), Filter(project="no/where")):
        found = [(one.events, one.passed) for one in reading.parts(ledger, wanted)]
        assert found == [((), 0.4), ((), 0.8), ((), 1.0)]
    assert numbers(ledger, Filter(kind=ALERT)) == [5]
    assert numbers(ledger, Filter()) == [1, 2, 3, 4]


@pytest.mark.parametrize("form", FORMATS)
def test_memory_does_not_grow_with_the_events(form: Format, new_ledger: NewLedger) -> None:
    with new_ledger() as db:
        for first in range(0, 60, 10):
            with transaction(db):
                payload = json.dumps("x" * 1_000_000)
                record(db, [sighting(first + n, payload=payload) for n in range(10)], now=DAY_1)
        with Path(os.devnull).open("wb") as file:

            def write() -> None:
                writer = FORMATS[form](file)
                for part in reading.parts(db, Filter()):
                    writer.write(part.events)
                writer.finish()

            write()  # imports whatever the format's library needs: pandas, if it is there
            tracemalloc.start()
            write()
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert peak < 35_000_000  # of 60: a group of Parquet's, and a part


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("to", ["full", "gone"])
def test_an_output_that_takes_no_more_is_a_message(form: str, to: str, tmp_path: Path) -> None:
    filled(tmp_path / "ledger.db", 1)
    read_end, write_end = os.pipe()
    os.close(read_end)
    config = str(config_of(tmp_path / "ledger.db", tmp_path))
    command = [sys.executable, "-m", "reconciler", "export", "--format", form, "-c", config]
    with Path("/dev/full").open("wb") as full, os.fdopen(write_end, "wb") as gone:
        output_to = full if to == "full" else gone
        done = subprocess.run(command, stdout=output_to, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    words = "can't write to standard output: No space left" if to == "full" else "whoever read it has stopped"
    assert (done.returncode, words in done.stderr, "Traceback" in done.stderr) == (1, True, False), done.stderr


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell that starts the tests in the background ignores these signals for them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGHUP, before[1])


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGHUP", "full"])
def test_a_file_is_replaced_when_it_is_complete(how: str, tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    with output(file) as first:
        first.write(b"before")
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o640)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(Failed) as failed, output(file) as begun:
        begun.write(b"half of it")
        if how == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (4, limits[1]))
            try:
                begun.flush()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.raise_signal(getattr(signal, how))
    assert ("can't be written: File too large" if how == "full" else "interrupted") in str(failed.value)
    assert (file.read_bytes(), list(tmp_path.iterdir())) == (b"before", [file])
    with output(file) as again:
        again.write(b"after")
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"after", 0o640)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "/dev"], "/dev: is a folder"),
        (["-o", "/dev/null"], "/dev/null: is not a file that can be replaced"),
        (["-o", "/proc/nowhere/e"], "/proc/nowhere/e: can't be written: No such file or directory"),
        (["--json"], "give a file with --output"),
        (["--from", "2026-10-02", "--to", "2026-10-01"], "--from must be before --to"),
        (["--format", "xml"], "'xml' is not one of"),
    ],
)
def test_what_it_is_asked_for_in_vain(arguments: list[str], words: str, tmp_path: Path) -> None:
    filled(tmp_path / "ledger.db", 1)
    done = run("export", "-c", str(config_of(tmp_path / "ledger.db", tmp_path)), *arguments)
    assert (done.returncode, words in done.stderr, done.stdout) == (1 if "/proc" in words else 2, True, ""), (
        done.stderr
    )


def test_on_a_terminal(tmp_path: Path) -> None:
    filled(tmp_path / "ledger.db", 3)
    config = str(config_of(tmp_path / "ledger.db", tmp_path))
    assert "Parquet is not for a terminal" in on_terminal("export", "-c", config, "--format", "parquet")
    assert "exported" not in on_terminal("export", "-c", config)
    with Running("-m", "reconciler", "export", "-c", config, "-o", str(tmp_path / "e"), terminal=True) as command:
        command.wait()
    assert "100%  3 events" in command.logged


def test_a_summary_says_what_is_not_known(tmp_path: Path) -> None:
    filled(tmp_path / "ledger.db", 1)
    config = str(config_of(tmp_path / "ledger.db", tmp_path))
    done = run("export", "-c", config, "--json", "-o", str(tmp_path / "e"), "--kind", "nots")
    said = json.loads(done.stdout)
    assert (said["events"], said["format"], said["output"]) == (0, "ndjson", str(tmp_path / "e"))
    assert "projects" in [one["name"] for one in said["unknown"]]
    assert "no kind 'nots' in the ledger" in done.stderr
    assert (tmp_path / "e").read_bytes() == b""
