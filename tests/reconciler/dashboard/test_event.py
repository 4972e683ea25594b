"""The page of an event: what it is about, the way to GitLab, its attempts, its payload, and its request as curl."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import closing
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.dashboard.curl import command
from reconciler.dashboard.links import gitlab_link, leads_to
from reconciler.events import times
from reconciler.events.sighting import Identity, Precision, Sighting, Summary
from reconciler.events.times import MINUTE, SECOND, Millis
from reconciler.ledger.queue import destinations
from reconciler.ledger.queue.deliveries import Attempt
from reconciler.ledger.queue.destinations import DestinationSpec
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.recording.record import record
from reconciler.ledger.storage.connection import connect, transaction
from tests.reconciler.dashboard.test_app import NASTY, checked
from tests.support import outcomes
from tests.support.api import config_for
from tests.support.dashboard import Browser

NOW = times.from_iso("2026-11-24T12:00:00.000Z")
GITLAB = "https://gitlab.example:8443/git"
ISSUE = "https://gitlab.example/shop/checkout/-/issues/7"
BODY = {
    "object_kind": "issue",
    "object_attributes": {"url": ISSUE, "title": "It's broken"},
    "mark": "\x1b[31m'\u202e",
}


def one_event(path: Path, *names: str, body: Any = BODY, **summary: Any) -> None:
    """A ledger with one event, and its delivery to each of these destinations."""
    about = Summary(**{"kind": "issue", "action": "open", "author": "ada", "title": "It's broken", **summary})
    seen = Sighting(
        source="webhook:default",
        source_id="1",
        identity=Identity("issue:1", NOW, Precision.UNIQUE_ID),
        summary=about,
        seen_at=NOW,
        payload=json.dumps(body, ensure_ascii=False),
        payload_sha="1",
        headers={"Content-Type": "application/json", "X-Gitlab-Event": "Issue Hook", "X-Gitlab-Token": "open-sesame"},
    )
    with closing(connect(path)) as db, transaction(db):
        ids = destinations.sync(db, [DestinationSpec(name) for name in names], now=NOW)
        routes = [Route(ident, "project", lambda _: True) for ident in ids.values()]
        record(db, [seen], now=NOW, routes=routes)


@pytest.mark.parametrize(
    ("url", "fits"),
    [
        (ISSUE, True),
        ("http://gitlab.example/a", True),
        ("https://gitlab.example:8443/a?b=c#d", True),
        ("https://GITLAB.example", True),
        ("https://gitlab.example:9000/a", False),
        ("https://gitlab.example.evil.example/a", False),
        ("https://gitlab.example@evil.example/a", False),
        ("https://evil.example\\@gitlab.example/a", False),
        ("https://evil.example/https://gitlab.example/a", False),
        ("https://gitlab.example:8443:80/", False),
        ("https://[gitlab.example/", False),
        ("//gitlab.example/a", False),
        ("javascript://gitlab.example/%0aalert(1)", False),
        ("java\tscript:alert(1)", False),
        (" https://gitlab.example/a", False),
        ("https://gitlab.example/a\n", False),
        ('https://gitlab.example/"><b>', False),
        ("https://gitlab.example/" + "a" * 3000, False),
        (["https://gitlab.example/a"], False),
    ],
)
def test_a_link_leads_to_gitlab_only(url: Any, fits: bool) -> None:
    assert leads_to(url, GITLAB) is fits


@given(st.text(max_size=30) | st.from_regex(r"https?:[/\\]*[a-z.@:\\]*gitlab\.example[/@:a-z.\\]*"))
def test_any_url_is_judged(url: str) -> None:
    leads_to(url, GITLAB)


def test_the_link_is_to_the_nearest_thing() -> None:
    project = {"project": {"web_url": "https://gitlab.example/p"}}
    commits = {"commits": [{"url": "https://gitlab.example/old"}, {"url": "https://gitlab.example/new"}]}
    assert gitlab_link(project | commits | {"object_attributes": {"url": ISSUE}}, GITLAB) == ISSUE
    assert gitlab_link(project | commits, GITLAB) == "https://gitlab.example/new"
    assert gitlab_link(project | {"object_attributes": {"url": "https://evil.example"}}, GITLAB) == (
        "https://gitlab.example/p"
    )
    bodies: tuple[Any, ...] = ({}, [], None, "x", {"commits": ["x"]}, {"commits": {}})
    for body in bodies:
        assert gitlab_link(body, GITLAB) is None


def test_the_page_says_what_it_is_about_and_what_was_tried(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    one_event(path, "one", "two", ref="refs/heads/main")
    with closing(connect(path)) as db, transaction(db):
        for n in (1, 2):
            at = Millis(NOW + n * MINUTE)
            failed = Attempt(
                1, 1, 1, n, at, Millis(at + 5 * SECOND), 503, "http_5xx", "HTTP 503", f"busy {n} {NASTY[0]}"
            )
            outcomes.retry(db, failed, pause=Millis(0), now=at)
        outcomes.deliver(db, Attempt(1, 1, 1, 3, Millis(NOW + 3 * MINUTE), Millis(NOW + 3 * MINUTE), 200))
    wanted = [{"name": "one", "url": "https://one.example"}, {"name": "two", "kind": "stdout"}]
    browser = Browser(config_for(path, destinations=wanted, gitlab={"url": GITLAB}))
    page = browser.get("/events/1")
    for words in (
        "<h1>It's broken</h1>", "<dd>ada</dd>", "<code>refs/heads/main</code>", f'href="{ISSUE}"',
        "attempt 1 failed, HTTP 503", "after 1 min, took 5 s", f"busy 2 {NASTY[0]}", "attempt 3 accepted, HTTP 200",
        "first attempt due", "/events/1/curl?destination=one",
    ):  # fmt: skip
        assert words in page, words
    assert "/events/1/curl?destination=two" not in page
    assert page.index("attempt 1 failed") < page.index("attempt 2 failed") < page.index("attempt 3 accepted")
    text = browser.send("GET", "/events/1").text.replace(f'href="{ISSUE}"', "")
    checked(text, "/events/1")


def test_the_raw_payload_is_text_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    one_event(path, body={"a": NASTY[0]})
    browser = Browser(config_for(path))
    raw = browser.send("GET", "/events/1/payload/raw")
    assert raw.headers["content-type"] == "text/plain; charset=utf-8"
    assert raw.headers["x-content-type-options"] == "nosniff"
    assert raw.text == json.dumps({"a": NASTY[0]})
    saved = browser.send("GET", "/events/1/payload")
    assert saved.text == raw.text
    assert saved.headers["content-disposition"] == 'attachment; filename="event-1.json"'
    assert browser.send("GET", "/events/9/payload/raw").status_code == 404


def shell(text: str) -> tuple[list[str], int]:
    """What curl is given by a command, and how many curls a shell begins."""
    curl = "curl() { printf '%s\\0' \"$@\"; printf 'END\\0'; }\n"
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "--norc", "-c", curl + text], capture_output=True, check=True)
    *arguments, end, rest = done.stdout.decode().split("\0")
    assert (end, rest, done.stderr) == ("END", "", b"")
    return arguments, arguments.count("END")


WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)


@given(WORDS | st.sampled_from(["@/etc/passwd", "'; touch x; '", "$(id) `id` !! \\", "a\r\n\tb\x03\x1b[31m", *NASTY]))
@settings(max_examples=40)
def test_a_command_says_exactly_this_to_a_shell(words: str) -> None:
    text = command(f"https://one.example/{words}", [("X-A", words.strip()), ("a: b\n", "no header")], words)
    assert all(one.isprintable() or one == "\n" for one in text)
    assert [line for line in text.split("\n")[:-1] if not line.endswith(" \\")] == []
    given_, more = shell(text)
    assert more == 0
    assert given_[-2:] == ["--data-raw", words]
    value = words.strip()
    assert f"X-A: {value}" in given_ or (not value and "X-A:" in given_)
    assert "Content-Type:" in given_
    assert not any("no header" in one for one in given_)


def test_no_command_is_too_large_to_run(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    one_event(path, "one", body=BODY | {"more": "é" * 65_000})
    browser = Browser(config_for(path, destinations=[{"name": "one", "url": "https://one.example/in"}]))
    page = browser.get("/events/1/curl", destination="one")
    assert "The command would be too large to run: it has 13" in page
    assert '<a href="/events/1/payload">Download' in page
    assert 'id="command"' not in page


def test_a_request_as_curl_has_no_secrets(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    one_event(path, "one")
    wanted = {"name": "one", "url": "https://u:open-sesame@one.example/in?token=open-sesame",
              "headers": {"X-Key": "open-sesame"}, "secret": "whsec_b3Blbi1zZXNhbWUtb3Blbi1zZXNhbWU=",
              "transform": {"fields": ["object_attributes.title", "mark"]}}  # fmt: skip
    nats = {"name": "nats", "kind": "nats", "servers": ["127.0.0.1"]}
    browser = Browser(config_for(path, destinations=[wanted, nats]))
    answer = browser.send("GET", "/events/1/curl", params={"destination": "one"})
    page = unescape(checked(answer.text, "curl"))
    assert "open-sesame" not in page
    assert "Left out, because they are secret: " in page
    for name in ("X-Key", "webhook-signature", "the URL’s login", "the URL’s query"):
        assert name in page.partition("Left out")[2].partition("</p>")[0]
    found = page.partition('aria-label="Command">')[2].partition("</pre>")[0]
    given_, _ = shell(found)
    assert given_[given_.index("--url") + 1] == "https://one.example/in"
    assert json.loads(given_[-1]) == {"object_attributes": {"title": "It's broken"}, "mark": BODY["mark"]}
    assert "part of the URL’s path" not in page
    chat = {"name": "one", "url": "https://chat.example/services/open-sesame", "preset": "slack"}
    page = unescape(Browser(config_for(path, destinations=[chat])).get("/events/1/curl", destination="one"))
    assert "Left out, because they are secret: a part of the URL’s path (…). Add them" in page
    assert "open-sesame" not in page
    for name in ("nats", "nobody", ""):
        assert "There is no HTTP destination of this name" in browser.get("/events/1/curl", destination=name)
    assert browser.send("GET", "/events/9/curl?destination=one").status_code == 404
