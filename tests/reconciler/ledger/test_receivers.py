"""Where receivers say that they are alive: a file beside the intake, or a table in PostgreSQL."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.events import times
from reconciler.events.intervals import Interval
from reconciler.events.times import Millis
from reconciler.ledger.coverage.downtime import QUIET
from reconciler.ledger.errors import LedgerUnavailable
from reconciler.ledger.intake.file import intake_path
from reconciler.ledger.storage import receiver_row
from reconciler.ledger.storage.connection import connect
from reconciler.ledger.storage.receiver_row import ReceiverRow
from reconciler.ledger.storage.receivers import Receiver, receivers_path
from reconciler.ledger.storage.receivers_table import LOCKS
from reconciler.ledger.views import receiving
from reconciler.ledger.views.receiving import accepting, received, receiver_trouble, running_here
from reconciler.location import Location, PostgresUrl
from tests.support.ledgers import ledger_location
from tests.support.service import until

SCRIPT = """
import sys
from pathlib import Path
from reconciler.ledger.intake import places
from reconciler.location import PostgresUrl
where = PostgresUrl(sys.argv[1]) if sys.argv[1].startswith("postgresql:") else Path(sys.argv[1])
file = places.register(where, service=7)
file.alive()
print("alive", flush=True)
for line in sys.stdin:
    file.reloaded(line.strip() or None) if line != "fails\\n" else file.alive("the disk is full")
    print("noted", flush=True)
