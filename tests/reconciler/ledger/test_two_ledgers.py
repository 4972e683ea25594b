"""Several ledgers in one database of PostgreSQL, each in a schema of its own."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from reconciler.ledger.errors import LedgerBusy
from reconciler.ledger.storage.connection import connect
from tests.support.ledgers import ledger_location

pytestmark = pytest.mark.postgresql


def test_one_writes_to_a_ledger_at_a_time_and_others_need_not_wait(tmp_path: Path) -> None:
    with (
        ledger_location("postgresql", tmp_path) as here,
        ledger_location("postgresql", tmp_path) as there,
        closing(connect(here)) as first,
        closing(connect(here, patience_s=0)) as second,
        closing(connect(there, patience_s=0)) as other,
    ):
        first.begin()
        other.begin()
        with pytest.raises(LedgerBusy):
            second.begin()
        first.rollback()
        second.begin()
