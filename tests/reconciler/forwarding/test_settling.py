"""Outcomes that can't be written when the service stops: the log says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from unittest.mock import patch

import pytest
from structlog.testing import capture_logs

from reconciler.ledger.storage.connection import connect
from tests.reconciler.forwarding.world import MOMENT_S, World


@pytest.fixture(autouse=True)
def virtual_patience(world: World) -> Iterator[None]:
    """How long a change waits for a lock is measured in virtual time too."""
    with patch("time.monotonic", world.loop.time):
        yield


class TestAStop:
    def test_in_the_pause_after_a_failure(self, world: World) -> None:
        world.run(world.record([1]))
        world.deny_writes()
        world.wait(MOMENT_S)
        with capture_logs() as logs:
            world.stop(patience_s=1)
        assert [one["events"] for one in logs if one["event"] == "outcomes not recorded"] == [1] * 4
        world.start()

    @pytest.mark.parametrize("ends", [False, True])
    def test_while_the_ledger_waits_for_a_lock(self, world: World, ends: bool) -> None:
        """They are written if the lock ends before the ledger gives up, although nobody waits for it any more."""
        world.run(world.record([1]))
        with closing(connect(world.location)) as other:
            other.begin()
            world.wait(MOMENT_S)
            if ends:
                world.loop.call_later(3, other.rollback)
            with capture_logs() as logs:
                world.stop(patience_s=1)
        found = [one["events"] for one in logs if one["event"] == "outcomes not recorded"]
        assert found == ([] if ends else [1] * 4)
        world.start()
        world.wait(MOMENT_S)
        assert world.sent.total() == (4 if ends else 8)
