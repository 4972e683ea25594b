"""The list of events: its filters and chips, how far a page looks, and what is said of words that nothing has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from html import unescape
from pathlib import Path

import msgspec
import pytest

from reconciler.events import times
from reconciler.events.times import HOUR, Millis
from reconciler.ledger.queue import destinations
from reconciler.ledger.queue.deliveries import Attempt
from reconciler.ledger.queue.destinations import DestinationSpec
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.recording.record import record
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.storage.ids import event_ids
from reconciler.ledger.views import listing, search
from reconciler.location import Location
from tests.reconciler.dashboard.test_app import NASTY, checked
from tests.support import outcomes
from tests.support.api import config_for
from tests.support.dashboard import Browser
from tests.support.filled import made
from tests.support.ledgers import ENGINES, ledger_location

NOW = times.from_iso("2026-11-24T12:00:00.000Z")
EVENTS = 12
"""In projects 1 to 5; event n is of ada if n is odd, and reported by the list of pipelines if n is 3. Events 1 and 7
are dead letters of `one`, 2 is delivered to it; the rest is pending."""


@pytest.fixture(params=ENGINES)
def browser(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Browser]:
    with ledger_location(request.param, tmp_path) as location:
        fill(location)
        yield Browser(config_for(location))


def fill(location: Location) -> None:
    with closing(connect(location)) as db:
        with transaction(db):
            ids = destinations.sync(db, [DestinationSpec("one"), DestinationSpec("two")], now=NOW)
            routes = [Route(ident, "none", lambda _: True) for ident in ids.values()]
            seen = []
            for n, one in enumerate(made(EVENTS, at=NOW), 1):
                at = Millis(NOW + n * HOUR)
                about = msgspec.structs.replace(one.summary, author="ada" if n % 2 else "bob", ref="refs/heads/main")
                identity = msgspec.structs.replace(one.identity, happened_at=at)
                source = "pipelines" if n == 3 else one.source
                seen.append(msgspec.structs.replace(one, summary=about, identity=identity, source=source))
            record(db, seen, now=NOW, routes=routes)
            for n in (1, 7):
                outcomes.mark_dead(db, Attempt(n, ids["one"], n, 1, NOW, NOW, 422, "http_4xx", "no"))
            outcomes.deliver(db, Attempt(2, ids["one"], 2, 1, NOW, NOW, 200))
        with transaction(db):
            search.index_step(db)


def ids(page: str) -> list[int]:
    return [int(one) for one in re.findall(r'<td class="num"><a href="/events/(\d+)"', page)]


ALL = list(range(EVENTS, 0, -1))
FILTERS = [
    ({"delivery": "dead"}, [7, 1]),
    ({"delivery": "dead", "destination": "two"}, []),
    ({"delivery": "delivered"}, [2]),
    ({"delivery": "pending", "destination": "one"}, [n for n in ALL if n not in (1, 2, 7)]),
    ({"delivery": "retrying"}, []),
    ({"destination": "two"}, ALL),
    ({"source": "pipelines"}, [3]),
    ({"source": "webhook", "project": "group/3"}, [8]),
    ({"project": "3"}, [8, 3]),
    ({"kind": "note", "author": "ada"}, [11, 9, 7, 5, 3, 1]),
    ({"author": "ad"}, []),
    ({"author": 'a"d*'}, []),
    ({"from": "2026-11-24T22:00:00Z"}, [12, 11, 10]),
    ({"from": "2026-11-24T22:00:00Z", "author": "bob"}, [12, 10]),
    ({"from": "2026-11-24T15:00:00Z", "to": "2026-11-24T20:00:00Z", "source": "webhook"}, [7, 6, 5, 4]),
    ({"q": "author:ada", "delivery": "dead"}, [7, 1]),
    ({"q": "refs/heads/main", "source": "pipelines"}, [3]),
    ({"q": "branch:refs/heads/main", "delivery": "delivered"}, [2]),
]


def test_filters_find(browser: Browser) -> None:
    for given, wanted in FILTERS:
        page = browser.get("/events", **given)
        assert ids(page) == wanted, given
        assert page.count("Remove filter") == len(given.keys() - {"q"}), given


@pytest.mark.parametrize("given", [{"source": "webhook"}, {"source": "webhook", "from": "2026-11-24"}, {"q": "note"},
                                   {"delivery": "pending"}, {"delivery": "dead"}])  # fmt: skip
def test_pages_lead_to_all_that_match(
    browser: Browser, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ids(browser.get("/events", **given))
    monkeypatch.setattr("reconciler.dashboard.finding.ROWS_A_PAGE", 2)
    monkeypatch.setattr(listing, "EVENTS_LOOKED_AT", 3)
    found, seen, at = list[int](), 0, "/events?" + "&".join(f"{name}={value}" for name, value in given.items())
    while at:
        page = browser.get(at)
        found, seen = found + ids(page), seen + 1
        assert seen < 20
        older = re.search(r'aria-label="Events"><a href="([^"]+)"', page)
        at = older[1] if older else ""
    assert found == whole
    assert seen > 1 or len(whole) <= 2


def test_a_page_says_that_it_did_not_look_at_all(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "EVENTS_LOOKED_AT", 4)
    page = browser.get("/events", source="pipelines")
    assert ids(page) == []
    assert "No event matches among those looked at so far." in page
    assert "No event matches.<" not in page


def test_chips_and_links_keep_all_else(browser: Browser) -> None:
    page = browser.get("/events", q="note", delivery="pending", author="ada")
    assert 'href="/events?q=note&author=ada"' in page
    assert 'href="/events?q=note&delivery=pending"' in page
    assert '<input type="hidden" name="author" value="ada">' in page
    sent = browser.send("GET", "/events", params={"q": "", "delivery": "dead", "kind": "", "from": ""})
    assert str(sent.url).endswith("/events?delivery=dead")


def test_each_row_has_its_delivery_states(browser: Browser) -> None:
    page = browser.get("/events", project="1")
    states = [re.findall(r'class="state \w+">([^<]+)<', row) for row in page.split("<tr>")[2:]]
    assert states == [["pending 2"], ["pending 2"], ["dead letter", "pending"]]


def test_an_id_opens_the_event(browser: Browser) -> None:
    with closing(connect(browser.config.ledger.location)) as db:
        full = event_ids(db)(4)
    for typed in ("4", " 4 ", full):
        assert str(browser.send("GET", "/events", params={"q": typed}).url).endswith("/events/4")
    for typed in ("99", "evt_0123456789ab_4", '"4"', "9" * 30):
        answer = browser.send("GET", "/events", params={"q": typed})
        assert "/events?" in str(answer.url), typed
    assert "/events?" in str(browser.send("GET", "/events", params={"q": "4", "author": "ada"}).url)


def test_what_is_not_known_is_named(browser: Browser) -> None:
    for given, said in (
        ({"q": "autor:ada"}, "“autor:” is not a field"),
        ({"q": "note zebra"}, "No event has “zebra”."),
        ({"q": "author:zebra"}, "No event has “zebra” as author."),
        ({"q": "kind:isue"}, "did you mean issue?"),
        ({"destination": "three"}, "There is no destination 'three': there are one, two."),
        ({"kind": "isue"}, "No event is of kind 'isue'; did you mean issue?"),
        ({"project": "no/where"}, "No project 'no/where' is known."),
        ({"delivery": "gone"}, "There is no delivery state 'gone'"),
        ({"from": "soon"}, "'soon' is not a date or time"),
        ({"from": "2026-11-25", "to": "2026-11-24"}, "the start must be before the end"),
    ):
        page = browser.get("/events", **given)
        assert said in page, given
        assert ids(page) == []
    assert "No event has “note”" not in browser.get("/events", q="note zebra")
    assert "is not a field" not in browser.get("/events", q="author:ada https://x.example")


def test_hostile_filters_stay_words(browser: Browser) -> None:
    for word in NASTY:
        for name in ("q", "delivery", "destination", "source", "kind", "project", "author", "from"):
            answer = browser.send("GET", "/events", params={name: word})
            assert answer.status_code == 200
            assert word.strip() in unescape(checked(answer.text, f"{name}={word}"))
    for at in ("x", "2026-11-24T12:00:00.000Z", ""):
        assert (
            browser.send("GET", "/events", params={"from": "2026-11-24", "before": "5", "at": at}).status_code == 200
        )
