"""The dashboard in a real browser: what it shows is so, its buttons work, it is alive, and it can be read by all.

With UPDATE_DOCS set, the same tests write the screenshots in docs/images; SCREENSHOTS names a folder for all of them.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page, expect

from reconciler.events import times
from reconciler.events.times import HOUR, MINUTE, Millis
from reconciler.simulator.consumer import ACCEPTED, Consumer
from reconciler.simulator.ports import free_port
from reconciler.simulator.server import Simulator
from tests.conftest import MakeService
from tests.reconciler.dashboard.test_app import NASTY, nasty_body
from tests.support.browser import chromium
from tests.support.looking import LAST_INDEXED, change
from tests.support.service import Service, until

IMAGES = Path(__file__).parents[2] / "docs" / "images"
PROJECTS = {42: "shop/checkout", 43: "shop/catalogue", 45: "platform/ci-templates"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@dataclass
class Scene:
    """A service with a past, two destinations of which one is in trouble, and its dashboard."""

    service: Service
    gitlab: Simulator
    consumer: Consumer
    url: str

    def rows(self, sql: str) -> list[Any]:
        return self.service.rows(sql)

    def number(self, sql: str) -> int:
        return int(self.rows(sql)[0][0])


@pytest.fixture
def scene(make_service: MakeService, gitlab: Simulator, consumer: Consumer, tmp_path: Path) -> Scene:
    world = gitlab.world
    for ident, path in PROJECTS.items():
        world.add_project(ident, path)
    now = times.now()
    for hours in range(20, 0, -1):
        for ident in PROJECTS:
            for n in range((hours * ident) % 4):
                world.clock = lambda at=now - hours * HOUR + n * MINUTE: at  # type: ignore[misc]  # a default
                if n % 3 == 2:
                    world.issue(ident, f"Checkout fails for basket {n}")
                else:
                    world.push(ident, "main" if n % 2 else "feature/login")
    world.clock = times.now
    consumer.answer = lambda _h, body: (422, {}, b"field `ref` is missing") if b'"bad"' in body else ACCEPTED
    port = free_port()
    service = make_service(
        gitlab={"url": gitlab.url, "token": gitlab.api.token},
        projects=list(PROJECTS),
        reconcile={"interval": "1h", "grace_period": "1ms", "overlap": "1m", "sources": ["project_events", "issues"]},
        admin={"port": port},
        destinations=[
            {"name": "audit", "url": consumer.url, "allow_private": True},
            {"name": "archive", "kind": "file", "path": str(tmp_path / "archive.ndjson")},
            {"name": "warehouse", "url": "http://127.0.0.1:9/events", "allow_private": True,
             "breaker": {"failures": 2, "max_delay": "1h"}},
        ],
    )  # fmt: skip
    service.write_config()
    since = times.iso(Millis(now - 21 * HOUR))
    assert service.run("backfill", "--from", since, "--no-details").returncode == 0
    service.start()
    service.wait_for_log("caught up with GitLab")
    for n in range(6):
        body = {"object_kind": "push", "project_id": 42, "ref": "refs/heads/main", "before": f"{n:040x}",
                "after": f"{n + 1:040x}", "user_username": "lovelace",
                "project": {"path_with_namespace": PROJECTS[42]},
                "commits": [{"id": f"{n + 1:040x}", "title": f"Round totals to the cent ({n})"}]}  # fmt: skip
        body |= {"bad": True} if n in (2, 4) else {}
        assert service.post(json.dumps(body).encode()).status_code == 200
    change(  # a gap that was there before: nobody read these hours
        service.location,
        f"UPDATE sources SET watched_since = '{times.iso(Millis(now - 9 * HOUR))}' WHERE project_id = 45",
        f"UPDATE coverage SET covered_from = '{times.iso(Millis(now - 6 * HOUR))}' WHERE project_id = 45",
    )
    found = Scene(service, gitlab, consumer, f"http://127.0.0.1:{port}")
    until(lambda: found.number("SELECT count(*) FROM deliveries WHERE state = 'dead'") == 2)
    until(lambda: found.number(LAST_INDEXED) == found.number("SELECT max(id) FROM events"))
    return found


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that fails the test where the browser has anything to complain of: errors, refused content."""
    made = browser.new_page(viewport={"width": 1280, "height": 900})
    complaints: list[str] = []
    made.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    made.on("pageerror", lambda error: complaints.append(str(error)))
    made.on("dialog", lambda dialog: complaints.append(f"a dialog: {dialog.message}"))
    yield made
    made.close()
    assert complaints == []


