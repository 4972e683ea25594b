"""The intake in PostgreSQL: the server restarts, hangs or refuses, and receivers on several hosts append at once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import quote, urlsplit

import psycopg
import pytest
import structlog

from reconciler.ledger.errors import IntakeUnavailable
from reconciler.ledger.intake import async_connection, listening, postgresql, postgresql_rows
from reconciler.ledger.intake.intake import Place
from reconciler.ledger.intake.listening import listen
from reconciler.ledger.intake.postgresql import PostgresAppender
from reconciler.ledger.intake.postgresql_reader import PostgresReader
from reconciler.ledger.recording.place import Progress, note_place, note_progress
from reconciler.ledger.storage import advisory
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.views.backlog import Backlog, backlog
from reconciler.location import PostgresUrl
from tests.reconciler.ledger.test_intake import webhook
from tests.support.ledgers import ledger_location
from tests.support.service import until
from tests.support.waiting import until as settled

pytestmark = pytest.mark.postgresql


@pytest.fixture
def url(tmp_path: Path) -> Iterator[PostgresUrl]:
    with ledger_location("postgresql", tmp_path) as location:
        assert isinstance(location, PostgresUrl)
        yield location


def bodies(url: PostgresUrl) -> list[str]:
    with closing(PostgresReader(url)) as intake:
        return [one.webhook.body.decode() for one in intake.read(after=0, limit=1_000_000)]


async def append(url: PostgresUrl, *texts: str) -> None:
    async with appending(url) as intake:
        await asyncio.gather(*(intake.append(webhook(text)) for text in texts))


@asynccontextmanager
async def appending(url: PostgresUrl, **more: Any) -> AsyncIterator[PostgresAppender]:
    intake = PostgresAppender(url, **more)
    try:
        yield intake
    finally:
        await intake.close()


def ask(url: PostgresUrl, statement: LiteralString, *parameters: Any) -> list[Any]:
    with psycopg.connect(url.value, autocommit=True) as conn:
        cursor = conn.execute(statement, parameters)
        return [] if cursor.description is None else cursor.fetchall()


def end_connections(url: PostgresUrl) -> int:
    """As a restart of the server does it. Returns how many there were."""
    ended = """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE application_name = current_schema() AND pid <> pg_backend_pid()
    """
    return len(ask(url, ended))


def named(url: PostgresUrl) -> PostgresUrl:
    """With its schema as the name under which the server knows its connections."""
    [(schema,)] = ask(url, "SELECT current_schema()")
    return PostgresUrl(f"{url.value}&application_name={schema}")


@asynccontextmanager
async def locked(url: PostgresUrl) -> AsyncIterator[None]:
    """Nobody can append meanwhile."""
    async with await psycopg.AsyncConnection.connect(url.value) as conn:
        await conn.execute("SELECT pg_advisory_xact_lock(%s, hashtext(current_schema()))", (advisory.INTAKE,))
        yield


async def waits_for_lock(url: PostgresUrl) -> None:
    """Until an appender waits for the lock."""
    waits = "SELECT 1 FROM pg_stat_activity WHERE application_name = current_schema() AND wait_event = 'advisory'"
    for _ in range(1000):
        if ask(url, waits):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("nobody waits")


async def test_no_position_appears_before_one_that_a_reader_has_passed(url: PostgresUrl) -> None:
    """Several receivers append at once, in batches of different sizes. A reader that follows them skips nothing."""
    await append(url, "first")
    done = asyncio.Event()

    async def receive(number: int) -> None:
        async with appending(url) as intake:
            for n in range(60):
                size = 200_000 if (n + number) % 3 == 0 else 10
                await asyncio.gather(*(intake.append(webhook("x" * size)) for _ in range(1 + (n * number) % 7)))

    def follow() -> list[int]:
        passed: list[int] = []
        with closing(PostgresReader(url)) as intake:
            while True:
                ends = done.is_set()
                some = intake.read(after=passed[-1] if passed else 0, limit=5)
                passed += [one.position for one in some]
                if ends and not some:
                    return passed

    following = asyncio.create_task(asyncio.to_thread(follow))
    await asyncio.gather(*(receive(number) for number in range(1, 6)))
    done.set()
    passed = await following
    assert passed == [position for (position,) in ask(url, "SELECT position FROM intake ORDER BY position")]
    assert len(passed) > 300


async def test_many_share_a_commit(url: PostgresUrl, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = "SELECT count(DISTINCT xmin::text) FROM intake"
    await append(url, *(f"{n}" for n in range(1000)))
    assert ask(url, commits) == [(2,)]
    monkeypatch.setattr(postgresql, "BATCH_BYTES", 1000)
    await append(url, *("x" * 300 for n in range(9)), "y" * 2000)
    assert ask(url, commits) == [(2 + 3,)]


async def test_the_server_restarts_between_two_webhooks(url: PostgresUrl) -> None:
    """Nobody is refused for that."""
    troubles: list[str | None] = []
    url = named(url)
    async with appending(url, trouble=troubles.append) as intake:
        await intake.append(webhook("one"))
        assert end_connections(url) == 1
        conn = intake._conn
        assert conn is not None
        await asyncio.to_thread(until, lambda: not postgresql._is_silent(conn))  # its end has arrived
        await intake.append(webhook("two"))
    assert bodies(url) == ["one", "two"]
    assert troubles == []


async def test_the_server_restarts_while_it_appends(url: PostgresUrl) -> None:
    """What was not answered fails, what waits is appended, and it works again by itself."""
    troubles: list[str | None] = []
    other, url = url, named(url)
    async with appending(url, trouble=troubles.append) as intake:
        await intake.append(webhook("one"))
        async with locked(other):
            sent = intake.append(webhook("two"))
            await waits_for_lock(url)
            waits = intake.append(webhook("three"))
            assert end_connections(url) == 1
            with pytest.raises(IntakeUnavailable, match="PostgreSQL: "):
                await sent
        await waits
        assert intake.waiting == 0
        assert len(troubles) == 2
        assert troubles[-1] is None
    assert bodies(url) == ["one", "three"]


class Network:
    """Between an appender and the server. It can lose what the server answers, or let nobody through."""

    def __init__(self, url: PostgresUrl) -> None:
        self._parts = urlsplit(url.value)
        self.is_dead = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> PostgresUrl:
        where = f"{self._parts.username}@127.0.0.1:{self.port}"
        return PostgresUrl(self._parts._replace(netloc=where).geturl())

    async def end(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        for task in (
            asyncio.create_task(self._copy(reader, there[1], answers=False)),
            asyncio.create_task(self._copy(there[0], writer, answers=True)),
        ):
            self._tasks.add(task)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        try:
            while data := await reader.read(1 << 16):
                if not (answers and self.is_dead):
                    writer.write(data)
                    await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def network(url: PostgresUrl) -> AsyncIterator[Network]:
    made = Network(url)
    await made.begin()
    yield made
    await made.end()


async def test_an_answer_that_is_lost_acknowledges_nothing(
    url: PostgresUrl, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_connection, "ANSWER_S", 0.5)
    async with appending(network.url) as intake:
        await intake.append(webhook("one"))
        network.is_dead = True
        began = time.monotonic()
        with pytest.raises(IntakeUnavailable, match="not answered within"):
            await intake.append(webhook("two"))
        assert time.monotonic() - began < 5
        assert bodies(url) == ["one", "two"]  # it came to the server: nobody can know
        network.is_dead = False
        await repeated(intake, "two")
    assert bodies(url) == ["one", "two", "two"]


async def repeated(intake: PostgresAppender, text: str) -> None:
    """As a sender that tries again."""
    for _ in range(200):
        try:
            await intake.append(webhook(text))
        except IntakeUnavailable:
            await asyncio.sleep(0.05)
        else:
            return
    raise AssertionError("it is refused")


async def test_a_server_that_can_t_be_reached(url: PostgresUrl, network: Network) -> None:
    """Webhooks fail at once, and it connects again by itself."""
    troubles: list[str | None] = []
    works = asyncio.Event()

    def trouble(why: str | None) -> None:
        troubles.append(why)
        if why is None:
            works.set()

    async with appending(network.url, trouble=trouble) as intake:
        await intake.append(webhook("one"))
        port = network.port
        await network.end()
        for _ in range(20):
            with pytest.raises(IntakeUnavailable):
                await intake.append(webhook("refused"))
        await asyncio.sleep(0.5)  # it tries in vain meanwhile
        works.clear()
        await network.begin(port)
        await asyncio.wait_for(works.wait(), 20)
        await intake.append(webhook("two"))
        assert bodies(url) == ["one", "two"]
    assert troubles[0] is not None
    assert str(network.url) in troubles[0]


async def test_a_lock_that_is_held_for_too_long(url: PostgresUrl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "STATEMENT_S", 0.3)
    async with appending(url) as intake:
        await intake.append(webhook("one"))
        async with locked(url):
            with pytest.raises(IntakeUnavailable, match="statement timeout"):
                await intake.append(webhook("two"))
            with pytest.raises(IntakeUnavailable):
                await intake.check_writable()
        await repeated(intake, "three")
    assert bodies(url) == ["one", "three"]


@pytest.mark.parametrize("setting", ["synchronous_commit"])
async def test_a_server_that_acknowledges_what_is_not_on_disk(url: PostgresUrl, setting: str) -> None:
    await append(url, "one")
    unsafe = PostgresUrl(url.value + quote(f" -c {setting}=off"))
    async with appending(unsafe) as intake:
        with pytest.raises(IntakeUnavailable, match=f"{setting} is off"):
            await intake.append(webhook("two"))
    assert bodies(url) == ["one"]


async def test_a_setting_that_is_changed_later_is_seen_by_the_next_look(url: PostgresUrl) -> None:
    async with appending(url) as intake:
        await intake.check_writable()
        assert intake._conn is not None
        await intake._conn.execute("SET synchronous_commit = off")
        with pytest.raises(IntakeUnavailable, match="synchronous_commit is off"):
            await intake.check_writable()


async def test_a_look_commits(url: PostgresUrl) -> None:
    async with appending(url) as intake:
        await intake.check_writable()
        [before] = ask(url, "SELECT xmin::text, value FROM meta WHERE name = 'intake_checked'")
        await intake.check_writable()
        [after] = ask(url, "SELECT xmin::text, value FROM meta WHERE name = 'intake_checked'")
        assert before != after
        ask(url, "DROP FUNCTION append_to_intake")
        with pytest.raises(IntakeUnavailable, match="append_to_intake"):
            await intake.check_writable()


async def test_a_receiver_that_comes_first_makes_the_tables(url: PostgresUrl) -> None:
    async with appending(url) as one, appending(url) as two:
        await asyncio.gather(one.append(webhook("one")), two.append(webhook("two")))
    assert sorted(bodies(url)) == ["one", "two"]


async def test_a_server_without_the_sequence_uses_no_position_twice(url: PostgresUrl) -> None:
    """Logical replication copies rows, and no sequences."""
    await append(url, "one", "two")
    with closing(PostgresReader(url)) as intake:
        while intake.trim(through=2):
            pass
        with closing(connect(url)) as db, transaction(db):
            note_place(db, Place(intake.intake_id, 2))
        ask(url, "ALTER SEQUENCE intake_position_seq RESTART")
        await append(url, "three")
        assert [one.position for one in intake.read(after=0, limit=9)] == [3]
        ask(url, "ALTER SEQUENCE intake_position_seq RESTART")
        await append(url, "four")
        assert [one.position for one in intake.read(after=0, limit=9)] == [3, 4]


KILLED = """
import asyncio, sys
from reconciler.ledger.intake.intake import ReceivedWebhook
from reconciler.ledger.intake.postgresql import PostgresAppender
from reconciler.location import PostgresUrl

