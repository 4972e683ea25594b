"""Keeping the ledger small and safe: what is pruned and what never is, copies, and the way back."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.events import times
from reconciler.events.times import DAY, HOUR, Millis
from reconciler.events.unreadable import Unreadable
from reconciler.ledger.coverage import unreadable
from reconciler.ledger.errors import LedgerError, LedgerInUse
from reconciler.ledger.queue import destinations
from reconciler.ledger.queue.deliveries import Attempt
from reconciler.ledger.queue.destinations import DestinationSpec
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.recording.record import record
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.storage.ids import event_ids, rename_from_here
from reconciler.ledger.storage.lock import only_service
from reconciler.ledger.upkeep import backup, prune
from reconciler.ledger.upkeep.prune import Keep, Pruned, Pruning
from reconciler.ledger.views import search
from reconciler.location import Location
from reconciler.simulator.consumer import Consumer
from reconciler.simulator.server import Simulator
from tests.conftest import PROJECT, MakeService, at_gitlab, to_consumer
from tests.e2e.test_delivery import post
from tests.support import outcomes
from tests.support.filled import filled, made
from tests.support.ledgers import nothing_kept

NOW = times.from_iso("2026-11-25T12:00:00.000Z")
OUT = Route(1, "none", lambda _: True)


def pruned(db: Any, *, now: int = NOW, **keep: Any) -> Pruned:
    pruning = Pruning(
        Keep(**({"events": None, "dead_letters": None, "attempts": None, "runs": None} | keep)), now=Millis(now)
    )
    done = False
    while not done:
        with transaction(db):
            done = pruning.step(db)
    return pruning.pruned


def ledger(folder: Path) -> Any:
    return ledger_in(folder / "ledger.db")


def ledger_in(location: Location) -> Any:
    db = connect(location)
    with transaction(db):
        destinations.sync(db, [DestinationSpec("one", "none")], now=NOW)
    return db


def attempt(event_id: int, at: int) -> Attempt:
    return Attempt(event_id, 1, event_id, 1, Millis(at), Millis(at), 200)


@pytest.fixture
def db(ledger_at: Location) -> Iterator[Any]:
    with closing(ledger_in(ledger_at)) as db:
        yield db


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(st.sampled_from(["pending", "retrying", "dead", "delivered"]), st.integers(0, 20),
                            st.integers(0, 20)), min_size=1, max_size=12),
    dead_days=st.none() | st.integers(1, 20),
)  # fmt: skip
def test_what_is_undelivered_is_never_dropped(
    db: Any, rows: list[tuple[str, int, int]], dead_days: int | None
) -> None:
    """Each row: a state, how many days ago it was recorded, and how many days ago it was finished with."""
    with nothing_kept(db):
        rows = sorted(rows, key=lambda row: -row[1])
        for n, (state, recorded, finished) in enumerate(rows):
            record(db, list(made(1, first=n)), now=Millis(NOW - recorded * DAY), routes=[OUT])
            ident = db.execute("SELECT max(id) FROM events").fetchone()[0]
            first = ident - n
            at = NOW - min(recorded, finished) * DAY
            if state == "delivered":
                outcomes.deliver(db, attempt(ident, at))
            elif state == "dead":
                outcomes.mark_dead(db, attempt(ident, at))
            elif state == "retrying":
                outcomes.retry(db, attempt(ident, at), pause=Millis(0), now=Millis(at))
        pruning = Pruning(
            Keep(Millis(10 * DAY), None if dead_days is None else Millis(dead_days * DAY), None, None), now=NOW
        )
        while not pruning.step(db):
            pass
        left = {ident for (ident,) in db.execute("SELECT id FROM events").fetchall()}
        for ident, (state, recorded, finished) in enumerate(rows, first):
            done = min(recorded, finished)
            if state in ("pending", "retrying") or (state == "dead" and (dead_days is None or done <= dead_days)):
                assert ident in left
            if state == "delivered":
                assert (ident in left) == (done <= 10 or recorded <= 10)
        for table in ("sightings", "deliveries", "attempts"):
            orphans = f"SELECT count(*) FROM {table} WHERE event_id NOT IN (SELECT id FROM events)"
            assert db.execute(orphans).fetchone() == (0,)


def test_what_could_not_be_understood_is_kept_as_long_as_events_are(ledger_at: Location) -> None:
    with closing(ledger_in(ledger_at)) as db:
        many = [Unreadable(str(n), "bad", "{}") for n in range(1200)]
        with transaction(db):
            unreadable.note(db, 42, "issues", many, now=Millis(NOW - 31 * DAY))
            unreadable.note(db, 42, "issues", many[:2], now=Millis(NOW - 29 * DAY))  # seen again
        assert pruned(db, runs=DAY) == Pruned()
        assert pruned(db, events=30 * DAY).unreadable_records == 1198
        assert {one.record_id for one in unreadable.unreadable(db)} == {"0", "1"}


def test_the_file_gets_smaller_and_ids_are_never_given_again(tmp_path: Path) -> None:
    with closing(ledger(tmp_path)) as db:
        for n in range(0, 4000, 500):
            with transaction(db):
                record(db, list(made(500, first=n, at=Millis(NOW - 40 * DAY))), now=Millis(NOW - 40 * DAY))
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        before = (tmp_path / "ledger.db").stat().st_size
        found = pruned(db, events=30 * DAY)
        assert (found.events, found.sightings) == (4000, 4000)
        assert found.pages > 100
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert (tmp_path / "ledger.db").stat().st_size < before / 5
        assert prune.horizon(db) == NOW - 40 * DAY + 3999
        assert pruned(db, events=30 * DAY) == Pruned()
        with transaction(db):
            record(db, list(made(1, first=9000)), now=NOW)
        assert db.execute("SELECT max(id) FROM events").fetchone() == (4001,)


def test_free_pages_are_given_back_many_in_a_step(tmp_path: Path) -> None:
    with closing(ledger(tmp_path)) as db:
        with transaction(db):
            record(db, list(made(2000, at=Millis(NOW - 40 * DAY))), now=Millis(NOW - 40 * DAY))
        pruning, steps = Pruning(Keep(DAY, None, None, None), now=NOW), 0
        while not db.execute("PRAGMA freelist_count").fetchone()[0]:
            with transaction(db):
                pruning.step(db)
        is_done = False
        while not is_done:
            with transaction(db):
                is_done = pruning.step(db)
            steps += 1
        assert pruning.pruned.pages > 100
        assert steps < 25


def test_attempts_and_runs_have_ages_of_their_own(ledger_at: Location) -> None:
    with closing(ledger_in(ledger_at)) as db:
        with transaction(db):
            record(db, list(made(1200)), now=NOW, routes=[OUT])
            for n in range(1200):
                outcomes.deliver(db, attempt(n + 1, NOW - (2 * DAY if n < 1100 else HOUR)))
        assert pruned(db, attempts=DAY).attempts == 1100
        assert db.execute("SELECT count(*) FROM attempts").fetchone() == (100,)
        assert db.execute("SELECT count(*) FROM events").fetchone() == (1200,)


def test_what_belongs_to_a_pruned_event_goes_with_it(ledger_at: Location) -> None:
    """In steps, and even if a younger event, which is kept, was merged into it."""
    old = Millis(NOW - 40 * DAY)
    with closing(ledger_in(ledger_at)) as db:
        for start in (0, 600):
            with transaction(db):
                record(db, list(made(600, first=start, at=old)), now=old)
        with transaction(db):
            record(db, list(made(2, first=5000)), now=NOW)
            db.execute("UPDATE events SET merged_into = 1 WHERE id = 1202")
            while search.index_step(db).more:
                pass
        found = pruned(db, events=30 * DAY)
        assert (found.events, found.sightings) == (1200, 1200)
        assert prune.horizon(db) == old + 1199
        for table in ("events", "sightings", "sighting_hashes", "search"):
            assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (2,), table
        assert pruned(db, events=30 * DAY) == Pruned()
        with transaction(db):
            record(db, list(made(1, first=9000)), now=NOW)
        assert db.execute("SELECT max(id) FROM events").fetchone() == (1203,)


def test_prune_as_a_command_and_a_backfill_into_what_was_pruned(
    make_service: MakeService, gitlab: Simulator, consumer: Consumer
) -> None:
    service = make_service(destinations=[to_consumer(consumer)], **at_gitlab(gitlab), retention={"events": "30d"})
    filled(service.ledger, 10, at=Millis(times.now() - 40 * DAY))
    service.write_config()
    done = service.run("prune", "--json")
    assert json.loads(done.stdout)["events"] == 10
    assert service.run("prune").stdout == "Nothing is old enough to delete.\n"
    day = times.iso(Millis(times.now() - 50 * DAY))[:10]
    refused = service.run("backfill", "--from", day, "--project", str(PROJECT))
    assert refused.returncode == 2
    assert "were pruned" in refused.stderr
    assert service.run("backfill", "--from", day, "--project", str(PROJECT), "--no-forward").returncode == 0


class TestBackup:
    def test_a_copy_of_one_moment_while_others_write(self, tmp_path: Path) -> None:
        filled(tmp_path / "ledger.db", 20_000)
        stop = threading.Event()

        def write() -> None:
            n = 20_000
            while not stop.is_set():
                filled(tmp_path / "ledger.db", 50, first=n)
                n += 50

        thread = threading.Thread(target=write)
        thread.start()
        try:
            copies = [backup.backup(tmp_path / "ledger.db", tmp_path / f"copy{n}.db") for n in range(3)]
        finally:
            stop.set()
            thread.join()
        counts = [copy.events for copy in copies]
        assert counts == sorted(counts)
        for copy in copies:
            assert copy.events % 50 == 0  # whole transactions
            with closing(sqlite3.connect(copy.path)) as db:
                assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                assert db.execute("SELECT count(*) FROM sightings").fetchone() == (copy.events,)
        assert list(tmp_path.glob("*.part")) == []

    def test_what_is_there_is_not_overwritten_and_a_folder_gets_a_name(self, tmp_path: Path) -> None:
        filled(tmp_path / "ledger.db", 3)
        made_ = backup.backup(tmp_path / "ledger.db", tmp_path)
        assert Path(made_.path).name.startswith("ledger-20")
        with pytest.raises(LedgerError, match="is there already"):
            backup.backup(tmp_path / "ledger.db", Path(made_.path))
        with pytest.raises(LedgerError, match="there is no ledger yet"):
            backup.backup(tmp_path / "no.db", tmp_path / "x.db")
        with pytest.raises(LedgerError):
            backup.backup(tmp_path / "ledger.db", tmp_path / "no" / "folder" / "x.db")

    def test_what_is_no_good_is_not_restored(self, tmp_path: Path) -> None:
        filled(tmp_path / "ledger.db", 300)
        copy = tmp_path / "copy.db"
        backup.backup(tmp_path / "ledger.db", copy)
        whole = copy.read_bytes()
        for wrong, why in (
            (b"no database at all" * 1000, "is no ledger"),
            (whole[: len(whole) // 2], "damaged|is no ledger"),
            (whole[:20_000] + b"\0" * 20_000 + whole[40_000:], "damaged|is no ledger"),
        ):
            copy.write_bytes(wrong)
            with pytest.raises(LedgerError, match=why):
                backup.restore(copy, tmp_path / "ledger.db")
        with closing(sqlite3.connect(tmp_path / "newer.db")) as db:
            db.executescript(
                "CREATE TABLE _sqlite_migrations (name); INSERT INTO _sqlite_migrations VALUES ('9999_x')"
            )
        with pytest.raises(LedgerError, match="newer version"):
            backup.restore(tmp_path / "newer.db", tmp_path / "ledger.db")
        with closing(connect(tmp_path / "ledger.db")) as db:
            assert db.execute("SELECT count(*) FROM events").fetchone() == (300,)
        copy.write_bytes(whole)
        with only_service(tmp_path / "ledger.db"), pytest.raises(LedgerInUse):
            backup.restore(copy, tmp_path / "ledger.db")

    def test_ids_keep_their_names_and_new_ones_get_a_new_one(self, tmp_path: Path) -> None:
        with closing(ledger(tmp_path)) as db:
            with transaction(db):
                record(db, list(made(5)), now=NOW)
            before = event_ids(db)
            with transaction(db):
                rename_from_here(db)
            after = event_ids(db)
            assert [after(n) for n in range(1, 6)] == [before(n) for n in range(1, 6)]
            assert after(6) != before(6)
            with transaction(db):
                record(db, list(made(5, first=5)), now=NOW)
                rename_from_here(db)
            third = event_ids(db)
            assert [third(n) for n in range(1, 11)] == [after(n) for n in range(1, 11)]
            assert len({before(11), after(11), third(11)}) == 3


def test_after_a_restore_nothing_is_missing_and_no_id_means_two_things(
    make_service: MakeService, gitlab: Simulator, consumer: Consumer, tmp_path: Path
) -> None:
    service = make_service(destinations=[to_consumer(consumer)], **at_gitlab(gitlab)).start()
    service.wait_for_log("caught up with GitLab")
    post(service, 1, 0)
    gitlab.world.push(PROJECT)
    assert consumer.wait_for(lambda c: len(c.accepted) == 2)
    copied = service.run("backup", str(tmp_path / "copy.db"), "--json")
    assert json.loads(copied.stdout)["events"] == 2
    running = service.run("restore", str(tmp_path / "copy.db"), "-y")
    assert running.returncode == 1
    post(service, 1, 1)  # only a webhook told: a restore loses it, and says so in its help
    gitlab.world.push(PROJECT)
    gitlab.world.push(PROJECT)
    assert consumer.wait_for(lambda c: len(c.accepted) == 5)
    service.kill()
    restored = service.run("restore", str(tmp_path / "copy.db"), "-y")
    assert (restored.returncode, "is intact: 2 events" in restored.stderr) == (0, True)
    assert len(list(service.folder.glob("ledger.db.before-restore-*"))) >= 1
    service.start()
    service.wait_for_log("service was down")
    assert consumer.wait_for(lambda c: len(c.accepted) == 7)  # the two pushes since, again
    ids: dict[str, bytes] = {}
    for request in consumer.accepted:
        assert ids.setdefault(request.event_id, request.body) == request.body
    assert numbers_of(consumer).count(0) == 1


def numbers_of(consumer: Consumer) -> list[int]:
    return [json.loads(request.body).get("n", -1) for request in consumer.accepted]


def test_what_litestream_does_to_the_file_holds_nobody_up(make_service: MakeService, consumer: Consumer) -> None:
    """It keeps a read transaction open, so that no checkpoint passes it, copies the WAL, and checkpoints itself."""
    service = make_service(destinations=[to_consumer(consumer)]).start()
    post(service, 1, 0)
    with closing(sqlite3.connect(service.ledger, isolation_level=None)) as litestream:
        assert litestream.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        litestream.execute("CREATE TABLE IF NOT EXISTS _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)")
        for n in range(1, 4):
            litestream.execute("BEGIN")
            litestream.execute("SELECT count(*) FROM _litestream_seq").fetchone()
            for m in range(20):
                post(service, 1, n * 100 + m)
            assert consumer.wait_for(lambda c, n=n: len(c.accepted) == 1 + 20 * n)  # type: ignore[misc]  # the default binds the loop variable
            litestream.execute("COMMIT")
            busy, _, _ = litestream.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            assert busy == 0
    assert service.stop() == 0
    assert json.loads(service.run("status", "--json").stdout)["events"] == 61


@pytest.mark.parametrize("year", ["0001", "9999"])
def test_no_stated_time_blocks_backfill(ledger_at: Location, year: str) -> None:
    """What was pruned happened, at the latest, a little after it was recorded."""
    recorded = Millis(NOW - 40 * DAY)
    with closing(ledger_in(ledger_at)) as db:
        with transaction(db):
            record(db, list(made(3, at=recorded)), now=recorded, routes=[])
            db.execute("UPDATE events SET happened_at = ? WHERE id = 2", [f"{year}-12-31T00:00:00.000Z"])
        assert pruned(db, events=30 * DAY).events == 3
        horizon = prune.horizon(db)
    assert horizon is not None
    assert recorded <= horizon <= recorded + DAY
