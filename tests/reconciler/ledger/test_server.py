"""A ledger's server: who has the ledger, and whether the server can be relied on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from reconciler.events.times import Millis
from reconciler.ledger.errors import LedgerBehind, LedgerError, LedgerMissing, LedgerUnavailable, LedgerVersion
from reconciler.ledger.queue import destinations, sharing
from reconciler.ledger.queue.destinations import DestinationSpec
from reconciler.ledger.storage import advisory, server_check
from reconciler.ledger.storage.connection import connect, opened, there_is, transaction
from reconciler.ledger.storage.database import Database, Parameters, Rows
from reconciler.ledger.storage.postgresql import PostgresDatabase, hold
from reconciler.ledger.storage.postgresql import connect as connect_to_server
from reconciler.ledger.storage.served import is_served
from reconciler.ledger.storage.server import open_as_copy, open_to_copy
from reconciler.ledger.views.copies import copies, note_worker
from reconciler.location import PostgresUrl, problem
from reconciler.metrics import collectors
from tests.support.ledgers import ledger_location
from tests.support.service import until

PATIENCE_S = 5.0


@pytest.fixture
def url(tmp_path: Path) -> Iterator[PostgresUrl]:
    with ledger_location("postgresql", tmp_path, fresh=True) as location:
        assert isinstance(location, PostgresUrl)
        yield location


def test_one_copy_is_the_worker(url: PostgresUrl) -> None:
    first, is_worker = open_as_copy(url, patience_s=PATIENCE_S)
    assert first is not None
    assert is_worker
    second, is_worker = open_as_copy(url, patience_s=PATIENCE_S)
    assert second is not None
    with closing(second):
        with closing(first):
            assert not is_worker
            assert not sharing.become_worker(second)
        until(lambda: sharing.become_worker(second))
        assert sharing.look(second).worker == sharing.look(second).own
        assert is_served(url)
        assert open_to_copy(url, patience_s=PATIENCE_S, may_be_unfinished=False) is None
    until(lambda: not is_served(url))
    alone = open_to_copy(url, patience_s=PATIENCE_S, may_be_unfinished=False)
    assert alone is not None
    with closing(alone):
        assert open_as_copy(url, patience_s=PATIENCE_S) == (None, False)


def test_one_that_says_nothing_loses_it(url: PostgresUrl) -> None:
    silent, _ = open_as_copy(url, patience_s=PATIENCE_S)
    assert silent is not None
    lost: list[bool] = []
    silent.on_lost = lambda: lost.append(True)
    with closing(silent):
        held = [silent.is_held]
        until(lambda: not is_served(url), 15)
        held.append(silent.is_held)  # no longer, before the server gives it to another one
        assert held == [True, False]
        with pytest.raises(LedgerUnavailable):
            silent.execute("SELECT 1")
        assert lost == [True]


@contextmanager
def two_copies(url: PostgresUrl) -> Iterator[tuple[Database, Database]]:
    """The first is the worker. Both can deliver to three destinations."""
    first, _ = open_as_copy(url, patience_s=PATIENCE_S)
    assert first is not None
    with closing(first):
        with transaction(first):
            destinations.sync(first, [DestinationSpec(name) for name in "abc"], now=Millis(0))
            sharing.note(first, 7, [1, 2, 3])
        second, _ = open_as_copy(url, patience_s=PATIENCE_S)
        assert second is not None
        with closing(second):
            with transaction(second):
                sharing.note(second, 8, [1, 2, 3])
            yield first, second


def test_a_destination_has_one_copy(url: PostgresUrl) -> None:
    with two_copies(url) as (first, second):
        assert sharing.take(first, [1, 2]) == {1, 2}
        assert sharing.take(first, [2]) == {2}
        assert sharing.take(second, [2, 3]) == {3}
        sharing.give_back(first, [2, 3])
        assert sharing.take(second, [1, 2]) == {2}
        found = sharing.look(second)
        assert found.may_share
        assert {one: found.copies[copy].process for one, copy in found.holders.items()} == {1: 7, 2: 8, 3: 8}
        works = [(one.process, one.works, one.delivers) for one in copies(first)]
        assert works == [(7, True, ["a"]), (8, False, ["b", "c"])]
        [metric] = [one for one in collectors._destinations(first, Millis(0)) if one.name.endswith("delivered_by")]
        assert [(one.labels["destination"], one.labels["copy"].partition(" ")[2]) for one in metric.samples] == [
            ("a", "(process 7)"), ("b", "(process 8)"), ("c", "(process 8)")
        ]  # fmt: skip
        second.close()
        until(lambda: sharing.take(first, [1, 2, 3]) == {1, 2, 3})


def test_beside_a_worker_of_an_earlier_version_no_copy_delivers(url: PostgresUrl) -> None:
    """It knows no locks of destinations, and delivers to all."""
    connect(url).close()
    old = hold(url.value, advisory.SERVICE, patience_s=PATIENCE_S)
    assert old is not None
    with closing(old):
        with transaction(old):
            destinations.sync(old, [DestinationSpec("a")], now=Millis(0))
            note_worker(old, 6)
        new, is_worker = open_as_copy(url, patience_s=PATIENCE_S)
        assert new is not None
        with closing(new):
            assert not is_worker
            with transaction(new):
                assert not sharing.note(new, 7, [1]).may_share
            assert [(one.process, one.works, one.delivers) for one in copies(new)] == [
                (6, True, ["a"]),
                (7, False, []),
            ]


def test_tables_of_a_later_version(url: PostgresUrl) -> None:
    with two_copies(url) as (first, second):
        with transaction(first):
            first.execute("INSERT INTO migrations VALUES ('9999_later', '')")
        assert not sharing.look(second).may_share
        first.close()
        until(lambda: sharing.look(second).worker is None)
        assert not sharing.become_worker(second)
        with pytest.raises(LedgerVersion):
            open_as_copy(url, patience_s=PATIENCE_S)


def test_a_ledger_s_tables_are_made_by_whoever_comes_first(url: PostgresUrl) -> None:
    assert not there_is(url)
    with pytest.raises(LedgerMissing, match="there is no ledger yet"):
        connect(url, readonly=True)
    connect(url).close()
    assert there_is(url)
    with opened(url, readonly=True) as db, pytest.raises(LedgerUnavailable, match="read-only"), transaction(db):
        db.execute("DELETE FROM meta")


def test_tables_of_another_version_are_left_to_the_service_that_has_them(url: PostgresUrl) -> None:
    held, _ = open_as_copy(url, patience_s=PATIENCE_S)
    assert held is not None
    with closing(held):
        with transaction(held):
            held.execute("DELETE FROM migrations")
        with pytest.raises(LedgerBehind, match="a service has it now"):
            connect(url)
        with transaction(held):
            held.execute("INSERT INTO migrations VALUES ('9999_later', '')")
        with pytest.raises(LedgerVersion, match="later version"):
            connect(url, readonly=True)


def test_a_password_is_not_shown(url: PostgresUrl) -> None:
    secret = PostgresUrl("postgresql://me:pass%40word@db.example.com:5433/events?sslmode=require&password=secret")
    for shown in (str(secret), repr(secret), f"{secret}", "{}".format(secret), "%s" % secret):  # noqa: UP031, UP032
        assert "pass" not in shown
        assert "secret" not in shown
        assert "db.example.com:5433/events" in shown


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://u:12/34secret@h/db",
        "postgresql://u:123#secret@h/db",
        "postgresql://u:12?secret@h/db",
        "postgresql://u:s3cr%zzet@h/db",
        "postgresql://u:p[secret@h/db",
        "postgresql://h:port/db",
        "mysql://u:secret@h/db",
        "postgresql://h/d b",
    ],
)
def test_a_uri_that_could_show_its_password_is_refused_without_it(uri: str) -> None:
    wrong = problem(uri)
    assert wrong is not None
    assert "secret" not in wrong


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://u:p%40ss@h:5432/db",
        "postgresql:///db?host=/run/postgresql",
        "postgres://u@h1:1,h2:2/db?target_session_attrs=read-write",
        "postgresql://u:p@[::1]:5432/db?options=-c%20search_path%3Da",
    ],
)
def test_a_uri_that_libpq_reads(uri: str) -> None:
    assert problem(uri) is None


def test_a_read_only_server_is_not_served(url: PostgresUrl) -> None:
    connect(url).close()
    asked = f"{url.value}%20-c%20default_transaction_read_only%3Don"
    with pytest.raises(LedgerUnavailable, match="read-only"):
        open_as_copy(PostgresUrl(asked), patience_s=PATIENCE_S)


def test_a_database_of_another_program(url: PostgresUrl) -> None:
    with psycopg.connect(url.value, autocommit=True) as conn:
        conn.execute("CREATE TABLE projects (id integer)")
    with pytest.raises(LedgerError, match="tables of other programs"):
        connect(url)


def test_nothing_is_wrong_with_this_server(url: PostgresUrl) -> None:
    assert server_check.problems(url) == []


@pytest.mark.parametrize(
    ("setting", "what"),
    [("synchronous_commit%3Doff", "synchronous_commit is off"), ("synchronous_commit%3Dlocal", "")],
)
def test_settings_that_lose_webhooks(url: PostgresUrl, setting: str, what: str) -> None:
    found = server_check.problems(PostgresUrl(f"{url.value}%20-c%20{setting}"))
    assert [what in one for one in found] == ([True] if what else [])


class Pooled(PostgresDatabase):
    """A connection to a pooler that shares sessions: each transaction takes the one that is free."""

    free: list[PostgresDatabase]

    def execute(self, sql: str, parameters: Parameters = (), /) -> Rows:
        mine = self.__dict__.get("mine")
        if mine is None:
            mine = self.free.pop()
        rows = mine.execute(sql, parameters)
        if mine.in_transaction:
            self.mine = mine
        else:
            self.__dict__.pop("mine", None)
            self.free.append(mine)
        return rows


def test_a_pooler_that_shares_sessions_is_noticed(url: PostgresUrl) -> None:
    with (
        closing(connect_to_server(url.value, patience_s=PATIENCE_S)) as first,
        closing(connect_to_server(url.value, patience_s=PATIENCE_S)) as second,
    ):
        one, other = Pooled(first.conn), Pooled(second.conn)
        one.free = other.free = [first, second]
        assert "pool_mode = session" in server_check._session(one, other)[0]
