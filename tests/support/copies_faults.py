"""What is done to copies of the service, and to their database, while they work."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from reconciler.location import PostgresUrl
from tests.support.clusters import USER, Cluster
from tests.support.copies import Copy
from tests.support.copies_proof import Fault
from tests.support.service import children


class Database:
    """A primary and its synchronous standby, which takes over once."""

    def __init__(self) -> None:
        self.primary, self.standby = Cluster(), Cluster()
        self.has_failed_over = False

    @property
    def ports(self) -> list[int]:
        return [self.primary.port, self.standby.port]

    @property
    def url(self) -> PostgresUrl:
        hosts = f"{self.primary.address},{self.standby.address}"
        return PostgresUrl(f"postgresql://{USER}@{hosts}/postgres?target_session_attrs=read-write")

    def make(self) -> None:
        self.primary.make()
        self.primary.start()
        self.standby.copy(self.primary)
        self.standby.start(wal_retrieve_retry_interval="200ms")  # commits wait for it after the primary's restart
        with psycopg.connect(f"postgresql://{USER}@{self.primary.address}/postgres", autocommit=True) as conn:
            conn.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            conn.execute("SELECT pg_reload_conf()")
        self.primary.wait_for_standby()

    def restart(self) -> None:
        """As after a power cut."""
        server = self.standby if self.has_failed_over else self.primary
        server.kill()
        server.start()

    def fail_over(self) -> None:
        """The primary is gone for good, and the standby is promoted."""
        self.primary.kill()
        self.standby.promote()
        self.has_failed_over = True

    def remove(self) -> None:
        self.standby.remove()
        self.primary.remove()


@contextmanager
def database() -> Iterator[Database]:
    made = Database()
    try:
        made.make()
        yield made
    finally:
        made.remove()


class Faults:
    """Makes faults, and notes when each began and ended. Each lasts until `meanwhile` returns."""

    def __init__(self) -> None:
        self.made: list[Fault] = []
        self._lock = threading.Lock()

    def kill(self, copy: Copy, meanwhile: Callable[[], object]) -> None:
        """SIGKILL, and start it again."""
        with self._noted("killed"):
            copy.service.kill()
            try:
                meanwhile()
            finally:
                copy.start()

    def stop(self, copy: Copy, meanwhile: Callable[[], object]) -> None:
        """SIGSTOP, and SIGCONT."""
        assert copy.service.process is not None
        parent = copy.service.process.pid
        with self._noted("stopped"):
            processes = [parent, *children(parent)]
            for pid in processes:
                os.kill(pid, signal.SIGSTOP)
            try:
                meanwhile()
            finally:
                for pid in processes:
                    os.kill(pid, signal.SIGCONT)

    def cut(self, copy: Copy, meanwhile: Callable[[], object]) -> None:
        """Its connections to the database break, and new ones are refused."""
        with self._noted("cut off"):
            for wire in copy.wires:
                wire.cut()
            try:
                meanwhile()
            finally:
                for wire in copy.wires:
                    wire.mend()

    def freeze(self, copy: Copy, meanwhile: Callable[[], object]) -> None:
        """Nothing passes between it and the database; what was sent arrives late."""
        with self._noted("frozen"):
            for wire in copy.wires:
                wire.freeze()
            try:
                meanwhile()
            finally:
                for wire in copy.wires:
                    wire.mend()

    def restart(self, server: Database) -> None:
        with self._noted("database restarted"):
            server.restart()

    def fail_over(self, server: Database) -> None:
        with self._noted("standby promoted"):
            server.fail_over()

    @contextmanager
    def _noted(self, what: str) -> Iterator[None]:
        began = time.time()
        try:
            yield
        finally:
            with self._lock:
                self.made.append(Fault(what, began, time.time()))
