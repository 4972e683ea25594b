"""What the API shows: the same as commands with `--json`, in the shapes that OpenAPI names, page by page."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from reconciler.api import known, models
from reconciler.api.queries import DeadLetterQuery, EventQuery, Page, cursor
from reconciler.cli.app import command_line
from reconciler.events import times
from reconciler.ledger.queue.in_the_way import InTheWay
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.views import copies, status, unknowns
from reconciler.ledger.views.search import index_step
from reconciler.location import Location
from tests.reconciler.ledger.test_unreadable_rows import fill
from tests.support.api import Client, config_for, problem, some_events
from tests.support.filled import filled

SHAPES: dict[str, type[BaseModel]] = {
    "/status": known.Status,
    "/events": models.Events,
    "/events/1": models.WholeEvent,
    "/destinations": models.Destinations,
    "/dead-letters": models.DeadLetters,
    "/projects": known.Projects,
    "/coverage": known.Coverage,
    "/gaps": known.Gaps,
    "/runs": known.Runs,
    "/intake": known.Intake,
}
DESTINATIONS = [{"name": name, "kind": "stdout"} for name in ("one", "two")]


@pytest.fixture
def client(ledger_at: Location) -> Client:
    """With a ledger that has something of everything."""
    with closing(connect(ledger_at)) as db, transaction(db):
        fill(db)
        while index_step(db).more:
            pass
    return Client(config_for(ledger_at, destinations=DESTINATIONS))


def test_answers_have_the_shapes_that_openapi_names(client: Client) -> None:
    empty = set()
    for path, shape in SHAPES.items():
        found = client.get(path)
        shape.model_validate(found)
        empty |= {f"{path}: {name}" for name, value in found.items() if value == []}
    assert empty <= {"/status: copies", "/gaps: switched_off"}


STRUCTS = [
    (status.Status, known.Status),
    (status.DestinationStatus, models.DestinationStatus),
    (InTheWay, models.InTheWay),
    (copies.Copy, known.Copy),
    (unknowns.Unknown, known.Unknown),
]


@pytest.mark.parametrize(("struct", "model"), STRUCTS, ids=lambda one: one.__name__)
def test_nothing_of_a_view_is_missing(struct: type[msgspec.Struct], model: type[BaseModel]) -> None:
    assert set(model.model_fields) == set(struct.__struct_fields__)


def test_it_says_what_the_commands_say(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "ledger.db")) as db, transaction(db):
        fill(db)
    file = tmp_path / "config.yaml"
    sections = {
        "destinations": DESTINATIONS,
        "ledger": {"path": "ledger.db"},
        "receiver": {"hooks": [{"token": "t"}]},
    }
    file.write_text(json.dumps(sections))
    client = Client(config_for(tmp_path / "ledger.db", destinations=DESTINATIONS))

    def command(*arguments: str) -> Any:
        done = CliRunner().invoke(command_line(arguments[:1]), [*arguments, "--json", "-c", str(file)])
        return [json.loads(line) for line in done.stdout.splitlines()]

    assert [client.get("/events/2")] == command("events", "show", "2")
    assert client.get("/events")["events"] == command("events", "list")[::-1]
    assert client.get("/dead-letters")["dead_letters"] == command("dead-letters", "list")
    assert [client.get("/destinations")["destinations"]] == command("destinations", "list")
    assert [client.get("/intake")] == command("intake", "list")
    [gaps] = command("gaps")
    assert client.get("/coverage")["complete"] == gaps["complete"]
    assert client.get("/gaps").keys() | {"complete"} == gaps.keys()
    assert [one.keys() for one in client.get("/gaps")["gaps"]] == [one.keys() for one in gaps["gaps"]]
    [said] = command("status")
    assert client.get("/status").keys() == said.keys()


def test_a_payload_is_the_bytes_that_came(tmp_path: Path) -> None:
    some_events(tmp_path / "ledger.db", 1)
    raw = '{ "n": 1e400,  "deep": [[]], "text": "\\ud800 \u00e9" }'
    with closing(connect(tmp_path / "ledger.db")) as db, transaction(db):
        db.execute("UPDATE sightings SET payload = ?", (raw,))
    client = Client(config_for(tmp_path / "ledger.db"))
    assert client.send("GET", "/events/1/payload").content == raw.encode()
    assert client.get("/events/1")["payload"]["deep"] == [[]]


@pytest.mark.parametrize("since", [{}, {"from": "2026-11-01"}], ids=["recorded", "happened"])
def test_pages_have_everything_once_while_more_comes(ledger_at: Location, since: dict[str, str]) -> None:
    now = times.from_iso("2026-11-24T12:00:00.000Z")
    filled(ledger_at, 7, at=now)
    client = Client(config_for(ledger_at))
    found, more = list[int](), dict[str, str]()
    while True:
        page = client.get("/events", limit=3, **since, **more)
        found += [event["id"] for event in page["events"]]
        if page["next"] is None:
            break
        more = {"cursor": page["next"]}
        filled(ledger_at, 1, first=100 + len(found), at=now)
    assert found == [7, 6, 5, 4, 3, 2, 1]


def test_pages_of_dead_letters_have_everything_once(ledger_at: Location) -> None:
    some_events(ledger_at, 3, "b", "a")
    with closing(connect(ledger_at)) as db, transaction(db):
        db.execute("UPDATE deliveries SET state = 'dead'")
    client = Client(config_for(ledger_at))
    found = list[tuple[int, str]]()
    page: dict[str, Any] = {"next": ""}
    while page["next"] is not None:
        more = {"cursor": page["next"]} if page["next"] else {}
        page = client.get("/dead-letters", limit=1, **more)
        found += [(letter["id"], letter["destination"]) for letter in page["dead_letters"]]
    assert found == [(n, name) for n in (3, 2, 1) for name in ("a", "b")]
    assert len(client.get("/dead-letters", destination="b", project="group/1")["dead_letters"]) == 1


def test_the_payload_of_a_merged_event_is_where_it_was_merged_into(ledger_at: Location) -> None:
    some_events(ledger_at, 2)
    with closing(connect(ledger_at)) as db, transaction(db):
        db.execute("UPDATE events SET merged_into = 1 WHERE id = 2")
    client = Client(config_for(ledger_at))
    found = problem(client.send("GET", "/events/2/payload"))
    assert found == (404, "event 2 is the same as event 1, which has the payload")
    assert client.get("/events/2")["merged_into"] == 1


def test_filters(client: Client) -> None:
    every = [event["id"] for event in client.get("/events")["events"] if event["kind"] == "issue"]
    for found, asked in (
        (every, {"kind": "issue", "author": "ada", "action": "close", "project": "group/project", "from": "1d"}),
        (every, {"kind": "issue", "q": "author:ada one"}),
        (every[:1], {"q": "one", "limit": 1, "project": 7}),
        ([], {"q": "one", "author": "grace"}),
        ([2], {"delivery": "dead"}),
        ([3], {"delivery": "retrying", "q": "one"}),
        ([1], {"source": "project_events"}),
        ([], {"action": "open"}),
        ([], {"to": "2d"}),
    ):
        assert [event["id"] for event in client.get("/events", **asked)["events"]] == found, asked


@pytest.mark.parametrize("path", ["/events/1", "/status"])
def test_what_a_client_has_is_not_sent_again(ledger_at: Location, path: str) -> None:
    some_events(ledger_at, 1, "one")
    client = Client(config_for(ledger_at, destinations=DESTINATIONS))
    first = client.send("GET", path)
    tag = first.headers["etag"]
    for had in (tag, f'"other", W/{tag}', "*"):
        again = client.send("GET", path, headers={"If-None-Match": had})
        assert (again.status_code, again.headers["etag"], again.content) == (304, tag, b""), had
    with closing(connect(ledger_at)) as db, transaction(db):
        db.execute("UPDATE deliveries SET state = 'dead', last_error = 'changed' WHERE event_id = 1")
    changed = client.send("GET", path, headers={"If-None-Match": tag})
    assert (changed.status_code, changed.headers["etag"] != tag) == (200, True)


WRONG: list[tuple[str, int, str]] = [
    ("/events?limit=0", 422, "query.limit"),
    ("/events?limit=100000000000000000000", 422, "query.limit"),
    ("/events?projct=7", 422, "query.projct"),
    ("/events?from=yesterdayish", 422, "from, to: 'yesterdayish' is not a date"),
    ("/events?from=2026-11-02&to=2026-11-01", 422, "the start must be before the end"),
    ("/events?delivery=lost", 422, "query.delivery"),
    ("/events?q=" + "x" * 600, 422, "query.q"),
    ("/events?cursor=%C3%A9", 422, "cursor: belongs to another list"),
    ("/events?cursor=eA==", 422, "cursor: belongs to another list"),
    (f"/events?cursor={cursor(EventQuery, 7, 'garbage')}&from=1d", 422, "cursor: belongs to another list"),
    (f"/events?cursor={cursor(Page, 7)}", 422, "cursor: belongs to another list"),
    (f"/dead-letters?cursor={cursor(DeadLetterQuery, 7)}", 422, "cursor: belongs to another list"),
    (f"/dead-letters?cursor={cursor(DeadLetterQuery, (1 << 63) - 1, 'a')}", 422, "cursor: belongs to another list"),
    (f"/runs?cursor={cursor(Page, 7, 'x')}", 422, "cursor: belongs to another list"),
    (f"/runs?cursor={cursor(EventQuery, 7)}", 422, "cursor: belongs to another list"),
    ("/events?kind=push&kind=note", 422, "kind: is given twice"),
    ("/events?since=1d", 422, "query.since"),
    ("/events/99", 404, "there is no event 99"),
    ("/events/99/payload", 404, "there is no event 99"),
    ("/events/evt_0_1", 404, "made by another ledger"),
    ("/events/%00", 422, "is not an event ID"),
    ("/events/99999999999999999999", 422, "is not an event ID"),
    ("/nothing", 404, "there is nothing at this path"),
    ("/backfills/%0A", 404, "there is nothing at this path"),
    ("/replays", 405, "GET is not possible"),
]


def test_whatever_is_wrong_is_named_in_problem_details(ledger_at: Location) -> None:
    some_events(ledger_at, 1)
    client = Client(config_for(ledger_at))
    for path, code, words in WRONG:
        found = problem(client.send("GET", path))
        assert (found[0], words in found[1]) == (code, True), (path, found)
    assert client.get("/events", **{"from": "999999999999w", "author": "a\0b"})["events"] == []


def test_a_ledger_that_is_not_there_is_a_503(tmp_path: Path) -> None:
    found = problem(Client(config_for(tmp_path / "ledger.db")).send("GET", "/events"))
    assert (found[0], "there is no ledger yet" in found[1]) == (503, True)