async def main():
    intake = PostgresAppender(PostgresUrl(sys.argv[1]))
    async def one(number):
        await intake.append(ReceivedWebhook("default", 1, {}, f"{number} ".encode() + b"x" * 2000))
        print(number, flush=True)
    for first in range(0, 1_000_000, 50):
        await asyncio.gather(*(one(first + n) for n in range(50)))

asyncio.run(main())
"""


@pytest.mark.parametrize("after", [1, 300])
def test_what_was_acknowledged_before_a_kill_is_there(url: PostgresUrl, after: int) -> None:
    acknowledged: list[int] = []
    with subprocess.Popen([sys.executable, "-c", KILLED, url.value], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            acknowledged.append(int(line))
            if len(acknowledged) == after:
                os.kill(process.pid, signal.SIGKILL)
    numbers = [int(body.partition(" ")[0]) for body in bodies(url)]
    assert len(acknowledged) >= after
    assert set(numbers) >= set(acknowledged)
    assert len(numbers) == len(set(numbers))
    asyncio.run(asyncio.wait_for(append(url, "-1 later"), 20))  # it holds no lock


async def test_the_recorder_is_told(url: PostgresUrl, tmp_path: Path) -> None:
    url, woken = named(url), asyncio.Event()
    await append(url, "one")

    async def told() -> None:
        await asyncio.wait_for(woken.wait(), 20)
        woken.clear()

    listening = asyncio.create_task(listen(url, woken.set))
    try:
        await told()  # it may have come before
        await append(url, "two")
        await told()
        with ledger_location("postgresql", tmp_path) as other:
            assert isinstance(other, PostgresUrl)
            await append(other, "of another ledger")
        await asyncio.sleep(0.2)  # what must not come can't be awaited
        assert not woken.is_set()
        with structlog.testing.capture_logs() as logged:
            assert end_connections(url) == 1
            await told()
        assert [one["log_level"] for one in logged] == ["warning", "info"]
        await append(url, "three")
        await told()
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def test_a_connection_that_leads_nowhere_is_made_again(
    url: PostgresUrl, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a proxy it seems open. Then nobody would be told for ever."""
    monkeypatch.setattr(async_connection, "ANSWER_S", 0.3)
    monkeypatch.setattr(listening, "LOOK_S", 0.1)
    woken = asyncio.Event()
    await append(url, "one")
    listener = asyncio.create_task(listen(network.url, woken.set))
    try:
        await asyncio.wait_for(woken.wait(), 20)
        port = network.port
        with structlog.testing.capture_logs() as logged:
            network.is_dead = True
            await settled(lambda: logged)
            await network.end()
            network.is_dead = False
            await network.begin(port)
            woken.clear()
            await asyncio.wait_for(woken.wait(), 20)
        assert "not answered within" in logged[0]["reason"]
    finally:
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)


