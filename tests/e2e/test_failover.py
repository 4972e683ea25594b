"""The database goes down under load: it is restarted, or its standby takes over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reconciler.location import PostgresUrl
from reconciler.simulator.consumer import Consumer
from reconciler.simulator.server import Simulator
from tests.conftest import MakeService
from tests.e2e.test_copies import no_harm, sections
from tests.support.clusters import USER, Cluster

pytestmark = pytest.mark.postgresql


@pytest.fixture
def clusters() -> Iterator[tuple[Cluster, Cluster]]:
    """A primary and its synchronous standby."""
    primary, standby = Cluster(), Cluster()
    try:
        primary.make()
        primary.start()
        standby.copy(primary)
        standby.start()
        primary.kill()
        primary.start(synchronous_standby_names="*")
        primary.wait_for_standby()
        yield primary, standby
    finally:
        standby.remove()
        primary.remove()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_restart_and_a_failover(
    make_service: MakeService, gitlab: Simulator, consumer: Consumer, clusters: tuple[Cluster, Cluster]
) -> None:
    primary, standby = clusters
    hosts = f"{primary.address},{standby.address}"
    database = PostgresUrl(f"postgresql://{USER}@{hosts}/postgres?target_session_attrs=read-write")
    services = [make_service(**sections(database, gitlab, consumer)) for _ in range(2)]
    with no_harm(gitlab, consumer, database, services) as copies:
        copies.work()
        primary.kill()
        primary.start(synchronous_standby_names="*")
        copies.work()
        primary.kill()
        standby.promote()
        copies.work()
