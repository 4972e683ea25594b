"""The page to try the API, in a real browser: it needs nothing from elsewhere, and its requests are accepted."""

from __future__ import annotations

import threading
from pathlib import Path

import uvicorn
from playwright.sync_api import expect

from reconciler.service.web import listen
from tests.support.api import BASE, Client, config_for, some_events
from tests.support.browser import chromium


def test_a_request_can_be_tried(tmp_path: Path) -> None:
    some_events(tmp_path / "ledger.db", 1, "archive")
    client = Client(config_for(tmp_path / "ledger.db", destinations=[{"name": "archive", "kind": "stdout"}]))
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(client.app, lifespan="off", log_config=None, ws="none"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    complaints: list[str] = []
    try:
        with chromium() as browser:
            page = browser.new_page()
            page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
            page.goto(f"http://127.0.0.1:{listener.getsockname()[1]}{BASE}/docs")
            page.get_by_text("/destinations/{name}/pause").first.click(timeout=60_000)
            page.get_by_role("button", name="Try it out").click()
            page.get_by_placeholder("name", exact=True).fill("archive")
            page.get_by_role("button", name="Execute").click()
            expect(page.locator(".live-responses-table .microlight").first).to_contain_text("paused (by hand)")
    finally:
        server.should_exit = True
        thread.join()
    assert complaints == []
