"""The dashboard over HTTP: who comes in, what a form may do, what is found, and that payloads stay words."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.config.models import Config
from reconciler.dashboard.app import dashboard_app
from reconciler.dashboard.stream import Stream
from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.forwarding.pulling import Pulls
from reconciler.ledger.intake.intake import ReceivedWebhook
from reconciler.ledger.recording import unrecorded
from reconciler.ledger.recording.unrecorded import FailedWebhook
from reconciler.ledger.storage import schema
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.storage.sqlite import SqliteDatabase
from reconciler.ledger.views import search
from reconciler.polling.knowledge import SharedLook
from reconciler.simulator.consumer import ACCEPTED, Consumer
from reconciler.simulator.ports import free_port
from tests.conftest import MakeService, to_consumer
from tests.e2e.test_delivery import post
from tests.support.service import Service, run, until

NOW = times.from_iso("2026-11-24T12:00:00.000Z")


class Dash:
    """A service's dashboard, as a browser would ask it."""

    def __init__(self, service: Service, **headers: str) -> None:
        self.service = service
        port = service.config["admin"]["port"]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers)

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.client.get(path, **more)

    @property
    def secret(self) -> str:
        found = re.search(r'name="secret" value="([^"]+)"', self.get("/").text)
        assert found is not None
        return found[1]

    def act(self, path: str, **fields: str) -> httpx.Response:
        return self.client.post(path, data={"secret": self.secret, **fields}, follow_redirects=True)


@pytest.fixture
def dash(make_service: MakeService, consumer: Consumer) -> Iterator[Dash]:
    service = make_service(destinations=[to_consumer(consumer)], admin={"port": free_port()}).start()
    service.wait_for_log("dashboard ready")
    one = Dash(service)
    yield one
    one.client.close()


def found(dash: Dash, words: str) -> list[int]:
    page = dash.get("/events", params={"q": words}).text
    return [int(ident) for ident in re.findall(r'href="/events/(\d+)"', page)]


PUSH = {
    "object_kind": "push",
    "project_id": 7,
    "ref": "refs/heads/feature/login-page",
    "before": "0" * 40,
    "after": "da1560886d4f094c3e6c9ef40349f7d38b5d27d7",
    "user_username": "ada",
    "project": {"path_with_namespace": "group/sub/app"},
    "commits": [{"id": "c5feabde2d8cd023215af4d2ceeb7a64839fc428", "title": "Make it so"}],
}
ISSUE = {
    "object_kind": "issue",
    "project_id": 7,
    "user": {"username": "grace"},
    "project": {"path_with_namespace": "group/sub/app"},
    "object_attributes": {"id": 301, "iid": 23, "title": "Login page: crash", "action": "open"},
}


def deliver(dash: Dash, *bodies: dict[str, Any]) -> None:
    for body in bodies:
        assert dash.service.post(json.dumps(body).encode()).status_code == 200


def test_an_event_is_found_by_what_people_know_of_it(dash: Dash) -> None:
    deliver(dash, PUSH, ISSUE)
    until(lambda: found(dash, "group") == [2, 1])
    for words, wanted in (
        ("kind:push", [1]),
        ("kind:issue", [2]),
        ("author:ada", [1]),
        ("author:gra", [2]),
        ("project:group/sub/app", [2, 1]),
        ("project:7", [2, 1]),
        ("branch:feature/login-page", [1]),
        ("branch:feature", [1]),
        ("commit:da15608", [1]),
        ("c5feabde2d8cd023215af4d2ceeb7a64839fc428", [1]),
        ("#23", [2]),
        ("!23", []),
        ("crash", [2]),
        ("login kind:issue", [2]),
        ('"login page"', [2]),
        ("author:ada #23", []),
        ("nothing-like-it", []),
        ('"', []),
        ("AND OR NOT *", []),
    ):
        assert found(dash, words) == wanted, words


@given(st.text(max_size=60))
def test_any_words_are_a_query(words: str) -> None:
    with closing(SqliteDatabase(sqlite3.connect(":memory:", isolation_level=None))) as db:
        schema.upgrade(db)
        assert search.find(db, words, before=10, limit=5) == []


