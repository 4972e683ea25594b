"""How long the server takes for each page of the dashboard, on a ledger of a million events in a year."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import msgspec

from benchmarks.material import fill, ledger, sightings
from benchmarks.quick import size
from benchmarks.table import Row
from reconciler.config.models import Config
from reconciler.dashboard.app import dashboard_app
from reconciler.dashboard.stream import Stream
from reconciler.events import times
from reconciler.events.sighting import Sighting
from reconciler.ledger.storage.connection import transaction
from reconciler.ledger.views.search import index_step
from reconciler.ledger.views.unknowns import Known

EVENTS = size(1_000_000, 50_000)
REPEATS = 15
PAGES = {
    "overview": "/",
    "events": "/events",
    "events, half way back": f"/events?before={EVENTS // 2}",
    "an event": f"/events/{EVENTS // 2}",
    "search, everywhere": "/events?q=group/7+ada",
    "search, one commit": "/events?q=commit:{commit}",
    "search, nothing found": "/events?q=author:nobody",
    "dead letters": "/dead-letters",
    "runs": "/runs",
}


def over_a_year(count: int) -> Iterator[Sighting]:
    """The usual sightings, the oldest a year ago, the newest now."""
    now = times.now()
    for number, one in enumerate(sightings(count, seed=11, payload_bytes=500)):
        at = now - 365 * times.DAY + round(number / count * 365 * times.DAY)
        identity = msgspec.structs.replace(one.identity, happened_at=at)
        yield msgspec.structs.replace(one, identity=identity)


async def pages(path: Path, commit: str) -> list[Row]:
    """The median of each page."""
    config = Config.model_validate(
        {
            "receiver": {"hooks": [{"token": "t"}]},
            "ledger": {"path": str(path)},
            "destinations": [{"name": "one", "url": "https://one.example"}],
            "admin": {"port": 1},
        }
    )
    app = dashboard_app(lambda: config, known=lambda: Known([], []), stream=Stream(path))
    rows = []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        for name, page in PAGES.items():
            took = []
            for _ in range(REPEATS):
                began = time.perf_counter()
                answer = await client.get(page.format(commit=commit))
                took.append(time.perf_counter() - began)
                assert answer.status_code == 200
            worst, usual = max(took) * 1000, statistics.median(took) * 1000
            rows.append(Row(f"dashboard: {name}", f"{usual:.0f} ms", f"{worst:.0f} ms at worst", None, "< 100 ms"))
    return rows


def measure() -> list[Row]:
    """Each page, in the middle of a million events."""
    with tempfile.TemporaryDirectory() as folder, closing(ledger(Path(folder) / "ledger.db", "one")) as db:
        fill(db, over_a_year(EVENTS))
        more = True
        while more:
            with transaction(db):
                more = index_step(db).more
        [commit] = db.execute(
            "SELECT json_extract(payload, '$.after') FROM sightings WHERE id = ?", [EVENTS // 2]
        ).fetchone()
        return asyncio.run(pages(Path(folder) / "ledger.db", commit))
