"""A ledger's server: who has the ledger, and whether the server can be relied on."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import structlog
import yaml

from reconciler.events.times import Millis
from reconciler.ledger import reminder
from reconciler.ledger.errors import LedgerBehind, LedgerError, LedgerMissing, LedgerUnavailable, LedgerVersion
from reconciler.ledger.queue import destinations, sharing
from reconciler.ledger.queue.destinations import DestinationSpec
from reconciler.ledger.storage import advisory, connection, locking, postgresql, server_check, sessions
from reconciler.ledger.storage.connection import connect, look_at, opened, there_is, transaction, unfit
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.explaining import LONGEST, explain
from reconciler.ledger.storage.postgresql import PostgresDatabase, hold
from reconciler.ledger.storage.postgresql import connect as connect_to_server
from reconciler.ledger.storage.receiver_row import ReceiverRow
from reconciler.ledger.storage.served import is_served
from reconciler.ledger.storage.server import open_as_copy, open_to_copy
from reconciler.ledger.storage.sessions import SHARED
from reconciler.ledger.views.copies import copies, note_worker
from reconciler.location import PostgresUrl, problem
from reconciler.metrics import collectors
from reconciler.service import opening
from reconciler.service.opening import open_ledger
from tests.support.denied import NOBODY
from tests.support.ledgers import ledger_location, server
from tests.support.pooler import pooler
from tests.support.service import run, until

pytestmark = pytest.mark.postgresql

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
    worker, _ = open_as_copy(url, patience_s=PATIENCE_S)
    assert worker is not None
    lost: list[bool] = []
    worker.on_lost = lambda: lost.append(True)
    with closing(worker):
        held = [worker.is_held]
        until(lambda: not is_served(url), 15)
        held.append(worker.is_held)  # no longer, before the server gives it to another one
        assert held == [True, False]
        with pytest.raises(LedgerUnavailable):
            worker.execute("SELECT 1")
        assert lost == [True]


def stop_in_a_pipeline(db: PostgresDatabase) -> None:
    """As SIGSTOP does it: the server waits for the next statement, and its own time limits do not hold there."""
    half = db.conn.pgconn
    half.enter_pipeline_mode()
    half.send_query_params(b"SELECT 1", None)
    half.send_flush_request()
    half.flush()


def test_a_worker_that_stops_in_a_pipeline_loses_the_ledger(
    url: PostgresUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "SILENT_S", 0.1)
    first, _ = open_as_copy(url, patience_s=PATIENCE_S)
    assert first is not None
    with closing(first):
        stop_in_a_pipeline(first)
        second, is_worker = open_as_copy(url, patience_s=PATIENCE_S)
        assert second is not None
        with closing(second):
            until(lambda: is_worker or sharing.become_worker(second), 5)


def test_a_writer_that_stops_in_a_pipeline_does_not_keep_others_from_writing(
    url: PostgresUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "SILENT_S", 0.1)
    with (
        closing(connect(url)),
        closing(connect_to_server(url.value, patience_s=PATIENCE_S)) as stopped,
        closing(connect_to_server(url.value, patience_s=0.2)) as other,
    ):
        stopped.begin()
        stop_in_a_pipeline(stopped)
        with pytest.raises(LedgerUnavailable):
            other.begin()
        other.begin()
        other.rollback()


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
    old = hold(url.value, advisory.SERVICE, patience_s=PATIENCE_S, first=lambda _: None)
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
        with transaction(second):
            found = sharing.note(second, 8, [1, 2, 3])
        assert [one.destinations for one in found.copies.values() if one.process == 8] == [[]]
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


def test_a_pooler_that_shares_sessions_is_noticed(url: PostgresUrl) -> None:
    with pooler(url) as between:
        assert server_check.problems(between.url) == [SHARED]
        with pytest.raises(LedgerError, match="pool_mode = session"):
            open_as_copy(between.url, patience_s=PATIENCE_S)
        with pytest.raises(LedgerUnavailable, match="pool_mode = session"):
            ReceiverRow(between.url, service=1).alive()
    held, _ = open_as_copy(url, patience_s=PATIENCE_S)  # no session of the pool has the lock
    assert held is not None
    held.close()


def test_a_server_that_says_nothing_is_given_up(url: PostgresUrl, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(url).close()
    with pooler(url, sessions=1) as between:
        patient = PostgresUrl(f"{between.url.value}&connect_timeout=2")
        row = ReceiverRow(patient, service=1)
        monkeypatch.setattr(sessions, "differ", lambda *_: False)
        row.alive()
        with look_at(patient, lambda: None) as seen:
            monkeypatch.setattr(connection, "LOOK_S", 0.1)
            seen.give_up_after(0.1)
            row._db.give_up_after(0.1)  # type: ignore[union-attr]
            between.is_silent.set()
            with pytest.raises(LedgerUnavailable, match="not answered within"):
                seen.execute("SELECT 1")
        with pytest.raises(LedgerUnavailable, match="not answered within"):
            row.alive()
        with pytest.raises(LedgerUnavailable, match="timeout"):
            open_as_copy(patient, patience_s=PATIENCE_S)


def test_a_standby_s_statements_do_not_wait_for_ever(url: PostgresUrl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "ANSWER_S", 0.3)
    with pooler(url) as between:
        silent = connect_to_server(between.url.value, patience_s=PATIENCE_S)
        with closing(silent):
            between.is_silent.set()
            with pytest.raises(LedgerUnavailable, match="not answered within"):
                silent.execute("SELECT 1")
            assert silent.conn.closed


def test_why_a_service_could_not_take_a_ledger_over(url: PostgresUrl, tmp_path: Path) -> None:
    with psycopg.connect(url.value, autocommit=True) as conn:
        assert unfit(url) is None
        connect(url).close()
        conn.execute(f"CREATE TABLE alien (); REVOKE ALL ON alien FROM {NOBODY}")  # of an extension
        assert unfit(url) is None
        [schema] = conn.execute("SELECT current_schema()").fetchone() or [""]
        other = PostgresUrl(f"{url.value}%20-c%20role%3D{NOBODY}")
        assert "no schema" in str(unfit(other))
        conn.execute(
            f"GRANT USAGE ON SCHEMA {schema} TO PUBLIC; GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO PUBLIC"
        )
        assert f"the user {NOBODY} may not read or write alerts, attempts, " in str(unfit(other))
        assert "alien" not in str(unfit(other))
        with pytest.raises(LedgerUnavailable, match="may not read or write"):
            open_as_copy(other, patience_s=PATIENCE_S)
        config = tmp_path / "config.yaml"
        config.write_text(
            yaml.safe_dump({"ledger": {"url": other.value}, "receiver": {"hooks": [{"token": "x" * 32}]}})
        )
        conn.execute(f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO PUBLIC")
        shown = run("status", "-c", str(config))
        assert shown.returncode == 0, shown.stderr
        assert f"A copy with this config can't take over: {url}: the user {NOBODY} may not" in shown.stdout
        assert "read-only" in str(unfit(PostgresUrl(f"{url.value}%20-c%20default_transaction_read_only%3Don")))
        conn.execute("INSERT INTO migrations VALUES ('9999_later', '')")
        assert "later version" in str(unfit(url))


async def test_a_copy_that_could_not_take_over_says_so_while_it_stands_by(
    url: PostgresUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reminder, "REMIND_S", 0.0)
    monkeypatch.setattr(opening, "LOOK_S", 0.0)
    monkeypatch.setattr(opening, "PAUSE_S", 0.02)
    told: list[str | None] = []
    changed, stands = asyncio.Event(), asyncio.Event()

    def trouble(why: str | None) -> None:
        told.append(why)
        changed.set()

    held, _ = open_as_copy(url, patience_s=PATIENCE_S)
    assert held is not None
    with transaction(held):
        held.execute("INSERT INTO migrations VALUES ('9999_later', '')")
    with structlog.testing.capture_logs() as logged:
        opened = asyncio.create_task(open_ledger(url, waits=stands.set, trouble=trouble))
        await asyncio.wait_for(stands.wait(), 20)
        await asyncio.wait_for(changed.wait(), 20)
        assert "later version" in str(told[0])
        held.close()  # it tries in vain
        for _ in range(500):
            if sum(one["event"].startswith("ledger not available") for one in logged) > 1:
                break
            await asyncio.sleep(0.02)
        with psycopg.connect(url.value, autocommit=True) as conn:
            conn.execute("DELETE FROM migrations WHERE name = '9999_later'")
        db, is_worker = await asyncio.wait_for(opened, 20)
        db.close()
        assert is_worker
    said = [one["event"] for one in logged if "later version" in one.get("reason", "")]
    assert said.count("ledger not available yet: webhooks are answered with 503") > 1
    assert "standing by, but this copy could not take over" in said


def test_what_is_on_disk_does_not_seem_undone(url: PostgresUrl) -> None:
    with closing(connect(url)) as db, psycopg.connect(url.value, autocommit=True) as conn:
        conn.execute("DROP SEQUENCE changes")
        with transaction(db):
            db.execute("INSERT INTO meta VALUES ('made', '1')")
        assert conn.execute("SELECT 1 FROM meta WHERE name = 'made'").fetchone() is not None


def test_a_connection_that_ends_during_a_commit(url: PostgresUrl) -> None:
    with closing(connect(url)) as db, psycopg.connect(url.value, autocommit=True) as conn:
        conn.execute(
            """
            CREATE FUNCTION end_it() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END';
            CREATE CONSTRAINT TRIGGER ends AFTER INSERT ON meta DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION end_it()
            """
        )
        with pytest.raises(LedgerUnavailable, match="nobody knows whether the last change was made"), transaction(db):
            db.execute("INSERT INTO meta VALUES ('made', '1')")


def test_an_error_is_one_clear_line(url: PostgresUrl) -> None:
    with closing(connect(url)) as db:
        with pytest.raises(psycopg.Error) as raised:
            db.execute("DO $$ BEGIN RAISE EXCEPTION '%', repeat('long ', 5000); END $$")
        said = explain(raised.value)
        assert said.startswith("PostgreSQL: long long")
        assert len(said) == LONGEST
        with pytest.raises(psycopg.Error) as raised:
            db.execute("SELECT append_to_intake('{1}', '{1}', '{1}', NULL)")
        assert explain(raised.value).endswith("violates not-null constraint")
    with pytest.raises(LedgerUnavailable) as refused:
        connect(PostgresUrl("postgresql://127.0.0.1:1,127.0.0.1:2/events"))
    assert str(refused.value).count("Connection refused") == 2
    assert "\n" not in str(refused.value)
    assert "hostaddr" not in str(refused.value)


def test_a_database_that_can_t_store_every_text() -> None:
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(server().value, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
        try:
            [found] = server_check.problems(PostgresUrl(urlsplit(server().value)._replace(path=f"/{name}").geturl()))
        finally:
            conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
    assert "encoding is LATIN1" in found


def test_a_server_with_too_few_connections(url: PostgresUrl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_check, "OF_A_COPY", 100_000)
    [found] = server_check.problems(url)
    assert "raise max_connections" in found


def test_a_server_that_can_only_be_read(url: PostgresUrl) -> None:
    [found] = server_check.problems(PostgresUrl(f"{url.value}%20-c%20default_transaction_read_only%3Don"))
    assert "read-only for this user" in found
