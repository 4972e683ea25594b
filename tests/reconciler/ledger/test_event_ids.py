"""A ledger without the id that its events' ids begin with is damaged: a new one would name other events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import closing

import pytest

from reconciler.ledger.errors import LedgerDamaged
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.recording.writer import Writer
from reconciler.ledger.storage.connection import connect
from reconciler.ledger.storage.ids import rename_from_here
from reconciler.location import Location
from tests.support.filled import made


@pytest.fixture
async def ledger(ledger_at: Location) -> AsyncIterator[Ledger]:
    with closing(connect(ledger_at)) as db, closing(connect(ledger_at, readonly=True)) as reader:
        made = Ledger(Writer(db), reader)
        yield made
        await made.close()


async def test_an_event_keeps_its_id(ledger: Ledger) -> None:
    assert ledger.event_ids()(17) == ledger.event_ids()(17)
    assert ledger.event_ids()(17).endswith("_17")


async def test_events_after_a_restore_have_ids_of_their_own(ledger: Ledger) -> None:
    await ledger.record(list(made(2)))
    before = [ledger.event_ids()(number) for number in (1, 2, 3)]
    await ledger._writer.run(rename_from_here)
    after = [ledger.event_ids()(number) for number in (1, 2, 3)]
    assert after[:2] == before[:2]
    assert after[2] != before[2]


async def test_a_ledger_that_lost_its_id_is_damaged(ledger: Ledger) -> None:
    await ledger._writer.run(lambda db: db.execute("DELETE FROM meta WHERE name = 'ledger_id'"))
    with pytest.raises(LedgerDamaged, match=r"has lost its id .* `restore` brings it back"):
        ledger.event_ids()
