"""Batches into the real brokers: in order, with a bad message among them, and with a broker that dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import aiokafka
import confluent_kafka
import msgspec
import nats
import pytest
import redis.asyncio
from nats.js.api import StreamConfig

from reconciler.config.destination_kinds import find_kind
from reconciler.events import times
from reconciler.forwarding.kind import Kind, attempt_batch
from reconciler.forwarding.message import NOT_SENT, Answer, Message
from reconciler.forwarding.rounds import sent_in_parts
from tests.support.brokers import broker
from tests.support.mqtt import Subscriber, subscribed


def message(number: int, *, project: int = 42, body: bytes | None = None, kind: str = "push") -> Message:
    about = {"project_id": str(project), "project_path": "group/a.project", "kind": kind, "action": ""}
    headers = {"Content-Type": "application/json", "webhook-id": f"evt_x_{number}"}
    body = f'{{"n": {number}}}'.encode() if body is None else body
    return Message(f"evt_x_{number}", str(project), about, headers, body, times.now(), f"project:{project}")


def made(kind: str, **keys: Any) -> Kind:
    found = find_kind(kind)
    settings = {"name": "d", "kind": kind, "timeout": "3s", "batch": {"max": 100}}
    one: Kind = found(found.config.model_validate(settings | keys))
    return one


async def sent(kind: Kind, messages: Sequence[Message], timeout_s: float = 3) -> list[Answer]:
    """Send a batch as the outbox does."""

    async def send(some: Sequence[Message]) -> Sequence[Answer]:
        return await attempt_batch(kind, some, timeout_s=timeout_s)

    return await sent_in_parts(messages, send, target=kind.target, halve=kind.batch_fails_whole)


def errors(answers: Sequence[Answer]) -> list[str | None]:
    return [answer.error_class for answer in answers]


@asynccontextmanager
async def dying(port: int, *, after: int, hangs: bool = False) -> AsyncIterator[int]:
    """A port that leads to a broker, and cuts the first connection that sends more than `after` bytes.

    If it `hangs`, that connection stays open, and nothing more passes.
    """
    cut = asyncio.Event()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := await reader.read(512):
                passed += len(data)
                if most is not None and passed > most and not cut.is_set():
                    cut.set()
                    if hangs:
                        await reader.read()
                    break
                writer.write(data)
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.wait(
            [asyncio.create_task(pump(reader, back, after)), asyncio.create_task(pump(there, writer, None))],
            return_when=asyncio.FIRST_COMPLETED,
        )
        back.close()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
    assert cut.is_set()


def check_broken_off(answers: Sequence[Answer], error: str) -> int:
    """The messages of one lane: the first were accepted, one failed, the others were not sent. Returns how many were
    accepted.
    """
    accepted = [answer.accepted for answer in answers].index(False)
    assert accepted
    assert errors(answers) == [None] * accepted + [error] + ["not_sent"] * (len(answers) - accepted - 1)
    return accepted


def check_repeats(got: list[str], expected: int) -> None:
    """All are there; of those that are there twice, the first ones are in order."""
    firsts = list(dict.fromkeys(got))
    assert firsts == [f"evt_x_{n}" for n in range(expected)]


@pytest.fixture
def unique() -> str:
    return "t" + uuid.uuid4().hex[:12]


class TestNats:
    @pytest.fixture
    async def server(self, tmp_path: Path, unique: str) -> AsyncIterator[tuple[int, Any]]:
        with broker("nats", tmp_path) as port:
            client = await nats.connect(f"nats://127.0.0.1:{port}")
            stream = client.jetstream()
            await stream.add_stream(
                StreamConfig(name=unique, subjects=[f"{unique}.push"], max_msg_size=100_000, duplicate_window=1)
            )
            yield port, stream
            await stream.delete_stream(unique)
            await client.close()

    async def ids(self, stream: Any, name: str) -> list[str]:
        count = (await stream.stream_info(name)).state.messages
        return [(await stream.get_msg(name, seq=n + 1)).headers["webhook-id"] for n in range(count)]

    async def test_in_order_and_the_bad_one_is_found(self, server: tuple[int, Any], unique: str) -> None:
        kind = made("nats", servers=[f"nats://127.0.0.1:{server[0]}"], subject=unique + ".{kind}")
        assert errors(await sent(kind, [message(n) for n in range(50)])) == [None] * 50
        assert await self.ids(server[1], unique) == [f"evt_x_{n}" for n in range(50)]
        too_large, nowhere = message(60, project=1, body=b"x" * 2_000_000), message(61, project=2, kind="note")
        behind = message(62, project=2)
        found = await sent(kind, [too_large, nowhere, message(63), behind])
        assert errors(found) == ["rejected", "not_accepted", None, "not_sent"]
        assert found[0].rejected
        await kind.close()

    @pytest.mark.parametrize("hangs", [False, True])
    async def test_a_broker_that_dies_in_the_middle(self, server: tuple[int, Any], unique: str, hangs: bool) -> None:
        async with dying(server[0], after=5_000, hangs=hangs) as port:
            kind = made("nats", servers=[f"nats://127.0.0.1:{port}"], subject=unique + ".{kind}", timeout="1s")
            some = [message(n) for n in range(40)]
            accepted = check_broken_off(await sent(kind, some, timeout_s=1), "timeout")
            assert errors(await sent(kind, some[accepted:])) == [None] * (40 - accepted)
            await kind.close()
        got = await self.ids(server[1], unique)
        check_repeats(got, 40)
        assert len(got) <= 41


class TestMqtt:
    @pytest.fixture
    async def server(self, tmp_path: Path, unique: str) -> AsyncIterator[tuple[int, Subscriber]]:
        with broker("mqtt", tmp_path) as port, subscribed(port, f"{unique}/push") as subscriber:
            yield port, subscriber

    def ids(self, got: list[Any]) -> list[str]:
        return [dict(one.properties.UserProperty)["webhook-id"] for one in got]

    async def test_in_order_and_the_bad_one_is_found(self, server: tuple[int, Subscriber], unique: str) -> None:
        kind = made("mqtt", url=f"mqtt://127.0.0.1:{server[0]}", topic=unique + "/{kind}")
        assert errors(await sent(kind, [message(n) for n in range(50)])) == [None] * 50
        nowhere, behind = message(61, project=2, kind="note"), message(62, project=2)
        found = await sent(kind, [nowhere, message(63), behind, *(message(100 + n, project=n) for n in range(3, 40))])
        assert errors(found) == ["not_accepted", None, "not_sent"] + [None] * 37
        got = self.ids(await server[1].wait_for(88))
        assert got == [f"evt_x_{n}" for n in [*range(50), 63, *range(103, 140)]]
        await kind.close()

    @pytest.mark.parametrize("hangs", [False, True])
    async def test_a_broker_that_dies_in_the_middle(
        self, server: tuple[int, Subscriber], unique: str, hangs: bool
    ) -> None:
        async with dying(server[0], after=3_000, hangs=hangs) as port:
            kind = made("mqtt", url=f"mqtt://127.0.0.1:{port}", topic=unique + "/{kind}", timeout="1s")
            some = [message(n) for n in range(40)]
            error = "timeout" if hangs else "connection"
            accepted = check_broken_off(await sent(kind, some, timeout_s=1), error)
            assert errors(await sent(kind, some[accepted:])) == [None] * (40 - accepted)
            await kind.close()
        await server[1].wait_for(40)
        check_repeats(self.ids(server[1].messages), 40)

    async def test_what_was_acknowledged_before_the_end_is_delivered(
        self, server: tuple[int, Subscriber], unique: str
    ) -> None:
        async with dying(server[0], after=3_000) as port:
            kind = made("mqtt", url=f"mqtt://127.0.0.1:{port}", topic=unique + "/{kind}")
            some = [message(n, project=n) for n in range(100)]
            found = errors(await sent(kind, some))
            assert set(found) == {None, "connection"}
            left = [one for one, error in zip(some, found, strict=True) if error is not None]
            assert errors(await sent(kind, left)) == [None] * len(left)
            await kind.close()
        await server[1].wait_for(100)
        assert set(self.ids(server[1].messages)) == {one.id for one in some}


class TestRedis:
    @pytest.fixture
    async def server(self, tmp_path: Path, unique: str) -> AsyncIterator[tuple[int, Any]]:
        with broker("redis", tmp_path) as port:
            client = redis.asyncio.Redis(port=port)
            yield port, client
            await client.delete(unique, unique + ":42", unique + ":7")
            await client.aclose()

    async def test_in_order_and_the_bad_one_is_found(self, server: tuple[int, Any], unique: str) -> None:
        port, client = server
        kind = made("redis", url=f"redis://127.0.0.1:{port}/0", stream=unique + ":{project_id}")
        await client.set(unique + ":7", "no stream")
        found = await sent(kind, [message(100, project=7), *(message(n) for n in range(50))])
        assert errors(found) == ["not_accepted"] + [None] * 50
        assert "WRONGTYPE" in (found[0].error or "")
        entries = await client.xrange(unique + ":42")
        assert [fields[b"id"].decode() for _, fields in entries] == [f"evt_x_{n}" for n in range(50)]
        assert json.loads(entries[0][1][b"headers"])["webhook-id"] == "evt_x_0"
        await kind.close()

    async def test_replicas_confirm_a_batch(self, server: tuple[int, Any], unique: str) -> None:
        kind = made("redis", url=f"redis://127.0.0.1:{server[0]}/0", stream=unique, replicas=1, timeout="200ms")
        found = await sent(kind, [message(n) for n in range(3)])
        assert ["0 of 1 replicas" in (one.error or "") for one in found] == [True] * 3
        await kind.close()

    async def test_a_broker_that_dies_in_the_middle(self, server: tuple[int, Any], unique: str) -> None:
        async with dying(server[0], after=5_000) as port:
            kind = made("redis", url=f"redis://127.0.0.1:{port}/0", stream=unique)
            some = [message(n) for n in range(100)]
            assert None not in errors(await sent(kind, some))
            assert errors(await sent(kind, some)) == [None] * 100
            await kind.close()
        check_repeats([fields[b"id"].decode() for _, fields in await server[1].xrange(unique)], 100)


class TestRabbitMQ:
    @pytest.fixture
    async def server(self, tmp_path: Path, unique: str) -> AsyncIterator[tuple[int, Any]]:
        with broker("rabbitmq", tmp_path) as port:
            connection = await aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{port}/")
            channel = await connection.channel()
            queue = await channel.declare_queue(unique, durable=True)
            yield port, queue
            await queue.delete(if_unused=False, if_empty=False)
            await connection.close()

    async def ids(self, queue: Any) -> list[str]:
        got = []
        while (one := await queue.get(no_ack=True, fail=False)) is not None:
            got.append(one.message_id)
        return got

    async def test_in_order_and_the_bad_one_is_found(self, server: tuple[int, Any], unique: str) -> None:
        kind = made(
            "rabbitmq", url=f"amqp://guest:guest@127.0.0.1:{server[0]}/", routing_key=unique[:-1] + "{project_path}"
        )
        fine = {"project_path": unique[-1]}
        some = [msgspec.structs.replace(message(n), about=message(n).about | fine) for n in range(20)]
        nowhere, behind = message(30, project=1), msgspec.structs.replace(some[0], lane="project:1")
        found = await sent(kind, [nowhere, behind, *some])
        assert errors(found) == ["not_accepted", "not_sent"] + [None] * 20
        assert await self.ids(server[1]) == [f"evt_x_{n}" for n in range(20)]
        await kind.close()

    async def test_a_broker_that_dies_in_the_middle(self, server: tuple[int, Any], unique: str) -> None:
        async with dying(server[0], after=3_000) as port:
            kind = made("rabbitmq", url=f"amqp://guest:guest@127.0.0.1:{port}/", routing_key=unique)
            some = [message(n) for n in range(20)]
            accepted = check_broken_off(await sent(kind, some), "connection")
            assert errors(await sent(kind, some[accepted:])) == [None] * (20 - accepted)
            await kind.close()
        got = await self.ids(server[1])
        check_repeats(got, 20)
        assert len(got) <= 21


class TestKafka:
    async def test_in_order_and_the_bad_one_is_found(self, unique: str) -> None:
        owner = confluent_kafka.Producer({"test.mock.num.brokers": 3, "bootstrap.servers": "x:1"})
        servers = [f"{one.host}:{one.port}" for one in owner.list_topics(timeout=10).brokers.values()]
        kind = made("kafka", servers=servers, topic=unique, max_message=4000, timeout="10s")
        some = [message(n, project=n % 3) for n in range(60)]
        some[30] = message(30, project=0, body=b"x" * 5000)
        found = await sent(kind, some, timeout_s=10)
        assert [n for n, answer in enumerate(found) if answer.rejected] == [30]
        behind = [one for one, answer in zip(some, found, strict=True) if answer is NOT_SENT]
        assert {one.id for one in some[31:] if one.project == "0"} <= {one.id for one in behind}
        assert len(behind) + 1 + sum(answer.accepted for answer in found) == 60
        assert errors(await sent(kind, behind, timeout_s=10)) == [None] * len(behind)
        got = await asyncio.to_thread(self.consumed, servers, unique, 59)
        for project in ("0", "1", "2"):
            mine = [dict(one.headers())["webhook-id"].decode() for one in got if one.key() == project.encode()]
            assert mine == [one.id for one in some if one.project == project and one is not some[30]]
        await kind.close()
        del owner

    @pytest.mark.parametrize("hangs", [True, False])
    async def test_what_was_accepted_before_a_timeout_is_known(
        self, unique: str, monkeypatch: pytest.MonkeyPatch, hangs: bool
    ) -> None:
        """The second record batch of a partition is not acknowledged: our timeout ends it, or aiokafka's."""
        owner = confluent_kafka.Producer({"test.mock.num.brokers": 3, "bootstrap.servers": "x:1"})
        servers = [f"{one.host}:{one.port}" for one in owner.list_topics(timeout=10).brokers.values()]
        kind = made("kafka", servers=servers, topic=unique, max_message=4000, timeout="10s")
        assert errors(await sent(kind, [message(0)], timeout_s=10)) == [None]
        send_batch, calls = aiokafka.AIOKafkaProducer.send_batch, Counter[int]()

        async def unacknowledged(self: Any, batch: Any, topic: str, *, partition: int) -> Any:
            calls[partition] += 1
            if calls[partition] == 1:
                return await send_batch(self, batch, topic, partition=partition)
            future = asyncio.get_running_loop().create_future()
            if not hangs:
                future.set_exception(aiokafka.errors.KafkaTimeoutError())
            return future

        monkeypatch.setattr(aiokafka.AIOKafkaProducer, "send_batch", unacknowledged)
        some = [message(n) for n in range(150)]
        answers = await sent(kind, some, timeout_s=1)
        accepted = errors(answers).index("timeout")
        sent_now = len(some) - errors(answers).count("not_sent")
        assert 0 < accepted < sent_now < len(some)
        assert errors(answers) == [None] * accepted + ["timeout"] * (sent_now - accepted) + ["not_sent"] * (
            len(some) - sent_now
        )
        monkeypatch.undo()
        await kind.close()
        got = await asyncio.to_thread(self.consumed, servers, unique, 1 + accepted)
        assert len(got) == 1 + accepted
        del owner

    @pytest.mark.parametrize("hangs", [True, False])
    async def test_one_late_partition_takes_no_other_with_it(
        self, unique: str, monkeypatch: pytest.MonkeyPatch, hangs: bool
    ) -> None:
        owner = confluent_kafka.Producer({"test.mock.num.brokers": 3, "bootstrap.servers": "x:1"})
        servers = [f"{one.host}:{one.port}" for one in owner.list_topics(timeout=10).brokers.values()]
        kind = made("kafka", servers=servers, topic=unique, timeout="10s")
        start, connections = aiokafka.AIOKafkaProducer.start, 0

        async def counted(self: Any) -> None:
            nonlocal connections
            connections += 1
            await start(self)

        monkeypatch.setattr(aiokafka.AIOKafkaProducer, "start", counted)
        assert errors(await sent(kind, [message(0)], timeout_s=10)) == [None]
        send_batch, late = aiokafka.AIOKafkaProducer.send_batch, list[int]()

        async def unacknowledged(self: Any, batch: Any, topic: str, *, partition: int) -> Any:
            if not late:
                late.append(partition)
            if partition not in late:
                return await send_batch(self, batch, topic, partition=partition)
            future = asyncio.get_running_loop().create_future()
            if not hangs:
                future.set_exception(aiokafka.errors.KafkaTimeoutError())
            return future

        monkeypatch.setattr(aiokafka.AIOKafkaProducer, "send_batch", unacknowledged)
        found = set(errors(await sent(kind, [message(n, project=n) for n in range(20)], timeout_s=1)))
        assert found == {None, "timeout"}
        assert connections == 1
        assert errors(await sent(kind, [message(0, project=0)], timeout_s=1)) == ["timeout"]
        late[:] = [-1]
        assert errors(await sent(kind, [message(0, project=0)], timeout_s=10)) == [None]
        assert connections == 2, "where nothing was acknowledged, the connection may be dead"
        await kind.close()
        del owner

    def consumed(self, servers: list[str], topic: str, count: int) -> list[Any]:
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": ",".join(servers), "group.id": topic, "auto.offset.reset": "earliest"}
        )
        consumer.subscribe([topic])
        found: list[Any] = []
        for _ in range(100):
            if len(found) == count:
                break
            one = consumer.poll(1)
            if one is not None and one.error() is None:
                found.append(one)
        consumer.close()
        return found


async def test_a_file_gets_a_batch_and_the_bad_one_is_found(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    kind = made("file", path=str(path))
    found = await sent(kind, [message(0), message(1, body=b"two\nlines"), message(2, body=b'{\n"n": 2}')])
    assert errors(found) == [None, "rejected", None]
    assert path.read_text() == '{"n": 0}\n{ "n": 2}\n'
    await kind.close()
