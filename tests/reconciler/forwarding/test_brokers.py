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
import msgspec
import nats
import pytest
import redis.asyncio
from nats.js.api import StreamConfig

from reconciler.config.destination_kinds import find_kind
from reconciler.config.destinations import Destination
from reconciler.events import times
from reconciler.forwarding.kind import Connected, Kind, attempt
from reconciler.forwarding.message import Answer, DeliveryRejected, Message, NotAccepted
from tests.support.brokers import broker
from tests.support.mqtt import Subscriber, mosquitto, subscribed


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


def counting(kind: str, **keys: Any) -> tuple[Kind, list[Any]]:
    """A kind, and the connections that it has made."""
    found, connections = find_kind(kind), []

    class Counting(found):  # type: ignore[misc, valid-type]
        async def connect(self) -> Any:
            connections.append(await super().connect())
            return connections[-1]

    return Counting(found.config.model_validate({"name": "d", "kind": kind, "timeout": "3s", **keys})), connections


async def together(kind: Kind, *messages: Message) -> list[str | None]:
    """What became of messages that were under way at once."""
    answers = await asyncio.gather(*(attempt(kind, one, timeout_s=3) for one in messages))
    return [answer.error_class for answer in answers]


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
        assert all(answer.accepted for answer in answers)
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
        assert (answer.accepted, answer.rejected) == (False, False)
        assert "no JetStream stream accepts the subject no.such.subject" in (answer.error or "")
        kind = made("nats", servers=[url], subject=unique + ".x")
        [answer] = await sent(kind, message(body=b"x" * 200_000))
        assert not answer.accepted
        [answer] = await sent(kind, message(body=b"x" * 2_000_000))  # above the server's max_payload
        assert answer.rejected
        [answer] = await sent(kind, message())
        assert answer.accepted
        [away] = await sent(made("nats", servers=["nats://127.0.0.1:9"]), message())
        assert not away.accepted
        for one in (nowhere, kind):
            await one.close()

    async def test_one_message_s_trouble_is_nobody_else_s(self, server: tuple[str, Any], unique: str) -> None:
        kind, connections = counting("nats", servers=[server[0]], subject=unique + ".{project_path}")
        await server[1].update_stream(StreamConfig(name=unique, subjects=[f"{unique}.group_a_project"]))
        nowhere = msgspec.structs.replace(message(0), about={**message().about, "project_path": "elsewhere"})
        large, too_large = message(8, body=b"x" * 200_000), message(9, body=b"x" * 2_000_000)
        await server[1].update_stream(
            StreamConfig(name=unique, subjects=[f"{unique}.group_a_project"], max_msg_size=100_000)
        )
        for first in (0, 10):
            fine = [message(first + n) for n in range(1, 8)]
            found = await together(kind, nowhere, large, too_large, *fine)
            assert found == ["not_accepted", "not_accepted", "rejected"] + [None] * 7
        assert len(connections) == 1
        await kind.close()

    async def test_a_connection_that_broke_is_made_anew(self, server: tuple[str, Any], unique: str) -> None:
        kind: Any = made("nats", servers=[server[0]], subject=unique + ".x")
        await sent(kind, message(1))
        await kind._line.connection.close()
        first, second = await sent(kind, message(2), message(2))
        assert (first.accepted, second.accepted) == (False, True)
        assert "connected" in await kind.check()
        await kind.close()