def figure(text: str | None) -> int:
    found = re.search(r"[\d,]+", text or "")
    assert found is not None, text
    return int(found[0].replace(",", ""))


def test_what_is_shown_agrees_with_the_ledger(scene: Scene, page: Page) -> None:
    page.goto(scene.url)
    expect(page.locator(".summary-box").nth(0)).to_contain_text("open", timeout=15_000)
    expect(page.locator(".summary-box").nth(1)).to_contain_text("Yes: warehouse")
    row = page.locator("#front tr", has=page.get_by_role("rowheader", name="audit"))
    expect(row.locator("td").nth(1)).to_have_text(re.compile(r"^\s*0\s*$"), timeout=15_000)
    cells = row.locator("td").all_inner_texts()
    assert (cells[0], figure(cells[3])) == ("up", 2)
    down = page.locator("#front tr", has=page.get_by_role("rowheader", name="warehouse")).locator("td")
    owed = scene.number(
        "SELECT count(*) FROM deliveries d JOIN destinations x ON x.id = d.destination_id "
        "WHERE x.name = 'warehouse' AND d.state IN ('pending', 'retrying')"
    )
    assert (down.nth(0).inner_text(), figure(down.nth(1).inner_text())) == ("down", owed)
    for path in PROJECTS.values():
        line = page.locator("#front tr", has=page.get_by_role("rowheader", name=path))
        day = times.iso(Millis((times.now() // HOUR - 23) * HOUR))
        wanted = scene.number(
            "SELECT count(*) FROM events e JOIN projects p ON p.id = e.project_id "
            f"WHERE p.path = '{path}' AND e.happened_at >= '{day}'"
        )
        assert figure(line.locator("td").nth(1).inner_text()) == wanted
    gap = page.locator("#front tr", has=page.get_by_role("rowheader", name=PROJECTS[45]))
    assert gap.locator("rect.base.gap").count() in (3, 4)
    assert gap.locator("rect.base.recovered").count() > 3
    assert page.locator("#live tr").count() == 15


def test_a_live_event_appears_without_a_reload(scene: Scene, page: Page) -> None:
    page.goto(scene.url)
    expect(page.locator("#live tr")).to_have_count(15)
    page.evaluate("window.stillHere = true")
    body = {"object_kind": "issue", "project_id": 43, "user": {"username": "grace"},
            "object_attributes": {"id": 9, "iid": 9, "title": "Streamed in"}}  # fmt: skip
    assert scene.service.post(json.dumps(body).encode()).status_code == 200
    expect(page.locator("#live tr").first).to_contain_text("Streamed in", timeout=5000)
    assert page.evaluate("window.stillHere") is True
    newest = scene.number("SELECT max(id) FROM events")
    expect(page.locator("#front")).to_contain_text(f"number {newest}", timeout=9000)
    assert page.evaluate("window.stillHere") is True


def test_replay_really_replays(scene: Scene, page: Page) -> None:
    page.goto(scene.url + "/dead-letters")
    page.get_by_role("table").get_by_role("link").first.click()
    expect(page.get_by_text("field `ref` is missing").first).to_be_visible()
    event = int(page.url.rsplit("/", 1)[1])
    before = len(scene.consumer.requests)
    scene.consumer.answer = lambda _h, _b: ACCEPTED
    page.get_by_role("button", name="Replay to audit").click()
    expect(page.get_by_role("status")).to_have_text(f"Event {event} is replayed to audit.")
    assert scene.consumer.wait_for(lambda c: len(c.requests) == before + 1)
    assert scene.consumer.requests[-1].event_id.endswith(f"_{event}")
    assert scene.consumer.requests[-1].headers["x-reconciler-replay"] == "1"
    page.goto(scene.url + "/dead-letters")
    page.get_by_role("button", name="Replay all of these").click()
    expect(page.get_by_role("status")).to_have_text("1 dead letter replayed.")
    assert scene.consumer.wait_for(lambda c: len(c.requests) == before + 2)


def test_a_search_finds(scene: Scene, page: Page) -> None:
    page.goto(scene.url)
    page.get_by_role("searchbox").fill("author:lovelace branch:main")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("with author:lovelace branch:main")
    assert page.locator("tbody tr").count() == 6
    page.locator("tbody a").first.click()
    expect(page.get_by_role("heading", name="Payload", exact=True)).to_be_visible()


def test_nothing_in_a_payload_runs(scene: Scene, page: Page) -> None:
    for n, word in enumerate(NASTY):
        assert scene.service.post(json.dumps(nasty_body(n + 100, word)).encode()).status_code == 200
    last = scene.number("SELECT max(id) FROM events")
    for path in ("/", "/events", *(f"/events/{last - n}" for n in range(len(NASTY)))):
        page.goto(scene.url + path)
        assert page.evaluate("typeof window.pwned") == "undefined"
        assert page.locator("main img, main iframe, main script").count() == 0
        assert page.evaluate("[...document.querySelectorAll('svg')].every(s => s.classList.contains('strip'))")
    page.goto(scene.url)
    assert scene.service.post(json.dumps(nasty_body(200, NASTY[0])).encode()).status_code == 200
    expect(page.locator("#live tr").first).to_contain_text("window.pwned", timeout=5000)
    assert page.evaluate("typeof window.pwned") == "undefined"


def test_it_can_be_read_without_javascript(scene: Scene, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(scene.url)
    expect(page.get_by_role("heading", name="Is anything stuck?")).to_be_visible()
    assert page.locator("#live tr").count() == 15
    page.get_by_role("button", name="Pause audit").click()
    expect(page.get_by_role("status")).to_contain_text("audit is paused")
    page.goto(scene.url + "/events?q=author:lovelace")
    assert page.locator("tbody tr").count() == 6
    page.locator("tbody a").first.click()
    page.locator(".json summary").last.click()  # folding needs no script
    context.close()


def test_it_can_be_used_by_keyboard_and_is_named_for_screen_readers(scene: Scene, page: Page) -> None:
    page.goto(scene.url)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"
    for path in ("/", "/events", "/events/1", "/destinations/audit", "/dead-letters", "/unrecorded", "/runs"):
        page.goto(scene.url + path)
        assert page.locator("h1").count() == 1
        assert page.evaluate(
            "[...document.querySelectorAll('button, input:not([type=hidden]), select, a')]"
            ".filter(e => !(e.textContent.trim() || e.labels?.length || e.ariaLabel)).length"
        ) == 0  # fmt: skip
        assert page.evaluate("[...document.querySelectorAll('th')].every(th => th.scope && th.textContent.trim())")
        assert page.evaluate(
            "[...document.querySelectorAll('svg')].every(s => s.ariaLabel || s.querySelector('desc'))"
        )


KEPT = ("overview-light", "overview-dark", "overview-dark-phone", "events-light", "event-dark", "dead-letters-light")
SHOTS = {
    "overview": "/",
    "destination": "/destinations/audit",
    "events": "/events",
    "event": "",
    "dead-letters": "/dead-letters",
    "runs": "/runs",
}


@pytest.mark.timeout(240)
def test_every_page_fits_and_is_legible(scene: Scene, browser: Browser) -> None:
    dead = scene.number("SELECT min(event_id) FROM deliveries WHERE state = 'dead'")
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme, width in itertools.product(schemes, (1280, 390)):
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 844})
        page = context.new_page()
        for name, path in SHOTS.items():
            page.goto(scene.url + (path or f"/events/{dead}"))
            expect(page.locator("main")).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, scheme)
            assert page.evaluate(CONTRAST) == [], (name, scheme)
            picture = f"{name}-{scheme}{'' if width > 600 else '-phone'}"
            if os.environ.get("UPDATE_DOCS") and picture in KEPT:
                IMAGES.mkdir(exist_ok=True)
                page.screenshot(path=str(IMAGES / f"{picture}.png"), full_page=name != "events")
            elif folder := os.environ.get("SCREENSHOTS"):
                page.screenshot(path=f"{folder}/{picture}.png", full_page=True)
        context.close()


CONTRAST = """
() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll('main *, header *, footer')) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || element.closest('.sr, svg')) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const where = `${element.tagName}.${element.className} ${element.textContent.slice(0, 20)}`;
    if (ratio < 4.5) poor.push(`${where}: ${ratio.toFixed(1)}`);
  }
  return poor;
}
"""
