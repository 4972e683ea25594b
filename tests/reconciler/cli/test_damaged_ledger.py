"""Commands on a ledger that can't be used: words, the file's name and an exit code, never a traceback."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from reconciler import __version__
from reconciler.cli.app import main
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.storage.connection import connect
from reconciler.ledger.storage.schema import migration_names
from tests.support.damage import overwrite, pages_of
from tests.support.filled import filled
from tests.support.service import run as run_process

COMMANDS = [
    "status",
    "gaps",
    "events list",
    "events show 1",
    "destinations list",
    "destinations test a",
    "destinations pause a",
    "dead-letters list",
    "dead-letters show 1",
    "dead-letters replay --all --yes",
    "dead-letters discard --all --yes",
    "replay --from 2020-01-01 --yes",
    "prune",
    "backup copy.db",
    "repair",
]
EXCLUSIVE = "PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; UPDATE meta SET value = value; COMMIT"
Run = Callable[[str], tuple[int, str]]


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    with closing(connect(path)) as db:
        db.execute("INSERT INTO destinations (id, name, ordering, active) VALUES (1, 'a', 'none', 1)")
    filled(path, 200, routes=[Route(1, "none", lambda _: True)])
    with closing(connect(path)) as db:
        db.execute("UPDATE deliveries SET state = 'dead' WHERE event_id > 1")
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command as it is typed: its exit code, and what it says on stderr. What `main` lets through fails."""
    config: dict[str, object] = {"receiver": {"port": 0, "hooks": [{"token": "t" * 16}]}}
    config["destinations"] = [{"name": "a", "kind": "stdout"}]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)

    def run(command: str) -> tuple[int, str]:
        if command == "serve":  # it forks
            done = run_process(command, "-c", "config.yaml")
            return done.returncode, " ".join(done.stderr.split())
        monkeypatch.setattr(sys, "argv", ["gitlab-reconciler", *command.split(), "-c", "config.yaml"])
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        else:
            code = 0
        return code, " ".join(capsys.readouterr().err.split())

    return run


@pytest.mark.parametrize(
    ("command", "table"),
    [
        ("status", "sqlite_schema"),
        ("status", "alerts"),
        ("gaps", "sources"),
        ("events list", "sightings"),
        ("events show 1", "sightings"),
        ("destinations pause a", "destinations"),
        ("dead-letters list", "deliveries_dead"),
        ("prune", "runs"),
        ("backup copy.db", "events"),
        ("backup copy.db", "events_by_time"),
    ],
)
def test_a_damaged_part(ledger: Path, run: Run, command: str, table: str) -> None:
    overwrite(ledger, pages_of(ledger, table)[:1])
    code, said = run(command)
    assert code == 1
    assert f"{ledger}: the file is damaged: " in said
    assert "gitlab-reconciler repair" in said


@pytest.mark.parametrize("command", [*COMMANDS, "serve"])
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.write_bytes(b"hello world\n" * 1000), "is no SQLite database"),
        (lambda path: path.write_bytes(b"\0" * 100 + path.read_bytes()[100:]), "is no SQLite database"),
        (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "damaged"),
    ],
    ids=["text", "header", "half"],
)
def test_what_is_no_ledger(ledger: Path, run: Run, command: str, make: Callable[[Path], object], says: str) -> None:
    make(ledger)
    code, said = run(command)
    assert code == 1
    assert str(ledger) in said
    assert says in said


@pytest.mark.parametrize("command", [one for one in COMMANDS if one not in ("repair", "prune")])
def test_an_empty_file(ledger: Path, run: Run, command: str) -> None:
    """As it is left where a first start was killed at once; `serve` makes its tables."""
    ledger.write_bytes(b"")
    code, said = run(command)
    if any(word in command for word in ("replay", "discard", "pause")):
        assert "Traceback" not in said
        return
    assert code == 1
    assert f"{ledger}: is no ledger, or an empty one" in said


@pytest.mark.parametrize("command", [*(one for one in COMMANDS if one != "repair"), "serve"])
def test_a_later_version_s(ledger: Path, run: Run, command: str) -> None:
    """It is neither read nor written."""
    with closing(connect(ledger)) as db:
        db.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
            "VALUES ('gitlab-reconciler', '9999_later', '')"
        )
        db.execute("UPDATE meta SET value = '9.9.9' WHERE name = 'program'")
    before = ledger.read_bytes()
    code, said = run(command)
    assert code == 2
    for words in ("later version of gitlab-reconciler (9.9.9)", "9999_later", __version__, max(migration_names())):
        assert words in said
    assert ledger.read_bytes() == before


@pytest.mark.parametrize("command", ["status", "gaps", "events list", "dead-letters list", "backup copy.db"])
def test_an_earlier_version_s_is_not_read_before_serve_has_brought_it_up(
    ledger: Path, run: Run, command: str
) -> None:
    with closing(connect(ledger)) as db:
        db.execute("DELETE FROM _sqlite_migrations WHERE name = ?", (max(migration_names()),))
    code, said = run(command)
    assert code == 1
    assert f"{ledger}: was written by an earlier version" in said
    assert "`gitlab-reconciler serve` brings it up when it starts" in said


WRITING = ["destinations pause a", "dead-letters replay --all --yes", "dead-letters discard --all --yes", "prune"]


@pytest.mark.parametrize(
    ("command", "lock"),
    [*((one, "BEGIN IMMEDIATE") for one in WRITING), *((one, EXCLUSIVE) for one in COMMANDS if one != "repair")],
)
def test_one_that_another_process_has_locked(
    ledger: Path, run: Run, command: str, lock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert connect.__kwdefaults__ is not None
    monkeypatch.setitem(connect.__kwdefaults__, "patience_s", 0.01)
    with closing(sqlite3.connect(ledger, isolation_level=None)) as other:
        other.executescript(lock)
        code, said = run(command)
    assert code == 1
    assert f"{ledger}: another process holds the write lock" in said


def test_repair(ledger: Path, tmp_path: Path, run: Run) -> None:
    assert run("repair")[0] == 0
    overwrite(ledger, pages_of(ledger, "events_by_time"))
    done = run_process("repair", "--json", "-c", str(tmp_path / "config.yaml"))
    said = json.loads(done.stdout)
    assert (done.returncode, said["repaired"], Path(said["damaged"]).exists()) == (0, True, True)
    assert run("events list")[0] == 0
    overwrite(ledger, pages_of(ledger, "sightings"))
    code, refusal = run("repair")
    assert (code, f"{ledger}: a part of the table sightings is lost" in refusal) == (1, True)
