"""What holds events is its owner's alone to read, whatever the umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.ledger.errors import LedgerError
from reconciler.ledger.storage.connection import connect, touch, transaction
from reconciler.ledger.upkeep.backup import backup, restore
from tests.support.filled import filled


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    return {file.name: oct(stat.S_IMODE(file.stat().st_mode)) for file in folder.iterdir() if file.suffix != ".lock"}


def test_the_ledger_and_what_is_beside_it(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "ledger.db")) as db, transaction(db):
        touch(db)
        found = modes(tmp_path)
    assert {"ledger.db", "ledger.db-wal", "ledger.db-shm"} <= found.keys()
    assert set(found.values()) == {"0o600"}


def test_one_that_others_may_read_stays_so(tmp_path: Path) -> None:
    """Who gave it to a group on purpose keeps it."""
    connect(tmp_path / "ledger.db").close()
    (tmp_path / "ledger.db").chmod(0o640)
    connect(tmp_path / "ledger.db").close()
    assert modes(tmp_path)["ledger.db"] == "0o640"


def test_backups_and_what_restore_makes(tmp_path: Path) -> None:
    ledger, copies = tmp_path / "in" / "ledger.db", tmp_path / "copies"
    copies.mkdir()
    filled(ledger, 3)
    copy = Path(backup(ledger, copies / "one.db").path)
    assert modes(copies) == {"one.db": "0o600"}  # and nothing beside it
    copy.chmod(0o644)
    restore(copy, ledger)
    assert set(modes(ledger.parent).values()) == {"0o600"}


def test_a_damaged_ledger_is_named_and_not_its_copy(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.db"
    filled(ledger, 2000)
    with ledger.open("r+b") as file:
        file.seek(20 * 4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(LedgerError) as refused:
        backup(ledger, tmp_path / "copy.db")
    assert f"{ledger}: " in str(refused.value)
    assert ".part" not in str(refused.value)
    assert not list(tmp_path.glob("copy*"))
