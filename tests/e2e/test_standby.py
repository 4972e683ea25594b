"""A copy that stands by and could not take over says so before it is needed."""

from __future__ import annotations

from pathlib import Path

import httpx
import psycopg
import pytest

from reconciler.location import PostgresUrl
from reconciler.simulator.ports import free_port
from tests.conftest import MakeService
from tests.support.denied import NOBODY
from tests.support.ledgers import ledger_location
from tests.support.service import until

pytestmark = pytest.mark.postgresql


def asked(port: int, path: str) -> str:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}").text
    except httpx.TransportError:  # not yet
        return ""


def test_what_is_in_the_way_is_in_its_log_metrics_and_dashboard(make_service: MakeService, tmp_path: Path) -> None:
    with ledger_location("postgresql", tmp_path, fresh=True) as url:
        assert isinstance(url, PostgresUrl)
        worker = make_service(ledger={"url": url.value}).start("worker")
        with psycopg.connect(url.value, autocommit=True) as conn:
            [schema] = conn.execute("SELECT current_schema()").fetchone() or [""]
            for right in ("USAGE ON SCHEMA", "SELECT ON ALL TABLES IN SCHEMA", "SELECT ON ALL SEQUENCES IN SCHEMA"):
                conn.execute(f"GRANT {right} {schema} TO PUBLIC")
        admin, metrics = free_port(), free_port()
        copy = make_service(
            ledger={"url": f"{url.value}%20-c%20role%3D{NOBODY}"}, admin={"port": admin}, metrics={"port": metrics}
        )
        copy.launch("worker")
        said = copy.wait_for_log("standing by, but this copy could not take over")
        assert f"the user {NOBODY} may not read or write alerts" in said["reason"]
        until(lambda: 'gitlab_reconciler_part_up{part="ledger"} 0.0' in asked(metrics, "/metrics"))
        until(lambda: f"the user {NOBODY} may not read or write alerts" in asked(admin, "/"))
        for service in (worker, copy):  # they use what is removed now
            service.kill()