class TestMqtt:
    @pytest.fixture
    async def server(self, tmp_path: Path, unique: str) -> AsyncIterator[tuple[str, Subscriber]]:
        with broker("mqtt", tmp_path) as port, subscribed(port, f"{unique}/#") as subscriber:
            yield f"mqtt://127.0.0.1:{port}", subscriber

    async def test_delivered_means_acknowledged(self, server: tuple[str, Subscriber], unique: str) -> None:
        url, subscriber = server
        kind = made("mqtt", url=url, topic=unique + "/{project_path}/{kind}/{action}")
        answers = await asyncio.gather(*(attempt(kind, message(n), timeout_s=3) for n in range(50)))
        assert [answer.error for answer in answers] == [None] * 50
        got = await subscriber.wait_for(50)
        assert [dict(one.properties.UserProperty)["webhook-id"] for one in got] == [f"evt_x_{n}" for n in range(50)]
        assert (got[0].topic, got[0].payload) == (f"{unique}/group_a_project/push/-", message().body)
        assert (got[0].qos, got[0].properties.ContentType) == (1, "application/json")
        await kind.close()

    async def test_what_goes_wrong(self, server: tuple[str, Subscriber], unique: str) -> None:
        url, subscriber = server
        kind, connections = counting("mqtt", url=url, topic=unique[:-1] + "{project_id}")
        nobody, reached = message(0), msgspec.structs.replace(message(1), about=message().about)
        reached = msgspec.structs.replace(reached, about=reached.about | {"project_id": unique[-1]})
        for _ in range(2):
            assert await together(kind, nobody, reached, reached) == ["not_accepted", None, None]
        [answer] = await sent(kind, nobody)
        assert answer.error is not None
        assert f"{unique[:-1]}42: nobody subscribes to its topic" in answer.error
        assert len(connections) == 1
        await subscriber.wait_for(4)
        await kind.close()
        [away] = await sent(made("mqtt", url="mqtt://127.0.0.1:9"), message())
        assert (away.accepted, away.error_class) == (False, "connection")

    async def test_a_connection_that_broke_is_made_anew(self, server: tuple[str, Subscriber], unique: str) -> None:
        kind: Any = made("mqtt", url=server[0], topic=unique)
        await sent(kind, message(1))
        await kind._line.connection.close()
        first, second = await sent(kind, message(2), message(2))
        assert (first.error_class, second.accepted) == ("connection", True)
        assert "connected" in await kind.check()
        await kind.close()

    async def test_what_a_broker_forbids(self, tmp_path: Path) -> None:
        settings = (
            "allow_anonymous false\npassword_file {}\nacl_file {}\nmax_packet_size 5000\nmax_inflight_messages 3\n"
        )
        with mosquitto(
            tmp_path, settings, user="ada", password="p@ss", acl="user ada\ntopic readwrite ok/#\n"
        ) as port:
            login = f"mqtt://ada:p%40ss@127.0.0.1:{port}"
            with subscribed(port, "ok/#", "ada", "p@ss") as subscriber:
                kind, connections = counting("mqtt", url=login, topic="{kind}/x")
                fine = [
                    msgspec.structs.replace(message(n), about={**message().about, "kind": "ok"}) for n in range(20)
                ]
                large = msgspec.structs.replace(fine[0], body=b"x" * 6000)
                assert await together(kind, large, message(), *fine) == ["rejected", "not_accepted"] + [None] * 20
                assert [one.topic for one in await subscriber.wait_for(20)] == ["ok/x"] * 20
                assert len(connections) == 1
                await kind.close()
            [refused] = await sent(made("mqtt", url=login.replace("ada", "eve")), message())
            assert "the broker refuses the connection: Not authorized" in (refused.error or "")
            assert "p@ss" not in made("mqtt", url=login).address

    async def test_no_character_of_a_header_ends_the_connection(
        self, server: tuple[str, Subscriber], unique: str
    ) -> None:
        odd = [*range(0x20), *range(0x7F, 0xA0), 0xD800, 0xDFFF, 0xFDD0, 0xFDEF, 0xFFFE, 0xFFFF, 0x1FFFE, 0x10FFFF]
        kind, connections = counting("mqtt", url=server[0], topic=unique + "/x")
        value = "é🙂\ufffc" + "".join(map(chr, odd))
        one = msgspec.structs.replace(message(), headers={"X-A": value, "Content-Type": "text/\x80"})
        [answer] = await sent(kind, one)
        assert (answer.accepted, len(connections)) == (True, 1)
        [got] = await server[1].wait_for(1)
        assert dict(got.properties.UserProperty)["X-A"] == "é🙂\ufffc" + "\ufffd" * len(odd)
        [answer] = await sent(kind, msgspec.structs.replace(message(), headers={"X-A": "a" * 65_536}))
        assert (answer.error_class, "more than 65,535 bytes" in (answer.error or "")) == ("rejected", True)
        await kind.close()

    async def test_properties_count_as_the_broker_counts_them(self, tmp_path: Path) -> None:
        """Whether a message is just small enough, or too large by its properties alone, the connection stays."""
        settings = "allow_anonymous false\npassword_file {}\nacl_file {}\nmax_packet_size 2000\n"
        with mosquitto(tmp_path, settings, user="ada", password="p", acl="user ada\ntopic readwrite #\n") as port:
            login = f"mqtt://ada:p@127.0.0.1:{port}"
            with subscribed(port, "x", "ada", "p"):
                kind, connections = counting("mqtt", url=login, topic="x")
                found = set()
                for length in range(900, 1000):  # Content-Type is sent twice
                    one = msgspec.structs.replace(message(), headers={"Content-Type": "a" * length, "é": "ü"})
                    [answer] = await sent(kind, one)
                    found.add(answer.error_class)
                assert found == {None, "rejected"}
                assert len(connections) == 1
                await kind.close()

    @pytest.mark.parametrize("topic", ["a/+/{kind}", "a/#", "$SYS/x", "{nothing}"])
    def test_a_topic_that_nobody_may_publish_to(self, topic: str) -> None:
        with pytest.raises(ValueError, match="topic"):
            made("mqtt", url="mqtt://h", topic=topic)


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
        assert all(answer.accepted for answer in answers)
        got = [await queue.get(no_ack=True) for _ in range(20)]
        assert {one.message_id for one in got} == {f"evt_x_{n}" for n in range(20)}
        assert got[0].delivery_mode == aio_pika.DeliveryMode.PERSISTENT
        assert got[0].headers["X-Gitlab-Event"] == "Push Hook"
        assert (got[0].body, got[0].content_type, got[0].type) == (message().body, "application/json", "push")
        await kind.close()

    async def test_a_queue_by_its_name(self, server: tuple[str, Any], unique: str) -> None:
        kind = made("rabbitmq", url=server[0], routing_key=unique)
        [answer] = await sent(kind, message())
        assert answer.accepted
        assert (await server[1].get(no_ack=True)).message_id == "evt_x_1"
        await kind.close()

    async def test_what_goes_wrong(self, server: tuple[str, Any], unique: str) -> None:
        url, queue = server
        kind = made("rabbitmq", url=url, exchange=unique)
        lost, fine = await sent(kind, message(1, project=7), message(2))
        assert (lost.accepted, lost.rejected) == (False, False)
        assert "no queue accepts messages with the routing key gitlab.7.push" in (lost.error or "")
        assert fine.accepted
        assert (await queue.get(no_ack=True)).message_id == "evt_x_2"
        [missing] = await sent(made("rabbitmq", url=url, exchange="no-such"), message())
        assert "no-such" in (missing.error or "")
        [wrong_password] = await sent(made("rabbitmq", url=url.replace("guest:guest", "guest:wrong")), message())
        assert not wrong_password.accepted
        assert "wrong" not in made("rabbitmq", url=url.replace("guest:guest", "guest:wrong")).address
        await kind.close()

    async def test_one_message_s_trouble_is_nobody_else_s(self, server: tuple[str, Any], unique: str) -> None:
        kind, connections = counting("rabbitmq", url=server[0], exchange=unique)
        for _ in range(2):
            found = await together(kind, message(0, project=7), *(message(n) for n in range(1, 8)))
            assert found == ["not_accepted"] + [None] * 7
        assert len(connections) == 1
        await kind.close()

    async def test_a_channel_that_the_broker_closes_is_one_message_s_alone(
        self, server: tuple[str, Any], unique: str
    ) -> None:
        kind, connections = counting("rabbitmq", url=server[0], exchange=unique)
        await together(kind, *(message(n) for n in range(8)))
        before = await aio_pika.connect(server[0])
        channel = await before.channel()
        await channel.exchange_delete(unique)
        assert await together(kind, *(message(n) for n in range(8))) == ["not_accepted"] * 8
        exchange = await channel.declare_exchange(unique, aio_pika.ExchangeType.TOPIC, durable=True)
        await server[1].bind(exchange, "gitlab.42.*")
        assert await together(kind, *(message(n) for n in range(8))) == [None] * 8
        assert len(connections) == 1
        await before.close()
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
        assert all(answer.accepted for answer in answers)
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
        assert not alone.accepted
        assert "0 of 1 replicas" in (alone.error or "")
        await kind.close()
        await client.delete(unique)
        await client.set(unique, "no stream")
        kind = made("redis", url=url, stream=unique)
        [wrong] = await sent(kind, message())
        assert "WRONGTYPE" in (wrong.error or "")
        await kind.close()
        [away] = await sent(made("redis", url="redis://127.0.0.1:9/0"), message())
        assert away.error_class is not None

    async def test_one_message_s_trouble_is_nobody_else_s(self, server: tuple[str, Any], unique: str) -> None:
        url, client = server
        kind, connections = counting("redis", url=url, stream=unique + ":{project_id}")
        await client.set(unique + ":7", "no stream")
        for _ in range(2):
            found = await together(kind, message(0, project=7), *(message(n) for n in range(1, 8)))
            assert found == ["not_accepted"] + [None] * 7
        assert len(connections) == 1
        await client.delete(unique + ":7")
        await kind.close()

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
        assert answer.rejected
        assert (await attempt(kind, message(), timeout_s=10)).accepted
        await kind.close()
        kind, connections = counting("kafka", servers=servers.split(","), topic=unique, max_message=2000)
        for _ in range(2):
            fine = (message(n) for n in range(1, 8))
            assert await together(kind, message(0, body=b"x" * 5000), *fine) == ["rejected"] + [None] * 7
        assert len(connections) == 1
        await kind.close()
        away = await attempt(made("kafka", servers=["127.0.0.1:9"], timeout="2s"), message(), timeout_s=2)
        assert not away.accepted