"""


def receiver(ledger: Location) -> subprocess.Popen[str]:
    where = ledger.value if isinstance(ledger, PostgresUrl) else str(ledger)
    one = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, where], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    told(one, "alive")
    return one


def told(one: subprocess.Popen[str], what: str) -> None:
    assert one.stdout is not None
    assert one.stdout.readline() == what + "\n"


def noted(ledger: Location) -> Sequence[Receiver]:
    with closing(connect(ledger)) as db:
        return receiving._noted(db)


def running(ledger: Location) -> Sequence[Receiver]:
    with closing(connect(ledger)) as db:
        everywhere = receiving._running(db)
    assert running_here(ledger) == everywhere
    return everywhere


def test_several_receivers_share_it_and_one_that_was_killed_does_not_run(ledger_at: Location) -> None:
    ledger = ledger_at
    assert running(ledger) == []
    assert noted(ledger) == []
    with receiver(ledger) as first, receiver(ledger) as second:
        assert {(one.pid, one.service) for one in running(ledger)} == {(first.pid, 7), (second.pid, 7)}
        assert second.stdin is not None
        second.stdin.write("a mistake\n")
        second.stdin.flush()
        told(second, "noted")
        assert {one.pid: (one.reloads, one.error) for one in running(ledger)} == {
            first.pid: (0, None),
            second.pid: (1, "a mistake"),
        }
        first.kill()
        first.wait()
        until(lambda: len(running(ledger)) < 2)
        assert [one.pid for one in running(ledger)] == [second.pid]
    until(lambda: not running(ledger))
    assert len(noted(ledger)) == 2
    if isinstance(ledger, Path):
        assert receivers_path(intake_path(ledger)).stat().st_mode & 0o777 == 0o600


def test_a_receiver_was_there_since_it_began_and_until_it_ended(ledger_at: Location) -> None:
    intake = ledger_at
    with receiver(intake) as one:
        [first] = running(intake)
        assert first.since is not None
        until(lambda: times.now() > first.alive_at)
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
        told(one, "noted")
        [later] = running(intake)
        assert (later.since, later.alive_at > first.alive_at) == (first.since, True)
        assert received(intake, Interval(first.since, later.alive_at))
        assert not received(intake, Interval(Millis(first.since - 1), later.alive_at))
        one.kill()
    until(lambda: not running(intake))
    assert [one.alive_at for one in noted(intake)] == [later.alive_at]
    assert not received(intake, Interval(first.since, later.alive_at))


def test_a_receiver_says_since_when_and_why_it_can_t_append(ledger_at: Location) -> None:
    intake = ledger_at

    def tell(what: str) -> Receiver:
        assert one.stdin is not None
        one.stdin.write(what + "\n")
        one.stdin.flush()
        told(one, "noted")
        return noted(intake)[0]

    with receiver(intake) as one:
        first, later = tell("fails"), tell("fails")
        assert first.failing_since is not None
        assert (first.failure, first.failing_since <= first.alive_at) == ("the disk is full", True)
        assert (later.failure, later.failing_since) == ("the disk is full", first.failing_since)
        assert tell("works").failure == "the disk is full"  # a reload changes nothing
        one.kill()


def test_a_receiver_that_hangs_or_fails_accepts_nothing(ledger_at: Location) -> None:
    ledger = ledger_at
    with closing(connect(ledger)) as db:
        assert accepting(db, now=times.now()) is None
        with receiver(ledger) as one:
            now = times.now()
            assert (accepting(db, now=now), receiver_trouble(db, now=now)) == (True, None)
            later = Millis(now + QUIET + 1000)
            found = receiver_trouble(db, now=later)
            assert (accepting(db, now=later), found and found.trouble) == (False, "not answering")
            assert one.stdin is not None
            one.stdin.write("fails\n")
            one.stdin.flush()
            told(one, "noted")
            now = times.now()
            found = receiver_trouble(db, now=now)
            assert (accepting(db, now=now), found and found.trouble) == (False, "failing")
            one.kill()
        until(lambda: accepting(db, now=times.now()) is None)


def test_a_receiver_of_an_earlier_version_does_not_say_since_when(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.db"
    with receiver(ledger) as one:
        [found] = running(ledger)
        old = {"pid": found.pid, "service": 7, "alive_at": found.alive_at, "reloads": 0, "error": None}
        receivers_path(intake_path(ledger)).write_text(json.dumps([old]))
        assert [one.since for one in running(ledger)] == [None]
        assert not received(ledger, Interval(found.alive_at, found.alive_at))
        one.kill()


def test_a_file_that_is_no_file_of_ours_says_nothing(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.db"
    receivers_path(intake_path(ledger)).write_text("{")
    assert running(ledger) == []
    assert noted(ledger) == []


@pytest.fixture
def url(tmp_path: Path) -> Iterator[PostgresUrl]:
    with ledger_location("postgresql", tmp_path) as location:
        assert isinstance(location, PostgresUrl)
        connect(location).close()
        yield location


@pytest.mark.postgresql
def test_one_that_lost_its_connection_is_there_since_it_is_back(url: PostgresUrl) -> None:
    """It may have refused webhooks meanwhile. Another row would be another receiver."""
    with closing(connect(url)) as db, closing(ReceiverRow(url, service=7)) as own:
        own.alive()
        [before] = running(url)
        db.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE classid::bigint = ?", (LOCKS,)).fetchall()
        until(lambda: not running(url))
        with pytest.raises(LedgerUnavailable):
            own.alive()
        own.alive()
        [after] = noted(url)
        assert running(url) == [after]
        assert before.since is not None
        assert after.since is not None
        assert after.since > before.since


@pytest.mark.postgresql
def test_one_that_was_not_heard_for_long_is_removed_by_the_next(url: PostgresUrl) -> None:
    with closing(connect(url)) as db, closing(ReceiverRow(url, service=1)) as hangs:
        hangs.alive()
        for service in (2, 3):
            with closing(ReceiverRow(url, service=service)) as ended:
                ended.alive()
        long_ago = times.iso(Millis(times.now() - receiver_row.FORGOTTEN - 1))
        db.execute("UPDATE receivers SET alive_at = ? WHERE service < 3", (long_ago,))
        with closing(ReceiverRow(url, service=4)) as own:
            own.alive()
        assert sorted(one.service for one in noted(url)) == [1, 3, 4]


@pytest.mark.postgresql
def test_one_on_another_host_can_t_be_signalled(url: PostgresUrl) -> None:
    with closing(connect(url)) as db, closing(ReceiverRow(url, service=1)) as own:
        own.alive()
        assert len(running_here(url)) == 1
        db.execute("UPDATE receivers SET host = 'another'")
        assert running_here(url) == []
        assert accepting(db, now=times.now())
