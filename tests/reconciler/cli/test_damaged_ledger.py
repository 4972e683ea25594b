"""Commands on a ledger that can't be read: words and an exit code, never a traceback."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from reconciler.ledger.connection import PAGE_SIZE
from tests.support.filled import filled
from tests.support.service import run


@pytest.mark.parametrize(
    ("command", "table"),
    [
        ("status", "sqlite_schema"),
        ("status", "alerts"),
        ("gaps", "sources"),
        ("events list", "sightings"),
        ("events show 1", "sightings"),
    ],
)
def test_a_damaged_table(tmp_path: Path, command: str, table: str) -> None:
    ledger = tmp_path / "ledger.db"
    filled(ledger, 200)
    with closing(sqlite3.connect(ledger)) as db:
        [(page,)] = db.execute("SELECT min(pageno) FROM dbstat WHERE name = ?", (table,))
    content = bytearray(ledger.read_bytes())
    start = PAGE_SIZE * (page - 1) + (100 if page == 1 else 0)  # after the file's own header
    content[start : PAGE_SIZE * page] = b"\xff" * (PAGE_SIZE * page - start)
    ledger.write_bytes(content)
    config: dict[str, object] = {"receiver": {"hooks": [{"token": "t"}]}, "ledger": {"path": "ledger.db"}}
    config["destinations"] = [{"name": "a", "url": "https://x"}]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    done = run(*command.split(), "-c", str(tmp_path / "config.yaml"))
    assert "Traceback" not in done.stderr
    assert "the file is damaged: stop the service and restore a backup" in done.stderr
    assert done.returncode == 1
