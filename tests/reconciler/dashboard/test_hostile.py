"""The dashboard under attack: guessed tokens, words put into its mouth, and bodies that break a page."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse

from reconciler.config.models import Admin
from reconciler.dashboard.guard import GUESS_EVERY_S, GUESSES, MOST_GUESSERS, AdminGuard, Guesses
from reconciler.dashboard.views import LARGEST_SHOWN
from reconciler.simulator.consumer import Consumer
from reconciler.simulator.ports import free_port
from tests.conftest import MakeService, to_consumer
from tests.reconciler.dashboard.test_app import Dash, deliver
from tests.support.service import until

TOKEN = "open-sesame-open-sesame"


@pytest.fixture
def locked(make_service: MakeService) -> Iterator[Dash]:
    service = make_service(admin={"port": free_port(), "token": TOKEN}).start()
    service.wait_for_log("dashboard ready")
    one = Dash(service)
    yield one
    one.client.close()


@pytest.fixture
def dash(make_service: MakeService, consumer: Consumer) -> Iterator[Dash]:
    service = make_service(destinations=[to_consumer(consumer)], admin={"port": free_port()}).start()
    service.wait_for_log("dashboard ready")
    one = Dash(service)
    yield one
    one.client.close()


def log_in(dash: Dash, token: str) -> httpx.Response:
    form = re.search(r'name="secret" value="([^"]+)"', dash.get("/login").text)
    assert form is not None
    return dash.client.post("/login", data={"secret": form[1], "token": token})


class TestGuessing:
    @pytest.mark.parametrize("way", ["form", "bearer"])
    def test_after_a_handful_no_token_is_looked_at(self, locked: Dash, way: str) -> None:
        assert log_in(locked, TOKEN).status_code == 303
        inside = dict(locked.client.cookies)
        locked.client.cookies.clear()

        def guess(token: str) -> int:
            if way == "form":
                return log_in(locked, token).status_code
            return locked.get("/", headers={"Authorization": f"Bearer {token}"}).status_code

        assert guess("wrong") == (403 if way == "form" else 303)
        until(lambda: guess("wrong") == guess(TOKEN) == 429)
        said = locked.service.wait_for_log("wrong dashboard token")
        assert said["client"] == "127.0.0.1"
        assert (
            locked.service.wait_for_log("too many wrong dashboard tokens: tokens are ignored for a while")["level"]
            == "error"
        )
        assert TOKEN not in json.dumps(locked.service.logs)
        cookie = "; ".join(f"{name}={value}" for name, value in inside.items())
        assert locked.get("/", headers={"Cookie": cookie}).status_code == 200  # who is logged in stays so

    @given(st.lists(st.tuples(st.floats(0, 20), st.booleans()), max_size=200))
    def test_no_more_are_looked_at_than_the_rate_says(self, tries: list[tuple[float, bool]]) -> None:
        now, looked_at = 0.0, 0
        guesses = Guesses(lambda: now)
        for pause, wrong in tries:
            now += pause
            if guesses.wait_s("a") == 0 and wrong:
                guesses.wrong("a")
                looked_at += 1
            assert looked_at <= GUESSES + now / GUESS_EVERY_S
        now += guesses.wait_s("a") + 0.001
        assert guesses.wait_s("a") == 0

    @pytest.mark.parametrize(
        ("guesser", "neighbour", "other"),
        [
            ("127.0.0.2", "127.0.0.2", "127.0.0.1"),
            ("2001:db8::1", "2001:db8::ffff", "2001:db8:0:1::1"),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.1", "::ffff:192.0.2.2"),
        ],
    )
    async def test_others_are_not_locked_out(self, guesser: str, neighbour: str, other: str) -> None:
        async def page(scope: Any, receive: Any, send: Any) -> None:
            await PlainTextResponse("in")(scope, receive, send)

        guard = AdminGuard(page, Admin.model_validate({"port": 1, "token": TOKEN}))

        async def status(host: str, token: str) -> int:
            transport = httpx.ASGITransport(guard, client=(host, 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://dashboard") as client:
                return (await client.get("/", headers={"Authorization": f"Bearer {token}"})).status_code

        for _ in range(GUESSES):
            await status(guesser, "wrong")
        assert [await status(host, TOKEN) for host in (guesser, neighbour, other)] == [429, 429, 200]

    def test_it_remembers_so_many(self) -> None:
        guesses = Guesses(lambda: 0.0)
        for n in range(MOST_GUESSERS + 1):
            for _ in range(GUESSES):
                guesses.wrong(str(n))
        assert guesses.wait_s("0") == 0
        assert all(guesses.wait_s(str(n)) > 0 for n in range(1, MOST_GUESSERS + 1))

    def test_a_cookie_is_not_made_of_the_token(self, locked: Dash) -> None:
        first = log_in(locked, TOKEN).cookies
        locked.service.stop()
        locked.service.start()
        locked.service.wait_for_log("dashboard ready")
        locked.client.cookies.clear()
        assert dict(log_in(locked, TOKEN).cookies) != dict(first)


def test_a_link_can_t_put_words_into_its_mouth(dash: Dash) -> None:
    for words in ("Your token has expired: call 555-1234", "0", "", "x" * 5000):
        assert 'role="status"' not in dash.get("/", params={"message": words}).text
    done = dash.act("/destinations/consumer/pause")
    assert "consumer is paused" in done.text
    assert "paused" not in str(done.url)


ODD = [
    '{"object_kind":"push","n":123456789012345678901234567890,"m":-9999999999999999999999,"e":1e400}',
    '{"object_kind":"push","\\ud800":"\\udfff","a":{"\\udc00":[1]}}',
    '{"object_kind":"push","deep":' + "[" * 900 + "]" * 900 + "}",
    '{"object_kind":"push","deep":' + '{"a":' * 1000 + "1" + "}" * 1000 + "}",
    '{"object_kind":"push",\n\r\n\t"a" : "\x85\x9b\u202e"}',
    '{"object_kind":"push","items":{"items":1},"keys":[]}',
]


@pytest.mark.parametrize("body", ODD)
def test_every_body_has_a_page_and_is_shown(dash: Dash, body: str) -> None:
    service = dash.service
    assert service.post(body.encode()).status_code == 200
    until(lambda: 'href="/events/1"' in dash.get("/events").text)
    page = dash.get("/events/1")
    assert page.status_code == 200
    assert dash.get("/events/1/payload").content == body.encode()
    with dash.client.stream("GET", "/stream?after=0") as stream:
        assert any("/events/1" in line for line in stream.iter_lines())
    as_json = service.run("events", "show", "1", "--json")
    assert as_json.returncode == 0, as_json.stderr
    if "deep" not in body:
        assert json.loads(as_json.stdout)["payload"] == json.loads(body)
    for arguments in (
        ("events", "show", "1"),
        ("events",),
        ("events", "--json"),
        ("destinations", "test", "consumer", "--json"),
    ):
        done = service.run(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), arguments


def test_a_large_body_is_a_download(dash: Dash) -> None:
    body = b'{"object_kind":"push","list":[' + b",".join([b"1"] * LARGEST_SHOWN) + b"]}"
    assert dash.service.post(body).status_code == 200
    page = dash.get("/events/1")
    assert page.status_code == 200
    assert len(page.content) < 20_000
    assert "too large to show" in page.text
    got = dash.get("/events/1/payload")
    assert got.content == body
    assert got.headers["content-type"] == "application/json"
    assert got.headers["content-disposition"] == 'attachment; filename="event-1.json"'
    assert got.headers["x-content-type-options"] == "nosniff"
    assert dash.get("/events/9/payload").status_code == 404
    assert dash.get(f"/events/{'9' * 40}/payload").status_code == 404


def test_a_row_that_no_parser_takes_is_shown_as_it_is(dash: Dash) -> None:
    deliver(dash, {"object_kind": "push"})
    with sqlite3.connect(dash.service.ledger) as db:
        db.execute("UPDATE sightings SET payload = ?", ("[" * 100_000,))
    assert dash.get("/events/1").status_code == 200
    assert dash.service.run("events", "show", "1").returncode == 0
    shown = json.loads(dash.service.run("events", "show", "1", "--json").stdout)
    assert shown["payload"] == "[" * 100_000
