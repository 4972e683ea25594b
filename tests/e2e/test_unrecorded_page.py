"""The list of unrecorded webhooks in a browser without JavaScript, on a screen and on a phone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from typing import Literal

import pytest
from playwright.sync_api import Browser, expect

from reconciler.events import times
from reconciler.ledger.intake.intake import ReceivedWebhook
from reconciler.ledger.recording import unrecorded
from reconciler.ledger.recording.unrecorded import FailedWebhook
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.simulator.ports import free_port
from tests.conftest import MakeService
from tests.e2e.test_dashboard import CONTRAST
from tests.reconciler.dashboard.test_app import NASTY
from tests.support.browser import chromium

ERRORS = [
    "KeyError: 'iid'",
    "IntegrityError: CHECK constraint failed: length(key) > 0, in a change of the ledger that was undone",
    "x" * 500,
    *NASTY,
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (400, "dark")])
def test_it_fits_and_is_legible_without_javascript(
    make_service: MakeService, browser: Browser, width: int, scheme: Literal["light", "dark"]
) -> None:
    service = make_service(admin={"port": free_port()}).start()
    service.wait_for_log("dashboard ready")
    assert service.post(b'{"object_kind": "push"}').status_code == 200
    service.until_recorded()  # so that the start of the service tries none of them again
    with closing(connect(service.location)) as db, transaction(db):
        one = ReceivedWebhook("default", times.now(), {}, b"{}" * 5000)
        unrecorded.keep(db, [FailedWebhook(one, error) for error in ERRORS], now=times.now())
    context = browser.new_context(
        java_script_enabled=False, color_scheme=scheme, viewport={"width": width, "height": 844}
    )
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{service.config['admin']['port']}/")
    assert page.evaluate(CONTRAST) == []
    page.get_by_role("link", name="not recorded").click()
    expect(page.locator("h1")).to_have_text("Unrecorded webhooks")
    for error in ERRORS[:2]:
        expect(page.get_by_text(error)).to_be_visible()
    expect(page.locator("tbody tr")).to_have_count(len(ERRORS))
    expect(page.get_by_text("gitlab-reconciler intake retry 1", exact=True)).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CONTRAST) == []
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/unrecorded-{width}.png", full_page=True)
    context.close()
