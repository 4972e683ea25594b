"""The file in which receivers say that they are alive."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from reconciler.events import times
from reconciler.events.intervals import Interval
from reconciler.events.times import Millis
from reconciler.ledger.coverage.downtime import QUIET
from reconciler.ledger.intake.file import intake_path
from reconciler.ledger.storage.connection import connect
from reconciler.ledger.storage.receivers import Receiver, noted, receivers_path, running
from reconciler.ledger.views.receiving import accepting, received, receiver_trouble
from tests.support.service import until

SCRIPT = """
import sys
from pathlib import Path
from reconciler.ledger.coverage.downtime import QUIET
from reconciler.ledger.intake.file import intake_path
from reconciler.ledger.storage.connection import connect
from reconciler.ledger.storage.receivers import ReceiverFile
file = ReceiverFile(Path(sys.argv[1]), service=7)
file.alive()
print("alive", flush=True)
for line in sys.stdin:
    file.reloaded(line.strip() or None) if line != "fails\\n" else file.alive("the disk is full")
    print("noted", flush=True)
"""


def receiver(intake: Path) -> subprocess.Popen[str]:
    one = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(intake)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    told(one, "alive")
    return one


def told(one: subprocess.Popen[str], what: str) -> None:
    assert one.stdout is not None
    assert one.stdout.readline() == what + "\n"


def test_several_receivers_share_the_file_and_one_that_was_killed_does_not_run(tmp_path: Path) -> None:
    intake = tmp_path / "ledger.db.intake"
    assert running(intake) == []
    assert noted(intake) == []
    with receiver(intake) as first, receiver(intake) as second:
        assert {(one.pid, one.service) for one in running(intake)} == {(first.pid, 7), (second.pid, 7)}
        assert second.stdin is not None
        second.stdin.write("a mistake\n")
        second.stdin.flush()
        told(second, "noted")
        assert {one.pid: (one.reloads, one.error) for one in running(intake)} == {
            first.pid: (0, None),
            second.pid: (1, "a mistake"),
        }
        first.kill()
        first.wait()
        assert [one.pid for one in running(intake)] == [second.pid]
    assert running(intake) == []
    assert len(noted(intake)) == 2
    assert receivers_path(intake).stat().st_mode & 0o777 == 0o600


def test_a_receiver_was_there_since_it_began_and_until_it_ended(tmp_path: Path) -> None:
    intake = tmp_path / "ledger.db.intake"
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
    assert [one.alive_at for one in noted(intake)] == [later.alive_at]
    assert not received(intake, Interval(first.since, later.alive_at))


def test_a_receiver_says_since_when_and_why_it_can_t_append(tmp_path: Path) -> None:
    intake = tmp_path / "ledger.db.intake"

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


def test_a_receiver_that_hangs_or_fails_accepts_nothing(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.db"
    with closing(connect(ledger)) as db:
        assert accepting(db, now=times.now()) is None
        with receiver(intake_path(ledger)) as one:
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
        assert accepting(db, now=times.now()) is None


def test_a_receiver_of_an_earlier_version_does_not_say_since_when(tmp_path: Path) -> None:
    intake = tmp_path / "ledger.db.intake"
    with receiver(intake) as one:
        [found] = running(intake)
        old = {"pid": found.pid, "service": 7, "alive_at": found.alive_at, "reloads": 0, "error": None}
        receivers_path(intake).write_text(json.dumps([old]))
        assert [one.since for one in running(intake)] == [None]
        assert not received(intake, Interval(found.alive_at, found.alive_at))
        one.kill()


def test_a_file_that_is_no_file_of_ours_says_nothing(tmp_path: Path) -> None:
    receivers_path(tmp_path / "intake").write_text("{")
    assert running(tmp_path / "intake") == []
    assert noted(tmp_path / "intake") == []
