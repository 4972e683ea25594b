"""Message brokers: the real ones, and for Kafka librdkafka's mock cluster, which speaks the protocol over TCP."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aio_pika
import confluent_kafka
import nats
import pytest
import redis.asyncio
from nats.js.api import StreamConfig

from reconciler.config.kinds import find_kind
from reconciler.events import times
from reconciler.forwarding.kind import Kind, attempt
from reconciler.forwarding.message import Answer, Message
from tests.support.brokers import broker


def message(number: int = 1, *, project: int = 42, body: bytes = b'{"object_kind": "push"}') -> Message:
    about = {"project_id": str(project), "project_path": "group/a.project", "kind": "push", "action": ""}
    headers = {"Content-Type": "application/json", "webhook-id": f"evt_x_{number}", "X-Gitlab-Event": "Push Hook"}
    return Message(f"evt_x_{number}", str(project), about, headers, body, times.now())


def made(kind: str, **keys: Any) -> Kind:
    found = find_kind(kind)
    one: Kind = found(found.config.model_validate({"name": "d", "kind": kind, "timeout": "3s", **keys}))
    return one


async def sent(kind: Kind, *messages: Message) -> list[Answer]:
    return [await attempt(kind, one, timeout_s=3) for one in messages]


@pytest.fixture
def unique() -> str:
    return "t" + uuid.uuid4().hex[:12]


class TestNats:
    @pytest.fixture
    async def server(self, tmp_path: Path, unique: str) -> AsyncIterator[tuple[str, Any]]:
        with broker("nats", tmp_path) as port:
            url = f"nats://127.0.0.1:{port}"
            client = await nats.connect(url)
            stream = client.jetstream()
            await stream.add_stream(StreamConfig(name=unique, subjects=[f"{unique}.>"], max_msg_size=100_000))
            yield url, stream
            await stream.delete_stream(unique)
            await client.close()

    async def test_delivered_means_a_stream_has_it(self, server: tuple[str, Any], unique: str) -> None:
        url, stream = server
        kind = made("nats", servers=[url], subject=unique + ".{project_path}.{kind}.{action}")
        answers = await asyncio.gather(*(attempt(kind, message(n), timeout_s=3) for n in range(20)))
        assert all(answer.taken for answer in answers)
        info = await stream.stream_info(unique)
        assert info.state.messages == 20
        first = await stream.get_msg(unique, seq=1)
        assert first.subject == f"{unique}.group_a_project.push.-"
        assert first.headers["Nats-Msg-Id"] == first.headers["webhook-id"]
        assert first.headers["X-Gitlab-Event"] == "Push Hook"
        await sent(kind, message(3))  # told again: the stream knows the id
        assert (await stream.stream_info(unique)).state.messages == 20
        await kind.close()

    async def test_what_goes_wrong(self, server: tuple[str, Any], unique: str) -> None:
        url, _ = server
        nowhere = made("nats", servers=[url], subject="no.such.subject")
        [answer] = await sent(nowhere, message())
        assert (answer.taken, answer.refused) == (False, False)
        assert "no JetStream stream takes the subject no.such.subject" in (answer.error or "")
        kind = made("nats", servers=[url], subject=unique + ".x")
        [answer] = await sent(kind, message(body=b"x" * 200_000))
        assert not answer.taken
        [answer] = await sent(kind, message(body=b"x" * 2_000_000))  # above the server's max_payload
        assert answer.refused
        [answer] = await sent(kind, message())
        assert answer.taken
        [away] = await sent(made("nats", servers=["nats://127.0.0.1:9"]), message())
        assert not away.taken
        for one in (nowhere, kind):
            await one.close()

    async def test_a_connection_that_broke_is_made_anew(self, server: tuple[str, Any], unique: str) -> None:
        kind: Any = made("nats", servers=[server[0]], subject=unique + ".x")
        await sent(kind, message(1))
        await kind._connection.close()
        first, second = await sent(kind, message(2), message(2))
        assert (first.taken, second.taken) == (False, True)
        assert "connected" in await kind.check()
        await kind.close()


class TestRabbitMQ:
    @pytest.fixture
    async def server(self, tmp_path: Path, unique: str) -> AsyncIterator[tuple[str, Any]]:
        with broker("rabbitmq", tmp_path) as port:
            url = f"amqp://guest:guest@127.0.0.1:{port}/"
            connection = await aio_pika.connect(url)
            channel = await connection.channel()
            exchange = await channel.declare_exchange(unique, aio_pika.ExchangeType.TOPIC, durable=True)
            queue = await channel.declare_queue(unique, durable=True)
            await queue.bind(exchange, "gitlab.42.*")
            yield url, queue
            await queue.delete(if_unused=False, if_empty=False)
            await exchange.delete()
            await connection.close()

    async def test_delivered_means_confirmed(self, server: tuple[str, Any], unique: str) -> None:
        url, queue = server
        kind = made("rabbitmq", url=url, exchange=unique)
        answers = await asyncio.gather(*(attempt(kind, message(n), timeout_s=3) for n in range(20)))
        assert all(answer.taken for answer in answers)
        got = [await queue.get(no_ack=True) for _ in range(20)]
        assert {one.message_id for one in got} == {f"evt_x_{n}" for n in range(20)}
        assert got[0].delivery_mode == aio_pika.DeliveryMode.PERSISTENT
        assert got[0].headers["X-Gitlab-Event"] == "Push Hook"
        assert (got[0].body, got[0].content_type, got[0].type) == (message().body, "application/json", "push")
        await kind.close()

    async def test_a_queue_by_its_name(self, server: tuple[str, Any], unique: str) -> None:
        kind = made("rabbitmq", url=server[0], routing_key=unique)
        [answer] = await sent(kind, message())
        assert answer.taken
        assert (await server[1].get(no_ack=True)).message_id == "evt_x_1"
        await kind.close()

    async def test_what_goes_wrong(self, server: tuple[str, Any], unique: str) -> None:
        url, queue = server
        kind = made("rabbitmq", url=url, exchange=unique)
        lost, fine = await sent(kind, message(1, project=7), message(2))
        assert (lost.taken, lost.refused) == (False, False)
        assert "no queue takes messages with the routing key gitlab.7.push" in (lost.error or "")
        assert fine.taken
        assert (await queue.get(no_ack=True)).message_id == "evt_x_2"
        [missing] = await sent(made("rabbitmq", url=url, exchange="no-such"), message())
        assert "no-such" in (missing.error or "")
        [stranger] = await sent(made("rabbitmq", url=url.replace("guest:guest", "guest:wrong")), message())
        assert not stranger.taken
        assert "wrong" not in made("rabbitmq", url=url.replace("guest:guest", "guest:wrong")).address
        await kind.close()


class TestRedis:
    @pytest.fixture
    async def server(self, tmp_path: Path, unique: str) -> AsyncIterator[tuple[str, Any]]:
        with broker("redis", tmp_path) as port:
            client = redis.asyncio.Redis(port=port)
            yield f"redis://127.0.0.1:{port}/0", client
            await client.delete(unique, unique + ":42")
            await client.aclose()

    async def test_delivered_means_in_the_stream(self, server: tuple[str, Any], unique: str) -> None:
        url, client = server
        kind = made("redis", url=url, stream=unique + ":{project_id}")
        answers = await asyncio.gather(*(attempt(kind, message(n), timeout_s=3) for n in range(20)))
        assert all(answer.taken for answer in answers)
        entries = await client.xrange(unique + ":42")
        assert {fields[b"id"] for _, fields in entries} == {f"evt_x_{n}".encode() for n in range(20)}
        fields = entries[0][1]
        assert (fields[b"project"], fields[b"kind"], fields[b"body"]) == (b"42", b"push", message().body)
        assert json.loads(fields[b"headers"])["X-Gitlab-Event"] == "Push Hook"
        await kind.close()

    async def test_what_goes_wrong(self, server: tuple[str, Any], unique: str) -> None:
        url, client = server
        kind = made("redis", url=url, stream=unique, replicas=1, timeout="200ms")
        [alone] = await sent(kind, message())
        assert not alone.taken
        assert "0 of 1 replicas" in (alone.error or "")
        await kind.close()
        await client.delete(unique)
        await client.set(unique, "no stream")
        [wrong] = await sent(made("redis", url=url, stream=unique), message())
        assert "WRONGTYPE" in (wrong.error or "")
        [away] = await sent(made("redis", url="redis://127.0.0.1:9/0"), message())
        assert away.error_class is not None

    async def test_a_stream_that_is_kept_short(self, server: tuple[str, Any], unique: str) -> None:
        url, client = server
        kind = made("redis", url=url, stream=unique, max_length=10)
        await sent(kind, *(message(n) for n in range(300)))
        assert await client.xlen(unique) < 300
        await kind.close()


@pytest.fixture(scope="module")
def servers() -> Iterator[str]:
    """Three brokers of librdkafka's mock cluster, on real ports, as long as their owner lives."""
    owner = confluent_kafka.Producer({"test.mock.num.brokers": 3, "bootstrap.servers": "x:1"})
    brokers = owner.list_topics(timeout=10).brokers.values()
    yield ",".join(f"{one.host}:{one.port}" for one in brokers)
    del owner


