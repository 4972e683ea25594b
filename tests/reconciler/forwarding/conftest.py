"""Fixtures of the forwarding."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import pytest

from reconciler.ledger.queue import past_deliveries
from reconciler.location import Location
from tests.reconciler.forwarding.world import World
from tests.support.sink import sink_installed


@pytest.fixture(scope="module")
def sink_kind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A kind of destination that tests tell how to behave; a past is opened in parts of three events."""
    with patch.object(past_deliveries, "EVENTS_A_STEP", 3), sink_installed(tmp_path_factory.mktemp("installed")):
        yield


@pytest.fixture
def world(ledger_at: Location, sink_kind: None) -> Iterator[World]:
    """A service's forwarding, once for each database that may have the ledger."""
    world = World(ledger_at, seed=1)
    yield world
    world.stop(patience_s=1)
    world.close()
