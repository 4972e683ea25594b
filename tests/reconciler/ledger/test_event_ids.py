"""A ledger without the id that its events' ids begin with is damaged: a new one would name other events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.ledger.errors import LedgerDamaged
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.recording.writer import Writer
from reconciler.ledger.storage.connection import connect


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    path = tmp_path / "ledger.db"
    with closing(connect(path)) as db, closing(connect(path, readonly=True)) as reader:
        made = Ledger(Writer(db), reader)
        yield made
        await made.close()


async def test_an_event_keeps_its_id(ledger: Ledger) -> None:
    assert ledger.event_ids()(17) == ledger.event_ids()(17)
    assert ledger.event_ids()(17).endswith("_17")


async def test_a_ledger_that_lost_its_id_is_damaged(ledger: Ledger) -> None:
    await ledger._writer.run(lambda db: db.execute("DELETE FROM meta WHERE name = 'ledger_id'"))
    with pytest.raises(LedgerDamaged, match=r"has lost its id .* `restore` brings it back"):
        ledger.event_ids()