async def test_it_is_counted_what_waits(url: PostgresUrl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql_rows, "COUNTED", 5)
    with closing(connect(url)) as db:
        assert backlog(db) == Backlog()
        async with appending(url) as intake:
            for n in range(10):
                await intake.append(webhook(f"{n}", at=n))
        first = "2026-11-24T12:00:00.123Z"
        assert backlog(db) == Backlog(10, first)
        ident = postgresql_rows.intake_id(db)
        with transaction(db):
            note_place(db, Place(ident, 4))
        assert backlog(db) == Backlog(6, "2026-11-24T12:00:00.127Z")
        with transaction(db):
            note_progress(db, Progress(ident, 8, ((2, 3),)))
        assert backlog(db) == Backlog(4, "2026-11-24T12:00:00.124Z")
        db.execute("SELECT nextval('intake_position_seq')")  # of a batch that failed
        assert backlog(db) == Backlog(4, "2026-11-24T12:00:00.124Z")
        with transaction(db):
            note_place(db, Place(ident, 10))
        assert backlog(db) == Backlog()


async def test_counting_and_reading_look_at_what_they_need(url: PostgresUrl) -> None:
    """However much waits, and however much was removed."""
    await append(url, *(f"{n}" for n in range(3000)))
    ask(url, "ANALYZE intake")

    def buffers(statement: str, *parameters: Any) -> int:
        [(plan,)] = ask(url, f"EXPLAIN (ANALYZE, BUFFERS, FORMAT json) {statement}", *parameters)
        return int(plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"])

    count = postgresql_rows.COUNT.replace("?", "%s")
    assert buffers(count, 0, 10) < 20
    assert buffers(postgresql_rows.FIRST.replace("?", "%s"), 1500) < 20
    assert buffers(postgresql_rows.LAST) < 20