def test_pages_say_what_the_ledger_says(dash: Dash, consumer: Consumer) -> None:
    deliver(dash, PUSH, ISSUE)
    assert consumer.wait_for(lambda c: len(c.accepted) == 2)
    until(lambda: "delivered" in dash.get("/events/2").text)
    page = dash.get("/events/1").text
    for words in ("webhook:default", "da1560886d4f094c3e6c9ef40349f7d38b5d27d7", "ada", "Replay", "commits"):
        assert words in page
    assert "group/sub/app" in dash.get("/").text
    assert dash.get("/events/99").status_code == 404
    assert dash.get("/events/" + "9" * 40).status_code == 404  # more than SQLite can hold
    for number in ("9" * 40, "\u00b2", "-1", "x"):
        assert dash.get("/events", params={"before": number}).status_code == 200
        with dash.client.stream("GET", "/stream?after=2", headers={b"Last-Event-ID": number.encode()}) as stream:
            assert next(stream.iter_lines()) == "retry: 2000"
    assert dash.get("/nothing").status_code == 404
    assert "Nothing yet" in dash.get("/runs").text
    assert "There are no dead letters" in dash.get("/dead-letters").text
    assert "There are no unrecorded webhooks" in dash.get("/unrecorded").text
    older = dash.get("/events", params={"before": 2}).text
    assert re.findall(r'href="/events/(\d+)"', older) == ["1"]


def test_buttons_do_what_they_say(dash: Dash, consumer: Consumer) -> None:
    consumer.answer = lambda _h, body: (422, {}, b"no") if b"bad" in body else ACCEPTED
    for n in range(4):
        post(dash.service, 1, n, **({"bad": 1} if n % 2 else {}))
    assert consumer.wait_for(lambda c: len(c.requests) == 4)
    until(lambda: dash.get("/dead-letters").text.count("HTTP 422") == 2)
    consumer.answer = lambda _h, _b: ACCEPTED
    assert "2 dead letters replayed." in dash.act("/dead-letters/replay", destination="consumer").text
    assert consumer.wait_for(lambda c: len(c.accepted) == 4)
    told = dash.act("/events/1/replay", destination="consumer").text
    assert "Event 1 is replayed to consumer." in told
    assert consumer.wait_for(lambda c: len(c.accepted) == 5)
    assert consumer.accepted[-1].headers["x-reconciler-replay"] == "1"
    assert "consumer is paused" in dash.act("/destinations/consumer/pause").text
    dash.service.wait_for_log("destination paused")
    assert "consumer is resumed" in dash.act("/destinations/consumer/resume").text
    assert "There is no such destination" in dash.act("/destinations/nobody/pause").text


def test_a_form_from_elsewhere_does_nothing(dash: Dash, consumer: Consumer) -> None:
    post(dash.service, 1, 1)
    assert consumer.wait_for(lambda c: len(c.accepted) == 1)
    good = dash.secret
    for data, headers in (
        ({}, {}),
        ({"secret": "guessed"}, {}),
        ({"secret": good}, {"Sec-Fetch-Site": "cross-site"}),
        ({"secret": good}, {"Sec-Fetch-Site": "same-site"}),
    ):
        answer = dash.client.post("/destinations/consumer/pause", data=data, headers=headers)
        assert answer.status_code == 403
    assert dash.get("/destinations/consumer/pause").status_code == 405
    assert "paused" not in dash.get("/").text
    large = dash.client.post("/dead-letters/replay", content=b"x" * 100_000)
    assert large.status_code == 413


def test_without_a_token_only_this_machine_s_names_are_hosts(dash: Dash) -> None:
    """A page elsewhere whose name is made to lead here (DNS rebinding) sees nothing."""
    for host in ("evil.example", "evil.example:8081", "127.0.0.1.evil.example", ""):
        assert dash.get("/", headers={"Host": host}).status_code == 403
    for host in ("localhost:8081", "127.0.0.1", "[::1]:8081"):
        assert dash.get("/", headers={"Host": host}).status_code == 200


