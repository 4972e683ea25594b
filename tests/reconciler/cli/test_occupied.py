"""Commands that write a file replace none that the service needs."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import yaml

from reconciler.cli.output import ended_like_interrupted
from reconciler.ledger.intake.file import intake_path, open_intake
from reconciler.ledger.upkeep.backup import backup
from tests.support.filled import filled
from tests.support.service import run

IN_USE = {
    "config.yaml": "is the config",
    "link.yaml": "is the config",
    "hard.yaml": "is the config",
    "below/../config.yaml": "is the config",
    "below/../data.db-journal": "belongs to the ledger",
    "data.db": "is the ledger",
    "data.db-wal": "belongs to the ledger",
    "data.db-shm": "belongs to the ledger",
    "data.db.lock": "belongs to the ledger",
    "data.db.intake": "belongs to the ledger",
    "data.db.intake-wal": "belongs to the ledger",
    "data.db.intake.lock": "belongs to the ledger",
    "out.ndjson": "is the file of `destinations[0].path`",
    "out.ndjson.2": "is a rotated file of `destinations[0].path`",
    "hook.token": "is the file of `receiver.hooks[0].token_file`",
    "sign.key": "is the file of `destinations[1].secret_file`",
    "rows.db": "is the file of `destinations[2].url`",
    "ca.pem": "is the file of `destinations[1].tls.ca_file`",
}
NOT_THERE = ("rows.db", "-wal", "-shm", "-journal", ".lock", ".2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import certifi

    folder = tmp_path_factory.mktemp("occupied")
    (folder / "hook.token").write_text("a-token")
    (folder / "sign.key").write_text("whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQ=")
    (folder / "ca.pem").write_bytes(Path(certifi.where()).read_bytes())
    (folder / "below").mkdir()
    to = {"name": "two", "url": "https://example.com", "secret_file": "sign.key", "tls": {"ca_file": "ca.pem"}}
    rows = {"name": "three", "kind": "sql", "url": "sqlite:///rows.db"}
    whole = {
        "receiver": {"hooks": [{"token_file": "hook.token"}]},
        "ledger": {"path": "data.db"},
        "destinations": [{"name": "one", "kind": "file", "path": "out.ndjson"}, to, rows],
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(whole))
    (folder / "link.yaml").symlink_to("config.yaml")
    (folder / "hard.yaml").hardlink_to(file)
    filled(folder / "data.db", 1)
    open_intake(intake_path(folder / "data.db")).close()
    (folder / "out.ndjson").write_text("{}\n")
    return folder


@pytest.mark.parametrize("name", IN_USE)
@pytest.mark.parametrize("command", ["export --output", "backup"])
def test_a_file_in_use_is_not_replaced(command: str, name: str, folder: Path) -> None:
    target = folder / name
    before = target.read_bytes() if target.exists() else None
    done = run(*command.split(), str(target), "-c", str(folder / "config.yaml"))
    assert done.stderr == f"{target}: {IN_USE[name]}: give another name\n"
    assert (done.returncode, target.read_bytes() if target.exists() else None) == (2, before)
    assert before is not None or name.endswith(NOT_THERE)


def test_a_database_is_not_replaced(folder: Path) -> None:
    other = folder / "other.db"
    filled(other, 1)
    words = f"{other}: is an SQLite database, like a ledger or a backup: give another name\n"
    for command in (("export", "-o", str(other), "-c", str(folder / "config.yaml")), ("init", "--force", str(other))):
        done = run(*command)
        assert (done.returncode, done.stderr) == (2, words)


def test_other_files_are_written(folder: Path) -> None:
    """Also with a name that only looks like one in use."""
    for name in ("data.db.ndjson", "out.ndjson.old", "events"):
        done = run("export", "-o", str(folder / name), "-c", str(folder / "config.yaml"))
        assert (done.returncode, done.stdout) == (0, f"Exported 1 event to {folder / name}.\n"), done.stderr


def test_a_schema_replaces_nothing_but_a_schema(tmp_path: Path) -> None:
    config, made, empty = tmp_path / "config.yaml", tmp_path / "s.json", tmp_path / "empty"
    for text in ("receiver:\n", "{}", "1"):
        config.write_text(text)
        done = run("schema", "-o", str(config))
        assert done.stderr == f"{config}: is there already, and is no JSON Schema: give another name\n"
        assert (done.returncode, config.read_text()) == (2, text)
    empty.touch()
    assert [run("schema", "-o", str(file)).returncode for file in (made, made, empty)] == [0, 0, 0]
    assert json.loads(made.read_bytes()) == json.loads(empty.read_bytes())


def test_init_writes_no_schema_over_another_file(tmp_path: Path) -> None:
    schema = tmp_path / "config.schema.json"
    done = run("init", str(schema))
    assert (done.returncode, "the config's schema gets this name" in done.stderr) == (2, True)
    schema.write_text("mine")
    done = run("init", str(tmp_path / "config.yaml"))
    assert (done.returncode, "is no JSON Schema" in done.stderr, schema.read_text()) == (2, True, "mine")
    assert list(tmp_path.iterdir()) == [schema]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_backup_leaves_nothing(how: signal.Signals, tmp_path: Path) -> None:
    ledger, folder = tmp_path / "ledger.db", tmp_path / "backups"
    folder.mkdir()
    filled(ledger, 1)
    outside = signal.signal(how, signal.SIG_DFL)  # a shell's background job ignores SIGHUP
    before = signal.getsignal(how)
    with pytest.raises(KeyboardInterrupt), ended_like_interrupted():
        backup(ledger, folder, lambda _done, _total: signal.raise_signal(how))
    after = signal.signal(how, outside)
    assert ([*folder.iterdir()], after) == ([], before)
