"""Copies of the service, and their database, fail one after the other under load: nothing is lost, or out of order.

`make copies` does this for as long as you like, with faults chosen at random.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.copies import running
from tests.support.copies_faults import Faults, database
from tests.support.copies_proof import proven


@pytest.mark.postgresql
@pytest.mark.long
@pytest.mark.timeout(400)
def test_nothing_is_lost(tmp_path: Path) -> None:
    with database() as server, running(tmp_path, server.ports, server.url) as copies:
        faults = Faults()
        copies.work()
        # The one that works hangs, and so do the connections of another: the third takes over.
        first = copies.holder()
        second, third = (copy for copy in copies.all if copy is not first)
        faults.stop(first, lambda: faults.freeze(second, copies.work))
        assert third.service.process is not None
        assert copies.holder() is third
        assert third.works == [third.service.process.pid]
        faults.kill(third, copies.work)
        faults.cut(copies.holder(), copies.work)
        faults.restart(server)
        copies.work()
        faults.fail_over(server)
        copies.work()
        copies.load.stop()
        found = proven(copies, faults.made)
        print(*faults.made, found, sep="\n")
        assert found.acknowledged > 20