def test_with_a_token_who_shows_it_comes_in(make_service: MakeService) -> None:
    service = make_service(admin={"port": free_port(), "token": "open-sesame-open-sesame"}).start()
    service.wait_for_log("dashboard ready")
    dash = Dash(service)
    for path in ("/", "/events", "/events/1", "/dead-letters", "/unrecorded", "/runs"):
        answer = dash.get(path)
        assert (answer.status_code, answer.headers.get("location")) == (303, "/login")
    assert dash.get("/stream").status_code == 401
    assert dash.client.post("/dead-letters/replay", data={}).status_code == 401
    assert dash.get("/", headers={"Authorization": "Bearer open-sesame-open-sesame"}).status_code == 200
    assert dash.get("/", headers={"Authorization": "Bearer wrong"}).status_code == 303
    form = re.search(r'name="secret" value="([^"]+)"', dash.get("/login").text)
    assert form is not None
    wrong = dash.client.post("/login", data={"secret": form[1], "token": "wrong"})
    assert (wrong.status_code, "Wrong token" in wrong.text) == (403, True)
    right = dash.client.post("/login", data={"secret": form[1], "token": "open-sesame-open-sesame"})
    cookie = right.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "open-sesame-open-sesame" not in cookie
    assert dash.get("/").status_code == 200
    assert dash.get("/", headers={"Host": "dash.example.com"}).status_code == 200  # it may be behind a proxy
    dash.client.close()


def test_an_exposed_dashboard_needs_a_token(make_service: MakeService) -> None:
    service = make_service(admin={"host": "0.0.0.0", "port": 1})
    service.write_config()
    done = run("serve", "-c", str(service.file))
    assert (done.returncode, "admin: needs a `token`" in done.stderr) == (2, True)


NASTY = [
    "<script>window.pwned=1</script>",
    '"><img src=x onerror=alert(1)>',
    "'; alert(1); '",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "</textarea></title></style><svg onload=alert(1)>",
    "\u2028\u202e\ufeff<b>",
    "&lt;script&gt;",
]


OURS = set(
    (
        "html head meta title link script body a header nav form label input button main section div h1 h2 h3 p "
        "ul ol li table thead tbody tr th td span svg g rect desc footer code dl dt dd article details summary "
        "select option strong pre"
    ).split()
)


