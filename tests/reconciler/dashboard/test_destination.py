"""The page of a destination: what its figures say of the ledger, its buttons, and that no secret is on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from reconciler.config.models import Config
from reconciler.dashboard.settings import settings
from reconciler.events import times
from reconciler.events.times import DAY, HOUR, MINUTE, Millis
from reconciler.ledger.queue.deliveries import Attempt
from reconciler.ledger.queue.destinations import destination_states
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.views import traffic
from reconciler.location import Location
from reconciler.simulator.consumer import Consumer
from tests.reconciler.dashboard.test_app import NASTY, checked
from tests.support import outcomes
from tests.support.api import config_for, some_events
from tests.support.dashboard import Browser
from tests.support.ledgers import ENGINES, ledger_location

NOW = times.from_iso("2026-11-24T12:30:00.000Z")


@pytest.fixture(params=ENGINES)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Location]:
    with ledger_location(request.param, tmp_path) as found:
        yield found


def attempt(event_id: int, at: Millis, took: int = 10, error: str | None = None, to: int = 1) -> Attempt:
    found = Attempt(event_id, to, event_id, 1, at, Millis(at + took))
    if error is None:
        return found
    return Attempt(event_id, to, event_id, 1, at, Millis(at + took), 503, "http_5xx", error)


def test_figures_are_of_this_destination_and_of_their_time(location: Location) -> None:
    some_events(location, 12, "one", "two")
    with closing(connect(location)) as db, transaction(db):
        for n, ago in enumerate((MINUTE, MINUTE, 2 * HOUR, 3 * DAY, 8 * DAY), 1):
            outcomes.deliver(db, attempt(n, Millis(NOW - ago), took=n * 10))
        outcomes.deliver(db, attempt(6, NOW, took=9999, to=2))
        for n in (7, 8):
            outcomes.retry(db, attempt(n, Millis(NOW - n * MINUTE), error="busy\nmore"), pause=Millis(0), now=NOW)
        outcomes.mark_dead(db, attempt(9, Millis(NOW - HOUR), error="no"))
        found = traffic.traffic(db, 1, since=Millis(NOW - 7 * DAY))
    day = found.period(slots=24, hours=1, now=NOW)
    assert (day.total.delivered, day.total.failed, day.total.median, day.total.p95) == (3, 3, 20, 30)
    assert [(n, one.delivered, one.failed) for n, one in enumerate(day.slots) if one.delivered or one.failed] == [
        (21, 1, 0), (22, 0, 1), (23, 2, 2),
    ]  # fmt: skip
    assert times.iso(day.slots[-1].start) == "2026-11-24T12:00:00.000Z"
    week = found.period(slots=28, hours=6, now=NOW)
    assert (week.total.delivered, week.total.failed, week.slots[-1].delivered) == (4, 3, 3)
    said = [(one.count, one.error_class, one.status, one.error, one.event_id) for one in found.failures]
    assert said == [(2, "http_5xx", 503, "busy", 7), (1, "http_5xx", 503, "no", 9)]
    assert found.since is None


def test_what_was_not_counted_is_said(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "MOST_ATTEMPTS", 2)
    some_events(location, 3, "one")
    now = times.now()
    with closing(connect(location)) as db, transaction(db):
        for n in (1, 2, 3):
            outcomes.deliver(db, attempt(n, Millis(now - n * MINUTE)))
    page = Browser(config_for(location)).get("/destinations/one")
    begin = times.iso(Millis(now - 2 * MINUTE))[:19].replace("T", " ")
    assert f"There were more attempts than are counted here. These begin at {begin}." in page
    assert page.count("<strong>2</strong> delivered") == 2


def test_a_page_says_what_waits_and_what_is_wrong(location: Location) -> None:
    some_events(location, 4, "one", "two")
    now = times.now()
    with closing(connect(location)) as db, transaction(db):
        outcomes.deliver(db, attempt(1, now))
        outcomes.mark_dead(db, attempt(2, now, error=NASTY[0]))
    browser = Browser(config_for(location, destinations=[{"name": "one", "url": "https://one.example/in"}]))
    assert 'href="/destinations/one"' in browser.get("/")
    page = browser.get("/destinations/one")
    for words in ("https://one.example/in", 'Pending</h2><p class="answer">2<', ">1</a>", NASTY[0], "/events/2"):
        assert words in page, words
    charts = re.findall(r'<svg class="chart".*?aria-labelledby="(\S+) (\S+)"', page)
    assert len(charts) == 4
    assert all(f'id="{ident}"' in page for chart in charts for ident in chart)
    assert page.count("<summary>As a table") == 2
    checked(browser.send("GET", "/destinations/one").text, "/destinations/one")
    assert "no longer in the config" in browser.get("/destinations/two")
    assert "Nothing was sent in the last 7 days" in browser.get("/destinations/two")
    assert browser.send("GET", "/destinations/nobody").status_code == 404


def test_a_destination_that_is_not_in_use_yet_has_a_page(location: Location) -> None:
    some_events(location, 1, "one")
    browser = Browser(config_for(location, destinations=[{"name": "new", "url": "https://one.example/in"}]))
    assert "not in use yet" in browser.get("/destinations/new")


def test_buttons_of_the_page(location: Location, consumer: Consumer) -> None:
    some_events(location, 1, "one")
    wanted = {"name": "one", "url": consumer.url, "allow_private": True}
    browser, page = Browser(config_for(location, destinations=[wanted])), "/destinations/one"
    said = browser.act(page, f"{page}/pause", **{"from": "page", "reason": f"until\n 14:00 {NASTY[0]}"})
    assert "one is paused. New events are kept for it." in said
    assert f": until 14:00 {NASTY[0]}</dd>" in said
    assert "Resume" in said
    assert "one is resumed." in browser.act(page, f"{page}/resume", **{"from": "page"})
    said = browser.act(page, f"{page}/pause", **{"from": "page", "reason": "410 Gone"})  # that is the service's own
    with closing(connect(location)) as db:
        assert [one.paused_why for one in destination_states(db)] == ["by hand"]
    assert "one accepted the test event (HTTP 200)." in browser.act(page, f"{page}/test", **{"from": "page"})
    assert consumer.requests[-1].headers["x-reconciler-test"] == "true"
    consumer.answer = lambda _h, _b: (500, {}, b"out of order")
    assert "did not accept the test event: HTTP 500" in browser.act(page, f"{page}/test", **{"from": "page"})


def test_nothing_is_sent_to_one_that_is_pulled(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    some_events(path, 1, "one", "two")
    wanted = [{"name": "one", "kind": "pull"}, {"name": "two", "url": "https://two.example/in"}]
    browser = Browser(config_for(path, destinations=wanted, admin={"port": 0}))
    page, other = browser.get("/destinations/one"), browser.get("/destinations/two")
    assert ("Send a test event" in page, "Send a test event" in other) == (False, True)
    assert ("<dt>Fetched from</dt>" in page, "<dt>Sends to</dt>" in other) == (True, True)
    said = browser.act("/destinations/two", "/destinations/one/test", **{"from": "page"})
    assert "The test event was not sent: nothing is sent to one: its consumers fetch the events" in said


SECRET = "open-sesame"


@pytest.mark.parametrize(
    "config",
    [
        {"url": f"https://one.example/in?token={SECRET}", "headers": {"X-Key": SECRET},
         "secret": "whsec_b3Blbi1zZXNhbWUtb3Blbi1zZXNhbWU=", "proxy": f"http://u:{SECRET}@proxy:3128"},
        {"kind": "nats", "servers": [f"nats://u:{SECRET}@127.0.0.1"], "token": SECRET},
        {"kind": "redis", "url": f"redis://u:{SECRET}@127.0.0.1"},
        {"kind": "rabbitmq", "url": f"amqp://u:{SECRET}@127.0.0.1/v"},
        {"kind": "kafka", "servers": ["127.0.0.1"], "sasl_mechanism": "PLAIN", "user": "u", "password": SECRET},
    ],
    ids=lambda config: config.get("kind", "http"),
)  # fmt: skip
def test_no_secret_is_on_the_page(tmp_path: Path, config: dict[str, Any]) -> None:
    path = tmp_path / "ledger.db"
    some_events(path, 0, "one")
    page = Browser(config_for(path, destinations=[{"name": "one", **config}])).get("/destinations/one")
    assert SECRET not in page
    assert "whsec" not in page
    assert "b3Blbi1" not in page
    assert "127.0.0.1" in page or "one.example/in" in page


def test_config_is_shown_as_it_is_written() -> None:
    wanted = {"name": "one", "url": "https://one.example", "timeout": "90s", "rate_limit": "10/s",
              "retry": {"schedule": ["5s", "5m"]}, "headers": {"X-Key": "k"}, "batch": {"max": 5, "wait": "0s"},
              "filter": {"projects": ["team/*", 7]}, "allow_private": True,
              "transform": {"template": "{{ body.url }}"}}  # fmt: skip
    found = Config.model_validate({"receiver": {"hooks": [{"token": "t"}]}, "destinations": [wanted]})
    assert {one.key: one.value for one in settings(found.destinations[0])} == {
        "timeout": "90s",
        "rate_limit": "10/s",
        "retry.schedule": "5s, 5m",
        "headers.X-Key": "(hidden)",
        "batch.max": "5",
        "batch.wait": "0ms",
        "filter.projects": "team/*, 7",
        "allow_private": "true",
        "transform.template": "{{ body.url }}",
    }