class OverALine(Connected[asyncio.Event]):
    """A broker of our own: a message of the number 0 has trouble, the others wait until told to go on."""

    config = Destination
    requires = ("json", "json")
    address = "nowhere"

    def __init__(self, trouble: BaseException | None) -> None:
        super().__init__(None)
        self._trouble = trouble
        self.go_on = asyncio.Event()
        self.connections: list[asyncio.Event] = []

    async def connect(self) -> asyncio.Event:
        self.connections.append(asyncio.Event())
        return self.connections[-1]

    async def publish(self, connection: asyncio.Event, message: Message) -> None:
        if message.id == "evt_x_0":
            if self._trouble is None:
                await asyncio.Event().wait()
            else:
                raise self._trouble
        await self.go_on.wait()
        if connection.is_set():
            raise ConnectionError("closed under me")

    async def disconnect(self, connection: asyncio.Event) -> None:
        connection.set()


@pytest.mark.parametrize(
    ("trouble", "made_anew"),
    [
        (NotAccepted("no queue"), False),
        (DeliveryRejected("too large"), False),
        (ConnectionResetError("gone"), True),
        (ValueError("whatever"), True),
    ],
)
async def test_those_beside_it_are_left_alone(trouble: Exception, made_anew: bool) -> None:
    kind = OverALine(trouble)
    others = [asyncio.create_task(attempt(kind, message(n), timeout_s=5)) for n in range(1, 8)]
    await asyncio.sleep(0)
    assert not (await attempt(kind, message(0), timeout_s=5)).accepted
    later = asyncio.create_task(attempt(kind, message(9), timeout_s=5))
    await asyncio.sleep(0)
    assert not kind.connections[0].is_set()
    kind.go_on.set()
    assert all(answer.accepted for answer in await asyncio.gather(*others, later))
    assert len(kind.connections) == 1 + made_anew
    assert kind.connections[0].is_set() == made_anew  # closed, once nobody needs it any more
    await kind.close()
    assert all(one.is_set() for one in kind.connections)


async def test_a_time_out_is_the_connection_s_fault_only_where_nothing_else_came_back() -> None:
    kind = OverALine(None)
    slow = asyncio.create_task(attempt(kind, message(0), timeout_s=0.05))
    await asyncio.sleep(0)
    kind.go_on.set()
    assert (await attempt(kind, message(1), timeout_s=5)).accepted
    assert (await slow).error_class == "timeout"
    await attempt(kind, message(2), timeout_s=5)
    assert len(kind.connections) == 1
    assert (await attempt(kind, message(0), timeout_s=0.05)).error_class == "timeout"
    await attempt(kind, message(3), timeout_s=5)
    assert len(kind.connections) == 2
    await kind.close()
