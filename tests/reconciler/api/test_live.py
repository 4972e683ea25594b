"""The stream of new events: none is left out or comes twice, and the stream ends with the service."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from reconciler.api.stream import MOST_LISTENERS, PAUSE_S, Listeners
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.views import news as views
from reconciler.ledger.views.browse import Filter
from reconciler.ledger.views.news import news
from reconciler.ledger.views.search import index_step
from reconciler.location import Location, PostgresUrl
from reconciler.simulator.ports import free_port
from tests.conftest import MakeService
from tests.support.api import BASE, Client, config_for, problem, some_events
from tests.support.filled import filled


class Listener:
    """What a stream sends, event by event, and the `Last-Event-ID` that a browser would send next."""

    def __init__(self, lines: Iterator[str], last: str = "") -> None:
        self._lines = lines
        self.last = last

    def next(self) -> tuple[str, Any]:
        """The next event's type and data. Fails if only comments come, which would keep the stream open for ever."""
        kind, data, comments = "message", "", 0
        for line in self._lines:
            comments += line.startswith(":")
            assert comments < 3, "no event came"
            name, _, value = line.partition(": ")
            if name == "id":
                self.last = value
            elif name == "event":
                kind = value
            elif name == "data":
                data += value
            elif not line and data:
                return kind, json.loads(data)
        raise EOFError

    def ids(self, count: int) -> list[int]:
        return [self.next()[1]["id"] for _ in range(count)]


def stream_url(service: Any) -> str:
    return f"http://127.0.0.1:{service.config['admin']['port']}{BASE}/events/stream"


def push(branch: str, project: int = 7) -> bytes:
    return json.dumps({"object_kind": "push", "project_id": project, "ref": f"refs/heads/{branch}"}).encode()


