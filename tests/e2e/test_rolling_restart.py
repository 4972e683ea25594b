"""Copies are restarted one after another under load: no webhook is refused."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from reconciler.location import PostgresUrl
from tests.support.copies import running
from tests.support.copies_proof import proven
from tests.support.ledgers import ledger_location


@pytest.mark.postgresql
@pytest.mark.long
def test_no_webhook_is_refused(tmp_path: Path) -> None:
    with ledger_location("postgresql", tmp_path) as database:
        assert isinstance(database, PostgresUrl)
        with running(tmp_path, [], database, shutdown_delay="1h") as copies:
            for copy in copies.all:
                copies.work()
                assert copy.service.process is not None
                copy.service.process.send_signal(signal.SIGTERM)
                copies.balancer.wait_until_left(copy.service.port)
                assert copy.service.stop() == 0  # a second signal ends the delay
                copy.start()
                copies.ready(len(copies.all))
            copies.work()
            copies.load.stop()
            assert copies.load.refused == []
            assert proven(copies, []).duplicates == 0
