"""The dashboard in a real browser, of a ledger in PostgreSQL: with nothing, with events, and while it is away."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from reconciler.location import PostgresUrl
from reconciler.simulator.ports import free_port
from tests.conftest import MakeService
from tests.support.browser import chromium
from tests.support.ledgers import ledger_location
from tests.support.wire import Wire

pytestmark = pytest.mark.postgresql

AGAIN_MS = 60_000


def test_it_tells_that_the_database_is_away_and_comes_back(make_service: MakeService, tmp_path: Path) -> None:
    with ledger_location("postgresql", tmp_path) as url, chromium() as browser:
        assert isinstance(url, PostgresUrl)
        parts = urlsplit(url.value)
        with Wire(parts.port or 5432) as wire:
            through = parts._replace(netloc=f"{parts.username}@127.0.0.1:{wire.port}").geturl()
            port = free_port()
            archive = {"name": "archive", "kind": "file", "path": str(tmp_path / "archive.ndjson")}
            service = make_service(ledger={"url": through}, admin={"port": port}, destinations=[archive]).start()
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{port}/")
            expect(page.locator("#front tr", has_text="archive")).to_contain_text("up")
            process = service.process.pid if service.process else 0
            row = page.locator("#front tr", has_text="archive")
            expect(row).to_contain_text(f"(process {process})", timeout=AGAIN_MS)
            expect(page.get_by_text("No projects yet.")).to_be_visible()

            body = {"object_kind": "issue", "project": {"id": 43, "path_with_namespace": "shop/basket"},
                    "object_attributes": {"id": 9, "iid": 9, "title": "Streamed in"}}  # fmt: skip
            assert service.post(json.dumps(body).encode(), recorded=False).status_code == 200
            expect(page.locator("#live tr").first).to_contain_text("Streamed in", timeout=AGAIN_MS)
            expect(page.locator("#front")).to_contain_text("shop/basket", timeout=AGAIN_MS)
            page.locator("#live tr", has_text="Streamed in").get_by_role("link").click()
            expect(page.get_by_role("heading", name="Payload", exact=True)).to_be_visible()
            page.goto(f"http://127.0.0.1:{port}/")

            wire.cut()
            expect(page.get_by_role("heading", name="The ledger can’t be read")).to_be_visible(timeout=AGAIN_MS)
            expect(page.get_by_text("Is anything lost?")).to_have_count(0)  # what was so before is not known now
            wire.mend()
            expect(page.locator("#front tr", has_text="archive")).to_contain_text("up", timeout=AGAIN_MS)
            expect(page.locator("#live tr", has_text="Streamed in")).to_be_visible()
            expect(page.get_by_text("No events can be shown for now")).to_have_count(0)
