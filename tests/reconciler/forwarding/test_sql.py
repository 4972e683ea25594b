"""Tables in the real SQLite, PostgreSQL and MariaDB: each event once, whatever is in it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import create_engine, inspect, make_url, text
from sqlalchemy.pool import NullPool

from reconciler.config.destination_kinds import find_kind
from reconciler.config.load import ConfigError, load
from reconciler.events import times
from reconciler.events.sighting import Recovery, Summary
from reconciler.forwarding.kind import attempt, attempt_batch
from reconciler.forwarding.kinds.sql import Sql
from reconciler.forwarding.message import Answer, Message
from reconciler.forwarding.rounds import sent_in_parts
from reconciler.forwarding.sql_table import TableUnfit
from reconciler.ledger.queue.deliveries import Outgoing
from reconciler.ledger.views.export import Exported
from tests.conftest import MakeService
from tests.e2e.test_delivery import post, states
from tests.support.brokers import broker
from tests.support.ledgers import server
from tests.support.service import until
from tests.support.wire import Wire

POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.postgresql)
DATABASES = ["sqlite", POSTGRESQL, "mysql"]
SERVERS = DATABASES[1:]


class Place:
    """A table of the test's own, and somebody else who looks at it and changes it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.table = f"events_{uuid.uuid4().hex[:12]}"
        parsed = make_url(url)
        driver = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}.get(parsed.drivername, "sqlite")
        self.engine = create_engine(parsed.set(drivername=driver), poolclass=NullPool)

    def run(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for one in statements:
                connection.execute(text(one.replace("TABLE_NAME", self.table)))

    def rows(self) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            found = connection.execute(text(f"SELECT * FROM {self.table} ORDER BY id")).mappings()
            return [dict(one) for one in found]

    def is_there(self) -> bool:
        return inspect(self.engine).has_table(self.table)

    def kind(self, **keys: Any) -> Sql:
        settings = {"name": "d", "kind": "sql", "url": self.url, "table": self.table, "timeout": "30s"}
        kind: Sql = Sql(Sql.config.model_validate(settings | keys))
        return kind


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    name = request.param
    if name == "sqlite":
        yield Place(f"sqlite:///{tmp_path / 'events.db'}")
        return
    if name == "postgresql":
        found = Place(make_url(server().value).set(drivername=name).render_as_string(hide_password=False))
    else:
        with broker("mariadb", tmp_path) as port:
            found = Place(f"mysql://root@127.0.0.1:{port}/test")
    yield found
    found.run("DROP TABLE IF EXISTS TABLE_NAME")


in_each = pytest.mark.parametrize("place", DATABASES, indirect=True)
in_servers = pytest.mark.parametrize("place", SERVERS, indirect=True)


def message(number: int, body: bytes = b"{}", *, recovery: Recovery | None = None, **about: Any) -> Message:
    at = "2026-11-24T10:00:00.123Z"
    event = Outgoing(
        event_id=number,
        happened_at=at,
        source="webhook:default",
        sighting_id=1,
        recovery=recovery,
        headers={},
        payload=body.decode(errors="replace"),
        summary=Summary(**({"kind": "push"} | about)),
        recorded_at=at,
        seen_at=at,
    )
    return Message(f"evt_x_{number}", "1", {}, {}, body, times.now(), "project:1", event)


async def sent(kind: Sql, messages: Sequence[Message], timeout_s: float = 30) -> list[Answer]:
    """Send a batch as the outbox does."""

    async def send(some: Sequence[Message]) -> Sequence[Answer]:
        return await attempt_batch(kind, some, timeout_s=timeout_s)

    return await sent_in_parts(messages, send, target=kind.target, halve=kind.batch_fails_whole)


def errors(answers: Sequence[Answer]) -> list[str | None]:
    return [answer.error_class for answer in answers]


@in_each
async def test_a_row_keeps_what_databases_do_not_like(place: Place) -> None:
    kind = place.kind()
    body = rb'{"zero": "\u0000", "huge": 1e400, "long": 12345678901234567890123, "half": "\ud800", "e": "'
    body += '😀\\"%s %(x)s :y"}'.encode()
    strange = message(1, body, title="a\0b 😀 \ud800'\\", author="😀" * 30_000, project_id=2**62)
    rebuilt = message(2, b"no JSON \0 \xff", recovery=Recovery("api", unknown=["a.é"], redacted=["b"]))
    assert errors(await sent(kind, [strange, rebuilt])) == [None, None]
    first, second = place.rows()
    assert first["payload"] == body.decode()
    assert (first["title"], first["author"]) == ("a\ufffdb 😀 \ufffd'\\", "😀" * 30_000)
    assert (first["id"], first["kind"], first["project_id"]) == ("evt_x_1", "push", 2**62)
    nulls = ["action", "project_path", "ref", "object", "recovered"]
    assert [first[name] for name in nulls] == [None] * len(nulls)
    at = first["happened_at"]
    at = datetime.fromisoformat(at) if isinstance(at, str) else at
    assert (at if at.tzinfo else at.replace(tzinfo=UTC)) == datetime(2026, 11, 24, 10, 0, 0, 123_000, UTC)
    assert second["payload"] == "no JSON \ufffd \ufffd"
    assert (second["recovered"], json.loads(second["unknown"]), second["redacted"]) == ("api", ["a.é"], '["b"]')
    await kind.close()


@in_each
async def test_an_event_that_comes_again_overwrites_its_row_and_leaves_others_columns(place: Place) -> None:
    kind = place.kind()
    assert errors(await sent(kind, [message(1), message(2)])) == [None, None]
    place.run("ALTER TABLE TABLE_NAME ADD COLUMN note VARCHAR(9) DEFAULT 'new'")
    place.run("UPDATE TABLE_NAME SET note = 'seen' WHERE id = 'evt_x_2'")
    assert errors(await sent(kind, [message(2, b'{"better": 1}', action="open"), message(3)])) == [None, None]
    assert (await attempt(kind, message(1), timeout_s=30)).accepted
    rows = [(one["id"], one["payload"], one["action"], one["note"]) for one in place.rows()]
    assert rows == [
        ("evt_x_1", "{}", None, "new"),
        ("evt_x_2", '{"better": 1}', "open", "seen"),
        ("evt_x_3", "{}", None, "new"),
    ]
    await kind.close()


@in_servers
async def test_what_is_too_long_for_a_column_of_the_user_s_is_found_in_its_batch(place: Place) -> None:
    kind = place.kind()
    assert errors(await sent(kind, [message(0)])) == [None]
    is_mysql = place.url.startswith("mysql")
    place.run("ALTER TABLE TABLE_NAME " + ("MODIFY title VARCHAR(5)" if is_mysql else "ALTER title TYPE varchar(5)"))
    found = await sent(kind, [message(n, title="too long" if n == 7 else "short") for n in range(1, 20)])
    assert errors(found) == [None] * 6 + ["rejected"] + [None] * 12
    assert "title" in (found[6].error or "") or "too long" in (found[6].error or "")
    assert len(place.rows()) == 19
    await kind.close()


@pytest.mark.parametrize("place", ["mysql"], indirect=True)
async def test_what_mysql_takes_no_packet_of_is_rejected_before_it_is_sent(place: Place) -> None:
    kind = place.kind()
    fits, too_large = message(1, b'"' * 8_000_000), message(2, b'"' * 9_000_000)  # each is escaped: two bytes
    found = await sent(kind, [fits, too_large, message(3)], timeout_s=30)
    assert errors(found) == [None, "rejected", None]
    assert "max_allowed_packet" in (found[1].error or "")
    assert [one["id"] for one in place.rows()] == ["evt_x_1", "evt_x_3"]
    await kind.close()


@in_servers
async def test_a_constraint_of_the_user_s_holds_events_back_and_loses_none(place: Place) -> None:
    kind = place.kind()
    assert errors(await sent(kind, [message(0)])) == [None]
    place.run("ALTER TABLE TABLE_NAME ADD CONSTRAINT no_tags CHECK (kind <> 'tag')")
    found = await sent(kind, [message(1), message(2, kind="tag")])
    assert errors(found) == ["not_accepted"] * 2 or errors(found) == ["database_failed"] * 2
    assert "no_tags" in (found[0].error or "")
    assert "evt_x" not in (found[0].error or "")
    assert len(place.rows()) == 1, "one transaction"
    place.run("ALTER TABLE TABLE_NAME DROP CONSTRAINT no_tags")
    assert errors(await sent(kind, [message(1), message(2, kind="tag")])) == [None, None]
    await kind.close()


@in_each
async def test_a_table_that_does_not_fit_is_named_and_can_be_mended(place: Place) -> None:
    kind = place.kind()
    assert (await kind.check()).endswith(f"{place.table}: connected, the table will be created")
    assert not place.is_there()
    columns = [name for name in Exported.__struct_fields__ if name not in ("sources", "payload", "project_id")]
    kept = ", ".join(f"{name} TEXT" if name != "id" else "id VARCHAR(99)" for name in columns)
    kept = kept.replace("happened_at TEXT", "happened_at TIMESTAMP NULL").replace("_at TEXT", "_at TIMESTAMP NULL")
    place.run(f"CREATE TABLE TABLE_NAME ({kept}, project_id BIGINT)")
    answer = await attempt(kind, message(1), timeout_s=30)
    assert (answer.error_class, answer.rejected) == ("table_unfit", False)
    assert f"{place.table} has no column payload: add it" in (answer.error or "")
    place.run("ALTER TABLE TABLE_NAME ADD COLUMN payload TEXT")
    with pytest.raises(TableUnfit, match="may have an id twice"):
        await kind.check()
    place.run("CREATE UNIQUE INDEX TABLE_NAME_id ON TABLE_NAME (id)")
    assert (await kind.check()).endswith("connected, the table is there")
    assert (await attempt(kind, message(1), timeout_s=30)).accepted
    await kind.close()


@in_each
async def test_a_table_that_is_dropped_is_created_again(place: Place) -> None:
    kind = place.kind()
    assert (await attempt(kind, message(1), timeout_s=30)).accepted
    place.run("DROP TABLE TABLE_NAME")
    assert (await attempt(kind, message(2), timeout_s=30)).error_class == "database_failed"
    assert (await attempt(kind, message(2), timeout_s=30)).accepted
    assert [one["id"] for one in place.rows()] == ["evt_x_2"]
    await kind.close()


@in_servers
async def test_a_database_that_is_away_or_says_nothing_gets_the_events_later(place: Place) -> None:
    url = make_url(place.url)
    with Wire(url.port or 5432) as wire:
        kind = place.kind(url=str(url.set(port=wire.port)))
        assert errors(await sent(kind, [message(1)])) == [None]
        wire.cut()
        assert errors(await sent(kind, [message(2)])) == ["connection"]
        assert errors(await sent(kind, [message(2)])) == ["connection"]
        wire.mend()
        assert errors(await sent(kind, [message(2)])) == [None]
        wire.freeze()
        assert errors(await sent(kind, [message(3), message(4)], timeout_s=0.3)) == ["timeout"] * 2
        assert errors(await sent(kind, [message(3)], timeout_s=0.3)) == ["timeout"], "while it connects"
        wire.mend()  # what was given up goes on: both may insert the rows, and one then fails
        while errors(await sent(kind, [message(3), message(4)])) != [None, None]:
            pass
        await kind.close()
    assert [one["id"] for one in place.rows()] == [f"evt_x_{n}" for n in (1, 2, 3, 4)]


async def test_a_lock_is_waited_for_beside_the_event_loop(tmp_path: Path) -> None:
    place = Place(f"sqlite:///{tmp_path / 'events.db'}")
    kind, impatient = place.kind(), place.kind(timeout="1ms")
    assert (await attempt(kind, message(1), timeout_s=30)).accepted
    other = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    waiting = asyncio.create_task(attempt(kind, message(2), timeout_s=30))
    assert "database is locked" in ((await attempt(impatient, message(3), timeout_s=30)).error or "")
    assert not waiting.done()
    other.execute("ROLLBACK")
    assert (await waiting).accepted
    assert (await attempt(impatient, message(3), timeout_s=30)).accepted
    await kind.close()
    await impatient.close()
    other.close()
    assert len(place.rows()) == 3


@pytest.mark.parametrize("place", [POSTGRESQL], indirect=True)
async def test_no_statement_is_left_behind_a_lock_in_postgresql(place: Place) -> None:
    kind, impatient = place.kind(), place.kind(timeout="200ms")
    assert (await attempt(kind, message(1), timeout_s=30)).accepted
    waiting = text(f"SELECT 1 FROM pg_locks WHERE NOT granted AND relation = '{place.table}'::regclass")
    with place.engine.connect() as other:
        other.execute(text(f"LOCK TABLE {place.table}"))
        assert not (await attempt(impatient, message(2), timeout_s=30)).accepted
        until(lambda: other.execute(waiting).first() is None)
        other.rollback()
    assert (await attempt(kind, message(2), timeout_s=30)).accepted
    await kind.close()
    await impatient.close()


@pytest.mark.postgresql
async def test_a_table_in_a_schema() -> None:
    place = Place(make_url(server().value).set(drivername="postgresql").render_as_string(hide_password=False))
    schema = f"s_{uuid.uuid4().hex[:12]}"
    place.table = f"{schema}.events"
    kind = place.kind()
    assert "does not exist" in ((await attempt(kind, message(1), timeout_s=30)).error or "")
    place.run(f"CREATE SCHEMA {schema}")
    try:
        assert (await attempt(kind, message(1), timeout_s=30)).accepted
        assert [one["id"] for one in place.rows()] == ["evt_x_1"]
        await kind.close()
    finally:
        place.run(f"DROP SCHEMA {schema} CASCADE")


@pytest.mark.parametrize("place", ["mysql"], indirect=True)
async def test_no_error_shows_the_password(place: Place) -> None:
    kind = place.kind(url=str(make_url(place.url)).replace("root@", "root:hunter2@"))
    answer = await attempt(kind, message(1), timeout_s=30)
    assert "Access denied" in (answer.error or "")
    assert "hunter2" not in f"{answer}{kind.address}{kind._destination!r}"
    await kind.close()


def loaded(folder: Path, **keys: Any) -> Any:
    file = folder / "config.yaml"
    config = {"receiver": {"hooks": [{"token": "t"}]}, "destinations": [{"name": "d", "kind": "sql", **keys}]}
    file.write_text(yaml.safe_dump(config))
    return load(file, {}).destinations[0]


def test_the_url_may_be_in_a_file_and_a_file_is_beside_the_config(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgres://u:p%40ss@h/d\n")
    from_file = loaded(tmp_path, url_file="url")
    assert find_kind("sql")(from_file).address == "h:5432/d: gitlab_events"
    assert from_file.url.get_secret_value() == "postgresql+psycopg://u:p%40ss@h/d"
    found = find_kind("sql")(loaded(tmp_path, url="sqlite:///events.db", table="a.b"))
    assert found.address == f"{tmp_path}/events.db: a.b"


def test_destinations_may_share_a_file_but_not_with_the_ledger(tmp_path: Path) -> None:
    def load_with(*urls: str) -> list[Path]:
        some = [{"name": f"d{n}", "kind": "sql", "url": url, "table": f"t{n}"} for n, url in enumerate(urls)]
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump({"receiver": {"hooks": [{"token": "t"}]}, "destinations": some}))
        return [one.written_file.path for one in load(file, {}).destinations if one.written_file is not None]

    assert load_with("sqlite:///a.db", "sqlite:///./a.db", "postgresql://h/d") == [tmp_path / "a.db"] * 2
    for url in ("sqlite:///ledger.db", f"sqlite:///file:{tmp_path}/ledger%2Edb?uri=true"):
        with pytest.raises(ConfigError, match=r"destinations\[1\]\.url: is the same file as ledger\.path"):
            load_with("sqlite:///a.db", url)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"url": "postgresql://u:hunter2@h:x/d"}, "url: should be a URL like postgresql://"),
        ({"url": "postgresql://u:hunter2@x@h/d"}, "written as %XX"),
        ({"url": "hunter2"}, "url: should be a URL like postgresql://"),
        ({"url": "nonsense://u:hunter2@h/d"}, "SQLAlchemy has no dialect nonsense"),
        ({"url": "mssql+pyodbc://u:hunter2@h/d"}, "needs a driver: the one that mssql+pyodbc names"),
        ({"url": "postgresql+psycopg_async://u:hunter2@h/d"}, "is a driver for asyncio"),
        ({"url": "mysql://u:hunter2@h"}, "it names no database"),
        ({"url": "sqlite://"}, "it names no database"),
        ({"url": "sqlite:///e.db", "table": "a; DROP"}, "table: "),
    ],
)
def test_a_mistake_is_named_and_shows_no_password(tmp_path: Path, keys: dict[str, str], expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        loaded(tmp_path, **keys)
    assert expected in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_a_table_has_what_an_export_has_after_kills(make_service: MakeService, tmp_path: Path) -> None:
    place = Place(f"sqlite:///{tmp_path / 'events.db'}")
    to = {"name": "d", "kind": "sql", "url": place.url, "table": place.table, "batch": {"max": 10}}
    service = make_service(destinations=[to])
    for part in range(2):
        service.start()
        for n in range(20):
            post(service, n % 3, part * 20 + n)
        service.kill()
    service.start()
    until(lambda: all(state == "delivered" for state, *_ in states(service)))
    assert service.run("destinations", "test", "d", "--send").returncode == 0
    service.stop()
    exported = [json.loads(line) for line in service.run("export").stdout.splitlines()]
    rows = {one["id"]: one for one in place.rows()}
    tests = [ident for ident in rows if ident.startswith("test_")]
    assert len(tests) == 1
    assert len(exported) == len(rows) - 1 == 40
    for one in exported:
        row = rows[one["id"]]
        assert row.keys() == one.keys() - {"sources"}
        for name in ("happened_at", "recorded_at", "seen_at"):
            row[name] = row[name].replace(" ", "T")[:23] + "Z"
        row |= {name: json.loads(row[name]) for name in ("unknown", "redacted", "payload")}
        assert row == {name: value for name, value in one.items() if name != "sources"}