class Page(HTMLParser):
    """What a browser makes of a page: its tags, attributes, links and scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[str] = []
        self.links: list[str] = []
        self.scripts: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        self.attributes += given
        self.links += [value for name in ("href", "action", "src") if (value := given.get(name))]
        if tag == "script":
            self.scripts.append(given.get("src"))


def nasty_body(n: int, word: str) -> dict[str, Any]:
    """A body that says this word wherever it can."""
    return {
        "object_kind": word,
        "project_id": n + 1,
        "ref": word,
        "user_username": word,
        "project": {"path_with_namespace": word},
        "object_attributes": {"id": n + 1, "title": word, "action": word},
        word: {word: [word, {word: word}]},
    }


def test_payloads_stay_words(dash: Dash) -> None:
    deliver(dash, *(nasty_body(n, word) for n, word in enumerate(NASTY)))
    until(lambda: f"/events/{len(NASTY)}" in dash.get("/events").text)
    pages = [
        "/",
        "/events",
        "/dead-letters?destination=%3Cscript%3E&kind=%22%3E%3Cimg%3E",
        "/events?q=%3Cscript%3E%22%3E",
    ]
    pages += [f"/events/{n + 1}" for n in range(len(NASTY))] + ["/?message=%3Cscript%3Ealert(1)%3C/script%3E"]
    for path in pages:
        checked(dash.get(path).text, path)


def checked(text: str, path: str) -> str:
    """A page that has only our own elements, scripts and links."""
    page = Page()
    page.feed(text)
    assert page.tags <= OURS, path
    assert page.scripts == ["/static/htmx.min.js", "/static/sse.min.js", "/static/copy.js"], path
    assert [name for name in page.attributes if name.startswith(("on", "style", "srcdoc"))] == [], path
    assert all(link.startswith(("/", "#")) for link in page.links), path
    assert "49{%" not in text
    return text


def test_unrecorded_webhooks_stay_words(dash: Dash) -> None:
    """Whatever is in their bodies, headers and errors, and whatever the hook in the URL is named."""
    deliver(dash, {"object_kind": "push"})  # so that the start of the service tries none of them again
    until(lambda: "/events/1" in dash.get("/events").text)
    with closing(connect(dash.service.ledger)) as db, transaction(db):
        failed = [
            FailedWebhook(ReceivedWebhook(word, Millis(1), {"X-Gitlab-Event": word}, word.encode()), word)
            for word in NASTY
        ]
        unrecorded.keep(db, failed, now=NOW)
    found = checked(dash.get("/unrecorded").text, "/unrecorded")
    assert all(word in unescape(found) for word in NASTY)
    for n in range(len(NASTY)):
        assert f"<code>gitlab-reconciler intake retry {n + 1}</code>" in found
    until(lambda: 'href="/unrecorded"' in dash.get("/").text.partition("</header>")[2])
    checked(dash.get("/").text, "/")


async def test_an_unrecorded_webhook_is_listed_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    config = Config.model_validate({"ledger": {"path": path}, "receiver": {"hooks": [{"token": "t"}]}})
    with closing(connect(config.ledger.path)) as db, transaction(db):
        one = ReceivedWebhook("default", times.from_iso("2026-11-24T11:00:00.000Z"), {}, b"secret body")
        unrecorded.keep(db, [FailedWebhook(one, "KeyError: 'id'"), FailedWebhook(one, "broken " * 100)], now=NOW)
        unrecorded.note_failure(db, 1, "KeyError: 'iid'", now=NOW)
        unrecorded.make_due(db, [2])
    made = dashboard_app(
        lambda: config,
        known=SharedLook(lambda: config),
        stream=Stream(config.ledger.path),
        pulls=Pulls(lambda: config),
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(made), base_url="http://localhost") as client:
        text = unescape((await client.get("/unrecorded")).text)
    for word in ("default", "2026-11-24 11:00:00", "2026-11-24 12:00:00", "KeyError: 'iid'", "intake retry 1<"):
        assert word in text
    assert '<td class="num">2</td>' in text
    assert "to be tried again" in text
    assert "intake retry 2<" not in text
    assert "secret body" not in text


def test_every_answer_has_the_strict_headers(dash: Dash) -> None:
    for path in ("/", "/nothing", "/static/style.css", "/events/9"):
        headers = dash.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"


def test_the_stream_tells_what_comes_and_ends_with_the_service(dash: Dash) -> None:
    deliver(dash, PUSH)
    with dash.client.stream("GET", "/stream?after=0", timeout=30) as stream:
        lines = stream.iter_lines()
        told: list[str] = []
        while "event: event" not in told:
            told.append(next(lines))
        deliver(dash, ISSUE)
        while "id: 2" not in told:
            told.append(next(lines))
        assert dash.service.stop() == 0
    again = "\n".join(told)
    assert 'href="/events/1"' in again


def test_strange_json_is_shown_found_and_filtered_all_the_same(make_service: MakeService, consumer: Consumer) -> None:
    """Lone surrogates, numbers beyond any integer, a thousand levels: recorded, delivered, and no page fails."""
    bodies = [
        b'{"object_kind": "push", "project_id": 1, "ref": "\\ud800", "user_username": "x\\udfff"}',
        b'{"object_kind": "push", "project_id": 1, "n": 123456789012345678901234567890, "e": 1e400}',
        b'{"object_kind": "push", "project_id": 1, "deep": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"object_kind": "push", "project_id": 1, "nul": "a\\u0000b"}',
    ]
    chosen = to_consumer(consumer, name="chosen", filter={"expression": "body.deep || body.n || body.nul || `true`"})
    made = to_consumer(consumer, name="made", transform={"jmespath": "body"})
    port = free_port()
    service = make_service(destinations=[chosen, made], admin={"port": port}).start()
    service.wait_for_log("dashboard ready")
    for body in bodies:
        assert service.post(body).status_code in (200, 400)
    last = json.loads(service.run("events", "--json", "--limit", "1").stdout)["id"]
    dash = Dash(service)
    until(lambda: str(last) in dash.get("/events", params={"q": "kind:push"}).text)
    for ident in range(1, last + 1):
        assert dash.get(f"/events/{ident}").status_code == 200
    dash.client.close()
    until(lambda: service.rows("SELECT count(*) FROM deliveries WHERE state IN ('pending', 'retrying')") == [(0,)])
    assert service.rows("SELECT count(*) FROM deliveries d WHERE last_error LIKE '%filter%'") == [(0,)]
    assert service.stop() == 0
