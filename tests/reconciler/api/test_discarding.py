"""Dead letters that are discarded: by the API and by the command, counted first."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reconciler.cli.app import command_line
from reconciler.cli.common import Failed
from reconciler.events import times
from reconciler.events.times import DAY, Millis
from reconciler.ledger import beside
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.upkeep.prune import Keep
from reconciler.location import Location
from tests.support.api import Client, config_for, problem, some_events

FILE = {"name": "archive", "kind": "stdout"}


def some_dead_letters(location: Location) -> None:
    """Of four events, three are dead letters of `archive`, and one of a destination that left the config."""
    some_events(location, 4, "archive", "former")
    with closing(connect(location)) as db, transaction(db):
        db.execute("UPDATE deliveries SET state = CASE WHEN event_id + destination_id <= 4 OR (event_id = 4 AND "
                   "destination_id = 2) THEN 'dead' ELSE 'delivered' END")  # fmt: skip
        db.execute("UPDATE deliveries SET state = 'delivered' WHERE destination_id = 2 AND event_id < 3")


def states(location: Location, state: str) -> list[tuple[int, int]]:
    with closing(connect(location)) as db:
        sql = "SELECT event_id, destination_id FROM deliveries WHERE state = ? ORDER BY destination_id, event_id"
        return db.execute(sql, (state,)).fetchall()


@pytest.fixture
def client(ledger_at: Location) -> Client:
    some_dead_letters(ledger_at)
    return Client(config_for(ledger_at, destinations=[FILE]))


def test_they_are_counted_first_and_then_discarded(client: Client, ledger_at: Location) -> None:
    wanted = {"destination": "archive", "project": "group/1"}
    assert client.post("/dead-letters/discard", wanted | {"dry_run": True}) == {
        "destinations": {"archive": 1}, "discarded": 0,
    }  # fmt: skip
    assert len(client.get("/dead-letters")["dead_letters"]) == 4
    assert client.post("/dead-letters/discard", wanted) == {"destinations": {"archive": 1}, "discarded": 1}
    assert states(ledger_at, "discarded") == [(1, 1)]
    assert client.post("/dead-letters/discard", {"events": ["2", "4"]}) == {
        "destinations": {"archive": 1, "former": 1}, "discarded": 2,
    }  # fmt: skip
    assert [one["id"] for one in client.get("/dead-letters")["dead_letters"]] == [3]
    assert client.post("/dead-letters/discard", {"all": True})["discarded"] == 1
    assert states(ledger_at, "discarded") == [(1, 1), (2, 1), (3, 1), (4, 2)]
    assert states(ledger_at, "delivered") == [(4, 1), (1, 2), (2, 2), (3, 2)]
    found = client.get("/events", delivery="discarded")["events"]
    assert [event["id"] for event in found] == [4, 3, 2, 1]
    assert client.get("/destinations")["destinations"][0]["dead_letters"] == 0


def test_one_can_still_be_replayed(client: Client, ledger_at: Location) -> None:
    client.post("/dead-letters/discard", {"all": True})
    assert client.post("/replays", {"dead_letters": True})["replayed"] == 0
    assert client.post("/replays", {"events": ["1"]})["replayed"] == 1
    with closing(connect(ledger_at)) as db:
        found = db.execute("SELECT state, replays FROM deliveries WHERE event_id = 1 AND destination_id = 1")
        assert found.fetchone() == ("pending", 1)


def test_the_answer_is_the_same_when_it_is_sent_again(client: Client) -> None:
    key = {"Idempotency-Key": "d1"}
    first = client.post("/dead-letters/discard", {"all": True}, **key)
    assert client.post("/dead-letters/discard", {"all": True}, **key) == first
    assert first["discarded"] == 4


def test_its_event_is_kept_as_long_as_others(ledger_at: Location) -> None:
    some_dead_letters(ledger_at)
    keep = Keep(events=Millis(DAY), dead_letters=None, attempts=None, runs=None)
    later = Millis(times.now() + 3 * DAY)
    with closing(connect(ledger_at)) as db:
        before = times.iso(Millis(times.now() - 3 * DAY))
        db.execute("UPDATE deliveries SET finished_at = ?", (before,))
        db.execute("UPDATE events SET recorded_at = ?", (before,))
        beside.prune(db, keep, now=later)
        assert db.execute("SELECT count(*) FROM events").fetchone() == (4,)
    Client(config_for(ledger_at)).post("/dead-letters/discard", {"events": ["1", "2"]})
    with closing(connect(ledger_at)) as db:
        beside.prune(db, keep, now=times.now())  # what is discarded is done with now, and not before
        assert db.execute("SELECT count(*) FROM events").fetchone() == (4,)
        beside.prune(db, keep, now=later)
        assert db.execute("SELECT id FROM events ORDER BY id").fetchall() == [(3,), (4,)]


WRONG: list[tuple[Any, str]] = [
    ({}, "say which dead letters"),
    ({"dry_run": True}, "say which dead letters"),
    ({"events": ["x"]}, "'x' is not an event ID"),
    ({"events": ["7", "1"]}, "not in this ledger: 7; nothing was discarded"),
    ({"destination": "nobody"}, "no destination 'nobody'"),
    ({"events": ["1"], "kind": "note"}, "events: can't be combined"),
    ({"all": True, "from": "soon"}, "'soon' is not a date"),
    ({"all": True, "dryrun": True}, "body.dryrun"),
]


def test_what_is_wrong_changes_nothing(client: Client, ledger_at: Location) -> None:
    for body, words in WRONG:
        found = problem(client.send("POST", "/dead-letters/discard", json=body))
        assert (found[0], words in found[1]) == (422, True), (body, found)
    assert states(ledger_at, "discarded") == []


def test_the_command_asks_first(tmp_path: Path) -> None:
    some_dead_letters(tmp_path / "ledger.db")
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({"destinations": [FILE], "receiver": {"hooks": [{"token": "t"}]}}))

    def command(*words: str, answer: str = "") -> tuple[int, str, str]:
        arguments = ["dead-letters", "discard", *words, "-c", str(file)]
        done = CliRunner().invoke(command_line(["dead-letters"]), arguments, input=answer)
        if isinstance(done.exception, Failed):
            return done.exception.code, done.stdout, done.stderr + str(done.exception)
        return done.exit_code, done.stdout, done.stderr

    code, _, said = command("--all", answer="n\n")
    assert (code, "archive: 3 to discard\nformer: 1 to discard\n" in said) == (1, True), said
    assert states(tmp_path / "ledger.db", "discarded") == []
    code, said, _ = command("--destination", "former", "--kind", "note", answer="y\n")
    told = "Discarded: 1. `replay` with their IDs delivers them after all.\n"
    assert (code, said.endswith(told)) == (0, True), said
    counts = {"archive": 2, "former": 0}
    assert json.loads(command("1", "2", "--yes", "--json")[1]) == {"destinations": counts, "discarded": 2}
    assert command("--project", "group/1", "-y")[1] == "Nothing matches.\n"
    assert command("1", "-y")[::2] == (1, "event 1: no dead letter; nothing was discarded")
    code, _, said = command()
    assert (code, "say which dead letters" in said) == (2, True)
    assert states(tmp_path / "ledger.db", "discarded") == [(1, 1), (2, 1), (4, 2)]


def test_what_becomes_a_dead_letter_after_the_count_stays_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = tmp_path / "ledger.db"
    some_dead_letters(ledger)
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({"destinations": [FILE], "receiver": {"hooks": [{"token": "t"}]}}))

    def answer(*_: Any, **__: Any) -> bool:
        with closing(connect(ledger)) as db, transaction(db):
            db.execute("UPDATE deliveries SET state = 'dead' WHERE (event_id, destination_id) IN ((4, 1), (1, 2))")
        return True

    monkeypatch.setattr("typer.confirm", answer)
    done = CliRunner().invoke(
        command_line(["dead-letters"]), ["dead-letters", "discard", "--all", "--json", "-c", str(file)]
    )
    assert json.loads(done.stdout) == {"destinations": {"archive": 3, "former": 1}, "discarded": 4}
    assert states(ledger, "dead") == [(4, 1), (1, 2)]
    assert states(ledger, "discarded") == [(1, 1), (2, 1), (3, 1), (4, 2)]
