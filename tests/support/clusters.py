"""PostgreSQL servers of a test's own: a primary, and a standby that every commit waits for."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

import psycopg
import pytest

from reconciler.simulator.ports import free_port
from tests.support.service import until

USER = "postgres"


def bindir() -> Path:
    """Where the server's programs are. Skips if it is not installed, but not in CI."""
    found = [Path(one).resolve().parent for one in [shutil.which("initdb")] if one]
    found = [one for one in found if (one / "pg_basebackup").exists()]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if not found:
        assert not os.environ.get("CI"), "CI needs PostgreSQL's server programs"
        pytest.skip("NOT TESTED: PostgreSQL's server programs (initdb) are not here")
    return found[0]


class Cluster:
    """A server on a port of its own. It refuses to run as root, so it runs as the user that Debian makes for it."""

    def __init__(self) -> None:
        bindir()
        self.port = free_port()
        # Beside the tests' files, in memory if these are: waiting for the disk costs nothing there.
        self.folder = Path(mkdtemp(prefix="cluster-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
        if os.geteuid() == 0:
            shutil.chown(self.folder, USER)
        self.data = self.folder / "data"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def make(self) -> None:
        self._run("initdb", "-D", str(self.data), "-U", USER, "-A", "trust", "-E", "UTF8", "--no-instructions")

    def copy(self, primary: Cluster) -> None:
        """Make it a standby of another one."""
        self._run("pg_basebackup", "-D", str(self.data), "-h", "127.0.0.1", "-p", f"{primary.port}", "-U", USER, "-R")

    def start(self, **settings: str) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        options += "".join(f" -c {name}={value}" for name, value in settings.items())
        self._run("pg_ctl", "-D", str(self.data), "-l", str(self.folder / "log"), "-o", options, "-w", "start")

    def kill(self) -> None:
        """As a power cut does it."""
        self._run("pg_ctl", "-D", str(self.data), "-m", "immediate", "-w", "stop")

    def promote(self) -> None:
        self._run("pg_ctl", "-D", str(self.data), "-w", "promote")

    def wait_for_standby(self) -> None:
        """Until a standby confirms every commit."""
        with psycopg.connect(f"postgresql://{USER}@{self.address}/postgres", autocommit=True) as conn:
            until(
                lambda: (
                    conn.execute("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'").fetchone() is not None
                )
            )

    def remove(self) -> None:
        with suppress(subprocess.CalledProcessError):
            self.kill()
        shutil.rmtree(self.folder)

    def _run(self, program: str, *arguments: str) -> None:
        owner = pwd.getpwnam(USER) if os.geteuid() == 0 else None
        subprocess.run(
            [str(bindir() / program), *arguments],
            check=True,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=None if owner is None else owner.pw_uid,
            group=None if owner is None else owner.pw_gid,
        )