def test_it_goes_on_where_it_ended(make_service: MakeService) -> None:
    service = make_service(admin={"port": free_port()}).start()
    service.wait_for_log("dashboard ready")
    service.post(push("before"))
    with httpx.stream("GET", stream_url(service), timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        listener = Listener(lines)
        service.post(push("one"))
        kind, event = listener.next()
        assert (kind, event["id"], event["ref"]) == ("message", 2, "refs/heads/one")
        listed = httpx.get(stream_url(service).removesuffix("/stream"), params={"limit": 1}).json()
        assert listed["events"] == [event]
    service.post(push("two"))
    with httpx.stream("GET", stream_url(service), timeout=30, headers={"Last-Event-ID": listener.last}) as answer:
        again = Listener(answer.iter_lines(), listener.last)
        service.post(push("three"))
        assert again.ids(2) == [3, 4]
        assert service.stop() == 0
        with pytest.raises(EOFError):
            again.next()
    assert again.last.endswith("_4")


def test_a_stream_that_ends_before_the_first_event_says_where_to_go_on(make_service: MakeService) -> None:
    service = make_service(admin={"port": free_port()}).start()
    service.wait_for_log("dashboard ready")
    service.post(push("before"))
    with httpx.stream("GET", stream_url(service), timeout=30) as answer:
        lines = answer.iter_lines()
        first = [next(lines) for _ in range(3)]
    assert first[0] == "retry: 2000"
    service.post(push("meanwhile"))
    last = first[1].removeprefix("id: ")
    with httpx.stream("GET", stream_url(service), timeout=30, headers={"Last-Event-ID": last}) as answer:
        assert Listener(answer.iter_lines()).ids(1) == [2]


def test_a_client_that_reads_nothing_does_not_keep_the_service(make_service: MakeService) -> None:
    service = make_service(admin={"port": free_port()}).start()
    service.wait_for_log("dashboard ready")
    filled(service.location, 3000)
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect(("127.0.0.1", service.config["admin"]["port"]))
        one.sendall(f"GET {BASE}/events/stream HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 0\r\n\r\n".encode())
        assert one.recv(15) == b"HTTP/1.1 200 OK"
        assert service.stop() == 0


def through(location: Location, wanted: Filter, words: str | None = None) -> tuple[list[int], list[int]]:
    """The ids of all events that match, look by look, and where each look ended."""
    found, ends, last = list[int](), list[int](), 0
    with closing(connect(location)) as db:
        while True:
            some = news(db, wanted, words, after=last)
            assert len(some.events) <= views.EVENTS_A_LOOK
            found += [event["id"] for event in some.events]
            if some.through == last:
                return found, ends
            last = some.through
            ends.append(last)


def test_each_event_is_seen_once_in_looks_of_bounded_size(
    ledger_at: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "IDS_A_LOOK", 50)
    monkeypatch.setattr(views, "EVENTS_A_LOOK", 20)
    count = 71
    filled(ledger_at, count)
    assert through(ledger_at, Filter())[0] == list(range(1, count + 1))
    of_one = [n for n in range(1, count + 1) if n % 5 == 1]
    assert through(ledger_at, Filter(project=1))[0] == of_one
    assert through(ledger_at, Filter(project="group/none")) == ([], [51, count])
    with closing(connect(ledger_at)) as db, transaction(db):
        while index_step(db).more:
            pass
    filled(ledger_at, 10, first=count)  # not in the index yet
    assert through(ledger_at, Filter(kind="note"), "project:group/1")[0] == of_one
    assert through(ledger_at, Filter(project=2), "project:group/1") == ([], [51, count])


@pytest.mark.parametrize("wanted", [Filter(), Filter(project="group/none")])
async def test_one_that_resumes_far_back_pauses_when_a_look_found_nothing(
    wanted: Filter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "IDS_A_LOOK", 10)
    filled(tmp_path / "ledger.db", 35)
    pauses, wait_for = list[float](), asyncio.wait_for

    async def noted(waited: Any, seconds: float) -> Any:
        pauses.append(seconds)
        return await wait_for(waited, seconds)

    monkeypatch.setattr(asyncio, "wait_for", noted)
    stream = Listeners(tmp_path / "ledger.db")
    ends = []
    async with aclosing(stream.follow(0, lambda db, last: news(db, wanted, None, after=last))) as told:
        async for one in told:
            assert isinstance(one, views.News)
            ends.append(one.through)
            if one.through == 35:
                break
    assert (ends, pauses) == ([11, 22, 33, 35], [] if wanted.project is None else [PAUSE_S] * 3)


def test_pruned_events_hold_nothing_up(ledger_at: Location) -> None:
    filled(ledger_at, 3)
    with closing(connect(ledger_at)) as db, transaction(db):
        if isinstance(ledger_at, PostgresUrl):
            db.execute("SELECT setval('event_numbers', ?)", (1_000_000,))
        else:
            db.execute("UPDATE sqlite_sequence SET seq = 1000000 WHERE name = 'events'")
    filled(ledger_at, 1, first=3)
    assert through(ledger_at, Filter()) == ([1, 2, 3, 1_000_001], [2001, 1_000_001])


WRONG = ["x", "evt_1", "1_x", "-1", "9" * 30, "99", "evt_0_1"]


def test_a_place_that_is_none_is_refused(ledger_at: Location) -> None:
    some_events(ledger_at, 3)
    client = Client(config_for(ledger_at))
    client.stream.stop()  # what is taken for right ends at once
    for text in WRONG:
        status, detail = problem(client.send("GET", "/events/stream", headers={"Last-Event-ID": text}))
        assert (status, "Last-Event-ID: " in detail) == (422, True), text
    assert "query.delivery" in problem(client.send("GET", "/events/stream", params={"delivery": "dead"}))[1]
    assert "from, to" in problem(client.send("GET", "/events/stream", params={"from": "soon"}))[1]


def test_there_are_not_too_many_listeners(ledger_at: Location) -> None:
    some_events(ledger_at, 1)
    client = Client(config_for(ledger_at))
    client.stream._listeners = MOST_LISTENERS
    client.stream.stop()
    answer = client.send("GET", "/events/stream")
    assert problem(answer) == (503, "too many streams are open")
    assert answer.headers["retry-after"] == "60"


def test_it_says_when_the_ledger_can_not_be_read(make_service: MakeService) -> None:
    service = make_service(admin={"port": free_port()}).start()
    service.wait_for_log("dashboard ready")
    service.post(push("one"))
    with httpx.stream("GET", stream_url(service), timeout=30, headers={"Last-Event-ID": "0"}) as answer:
        listener = Listener(answer.iter_lines())
        assert listener.ids(1) == [1]
        service.ledger.rename(service.folder / "elsewhere.db")
        kind, said = listener.next()
        assert (kind, said["status"]) == ("problem", 503)
        (service.folder / "elsewhere.db").rename(service.ledger)
        service.post(push("two"))
        assert listener.ids(1) == [2]
