"""One service on one ledger, by whatever name it calls the file; in processes of their own, as services are."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.ledger.errors import LedgerInUse, LedgerUnavailable
from reconciler.ledger.storage.connection import connect, touch, transaction
from reconciler.ledger.storage.lock import only_service, service_process
from tests.support.service import until

HOLD = """
import sys
from pathlib import Path
from reconciler.ledger.storage.lock import only_service
with only_service(Path(sys.argv[1]), make=True):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "ledger.db"
    connect(path).close()
    return path


def holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def symlink(ledger: Path) -> Path:
    link = ledger.parent.parent / "link.db"
    link.symlink_to(ledger)
    return link


def linked_folder(ledger: Path) -> Path:
    folder = ledger.parent.parent / "folder"
    folder.symlink_to(ledger.parent)
    return folder / ledger.name


def hard_link(ledger: Path) -> Path:
    link = ledger.parent.parent / "hard.db"
    link.hardlink_to(ledger)
    return link


def other_spelling(ledger: Path) -> Path:
    return ledger.parent / ".." / ledger.parent.name / ledger.name


def lock_removed(ledger: Path) -> Path:
    ledger.with_name("ledger.db.lock").unlink()
    return ledger


@pytest.mark.parametrize("other", [symlink, linked_folder, hard_link, other_spelling, lock_removed])
def test_a_second_one_is_refused(ledger: Path, other: Callable[[Path], Path]) -> None:
    with holder(ledger) as process:
        name = other(ledger)
        with pytest.raises(LedgerInUse), only_service(name):
            pass
        process.kill()
    with only_service(name):  # the kernel gave it back
        pass


def test_its_process_is_known_by_every_path(ledger: Path) -> None:
    with holder(ledger) as process:
        assert service_process(ledger) == service_process(symlink(ledger)) == process.pid
        process.kill()
    assert service_process(ledger) is None


def test_sqlite_s_locks_go_on_beside_it(ledger: Path) -> None:
    """A lock of SQLite's, held by the service, keeps another process out; another's keeps the service out."""
    with only_service(ledger), closing(connect(ledger, patience_s=0)) as db:
        with transaction(db):
            touch(db)
            write = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
            done = subprocess.run(
                [sys.executable, "-c", write, str(ledger)], capture_output=True, text=True, check=False
            )
            assert "database is locked" in done.stderr
        with closing(sqlite3.connect(ledger, timeout=0)) as beside:
            beside.execute("BEGIN IMMEDIATE")
        with transaction(db):
            touch(db)


def test_a_first_start_makes_the_file_and_locks_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.db"
    with holder(path) as process:
        with pytest.raises(LedgerInUse), only_service(path):
            pass
        assert (path.stat().st_size, path.stat().st_mode & 0o777) == (0, 0o600)
        process.kill()


def test_where_nothing_can_be_made_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(LedgerUnavailable, match=r"can't be opened for writing: File exists"),
        only_service(tmp_path / "file" / "ledger.db"),
    ):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("mode", ["folder", "file"])
def test_a_folder_or_a_file_that_is_not_ours(tmp_path: Path, mode: str) -> None:
    """As somebody else, who may not write there."""
    folder = tmp_path / "ledgers"
    ledger = folder / "ledger.db"
    connect(ledger).close()
    for parent in (folder, *tmp_path.parents, tmp_path):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    ledger.chmod(0o644)
    if mode == "file":
        folder.chmod(0o777)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            for use in (lambda: only_service(ledger).__enter__(), lambda: connect(ledger)):
                try:
                    use()
                except LedgerUnavailable as error:
                    assert str(ledger) in str(error)
                else:
                    os._exit(2)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_who_asks_whether_a_service_runs_keeps_none_from_starting(ledger: Path) -> None:
    only_lock = ledger.with_name(ledger.name + ".lock")
    only_lock.touch()
    with only_lock.open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)  # as `service_process` does, for a moment
        started = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(ledger)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert started.stdout is not None
        waited_for = Path(f"/proc/{started.pid}/fd")
        until(lambda: any(fd.resolve() == only_lock.resolve() for fd in waited_for.iterdir()))
    assert started.stdout.readline() == "held\n"
    started.communicate()