class TestKafka:
    def consumed(self, servers: str, topic: str, count: int) -> list[Any]:
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": servers, "group.id": topic, "auto.offset.reset": "earliest"}
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

    async def test_delivered_means_acknowledged(self, servers: str, unique: str) -> None:
        kind = made("kafka", servers=servers.split(","), topic=unique, timeout="10s")
        messages = [message(n, project=n % 3) for n in range(30)]
        answers = [await attempt(kind, one, timeout_s=10) for one in messages]
        assert [answer.error for answer in answers] == [None] * 30
        got = await asyncio.to_thread(self.consumed, servers, unique, 30)
        assert {dict(one.headers())["webhook-id"] for one in got} == {f"evt_x_{n}".encode() for n in range(30)}
        partitions: dict[bytes, set[int]] = {}
        for one in got:
            partitions.setdefault(one.key(), set()).add(one.partition())
        assert set(partitions) == {b"0", b"1", b"2"}
        assert all(len(where) == 1 for where in partitions.values())
        of_one = [dict(one.headers())["webhook-id"] for one in got if one.key() == b"1"]
        assert of_one == [f"evt_x_{n}".encode() for n in range(1, 30, 3)]
        await kind.close()

    async def test_what_goes_wrong(self, servers: str, unique: str) -> None:
        kind = made("kafka", servers=servers.split(","), topic=unique, max_message=2000, timeout="10s")
        answer = await attempt(kind, message(body=b"x" * 5000), timeout_s=10)
        assert answer.refused
        assert (await attempt(kind, message(), timeout_s=10)).taken
        await kind.close()
        away = await attempt(made("kafka", servers=["127.0.0.1:9"], timeout="2s"), message(), timeout_s=2)
        assert not away.taken
