"""Six destinations of different kinds and tempers, under load: what issue reports of gateways are made of.

fast: NATS. slow: HTTP, one event at a time. down for a while: Redis, on a wire that is cut. flapping: RabbitMQ, on a
wire that is cut again and again. always 500: HTTP. gone: HTTP that answers 410.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aio_pika
import httpx
import nats
import psutil
import pytest
import redis.asyncio
from nats.js.api import StreamConfig

from reconciler.simulator.consumer import Consumer
from tests.conftest import MakeService
from tests.support.brokers import broker
from tests.support.service import TOKEN, Service, until
from tests.support.wire import Wire

EVENTS, PROJECTS, SENDERS = 1500, 10, 4
QUICK: dict[str, Any] = {
    "breaker": {"failures": 5, "max_delay": "200ms", "recovery_hold": "3s"},
    "retry": {"initial_delay": "50ms", "max_delay": "200ms"},
}


class Brokers:
    """What the three brokers hold in the end."""

    def __init__(self, ports: dict[str, int], name: str) -> None:
        self.ports = ports
        self.name = name

    async def begin(self) -> None:
        self._nats = await nats.connect(f"nats://127.0.0.1:{self.ports['nats']}")
        self._stream = self._nats.jetstream()
        await self._stream.add_stream(StreamConfig(name=self.name, subjects=[f"{self.name}.>"]))
        self._redis = redis.asyncio.Redis(port=self.ports["redis"])
        self._rabbit = await aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{self.ports['rabbitmq']}/")
        self._queue = await (await self._rabbit.channel()).declare_queue(self.name, durable=True)

    async def end(self) -> None:
        await self._stream.delete_stream(self.name)
        await self._nats.close()
        await self._redis.delete(self.name)
        await self._redis.aclose()
        await self._queue.delete(if_unused=False, if_empty=False)
        await self._rabbit.close()

    async def in_nats(self) -> list[dict[str, Any]]:
        info = await self._stream.stream_info(self.name)
        got = [await self._stream.get_msg(self.name, seq=n) for n in range(1, info.state.messages + 1)]
        return [json.loads(one.data or b"") for one in got]

    async def in_redis(self) -> list[dict[str, Any]]:
        entries: Any = await self._redis.xrange(self.name)
        return [json.loads(fields[b"body"]) for _, fields in entries]

    async def in_rabbit(self) -> list[dict[str, Any]]:
        found = []
        while (one := await self._queue.get(no_ack=True, fail=False)) is not None:
            found.append(json.loads(one.body))
        return found


@pytest.fixture
async def brokers(tmp_path: Path) -> AsyncIterator[Brokers]:
    with (
        broker("nats", tmp_path / "nats") as nats_port,
        broker("redis", tmp_path) as redis_port,
        broker("rabbitmq", tmp_path) as rabbit_port,
    ):
        ports = {"nats": nats_port, "redis": redis_port, "rabbitmq": rabbit_port}
        made = Brokers(ports, "t" + uuid.uuid4().hex[:12])
        await made.begin()
        yield made
        await made.end()


def send(service: Service, numbers: range) -> None:
    """GitLab: posts these events, each sender its own projects, so that their order is known."""
    with httpx.Client() as client:
        for n in numbers:
            body = json.dumps({"object_kind": "x", "project_id": n % PROJECTS + 1, "n": n, "pad": "x" * 2000})
            headers = {"Content-Type": "application/json", "X-Gitlab-Token": TOKEN, "Idempotency-Key": f"d-{n}"}
            answer = client.post(f"{service.url}/webhooks/gitlab", content=body, headers=headers, timeout=30)
            assert answer.status_code == 200


def load(service: Service, first: int, count: int) -> None:
    threads = [
        threading.Thread(target=send, args=(service, range(first + start, first + count, SENDERS)))
        for start in range(SENDERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def first_told(bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without repeats, as a consumer that knows ids sees them."""
    return list({body["n"]: body for body in bodies}.values())


def in_order(service: Service, bodies: list[dict[str, Any]]) -> bool:
    """Whether each project's events came in the ledger's order."""
    rows = service.rows("SELECT payload FROM sightings WHERE kind = 'x' ORDER BY event_id")
    place = {json.loads(payload)["n"]: index for index, (payload,) in enumerate(rows)}
    told: dict[int, list[int]] = {}
    for body in first_told(bodies):
        told.setdefault(body["project_id"], []).append(place[body["n"]])
    return all(places == sorted(places) for places in told.values())


def counts(service: Service) -> dict[str, dict[str, int]]:
    """Deliveries by destination and state."""
    rows = service.rows(
        "SELECT x.name, d.state, count(*) FROM deliveries d JOIN destinations x ON x.id = d.destination_id "
        "GROUP BY 1, 2"
    )
    found: dict[str, dict[str, int]] = {}
    for name, state, count in rows:
        found.setdefault(name, {})[state] = count
    return found


@pytest.mark.sqlite("how destinations share one machine")
@pytest.mark.long
@pytest.mark.timeout(240)
async def test_six_tempers_under_load(make_service: MakeService, brokers: Brokers) -> None:
    with (
        Consumer() as slow,
        Consumer() as broken,
        Consumer() as gone,
        Consumer() as ops,
        Wire(brokers.ports["redis"]) as to_redis,
        Wire(brokers.ports["rabbitmq"]) as to_rabbit,
    ):
        slow.delay_s = 0.1  # it has one worker: behind for as long as this stays
        broken.answer = lambda _h, _b: (500, {}, b"no")
        gone.answer = lambda _h, _b: (410, {}, b"gone")
        dying = {"retry": QUICK["retry"] | {"max_age": "1s"}}
        service = make_service(
            destinations=[
                {"name": "fast", "kind": "nats", "servers": [f"nats://127.0.0.1:{brokers.ports['nats']}"],
                 "subject": brokers.name + ".{project_id}"},
                {"name": "slow", "url": slow.url, "allow_private": True},
                {"name": "down", "kind": "redis", "url": f"redis://127.0.0.1:{to_redis.port}/0",
                 "stream": brokers.name, **QUICK},
                {"name": "flapping", "kind": "rabbitmq", "url": f"amqp://guest:guest@127.0.0.1:{to_rabbit.port}/",
                 "routing_key": brokers.name, "ordering": "none", **QUICK},
                {"name": "broken", "url": broken.url, "allow_private": True, "ordering": "none", **QUICK, **dying},
                {"name": "gone", "url": gone.url, "allow_private": True},
                {"name": "ops", "url": ops.url, "allow_private": True, "type": "alerts"},
            ]
        ).start()  # fmt: skip
        assert service.process is not None
        process = psutil.Process(service.pid_of("worker"))
        warm = 200
        await asyncio.to_thread(load, service, 0, warm)
        before = process.memory_info().rss

        def flap() -> None:
            for _ in range(4):
                to_rabbit.cut()
                time.sleep(1.2)
                to_rabbit.mend()
                time.sleep(0.6)

        to_redis.cut()
        flapping = threading.Thread(target=flap)
        flapping.start()
        await asyncio.to_thread(load, service, warm, EVENTS - warm)
        await asyncio.to_thread(until, lambda: counts(service)["fast"] == {"delivered": EVENTS})
        assert len(slow.accepted) < EVENTS  # the fast one waited for nobody
        slow.delay_s = 0.001
        assert len(await brokers.in_redis()) < EVENTS
        await asyncio.to_thread(flapping.join)
        to_redis.mend()

        done = {"fast", "slow", "down", "flapping"}
        await asyncio.to_thread(
            until, lambda: all(counts(service)[name] == {"delivered": EVENTS} for name in done), 90
        )
        assert process.memory_info().rss - before < 25 * 2**20
        assert await asyncio.to_thread(ops.wait_for, lambda c: len(c.accepted) >= 7, 30)
        held = counts(service)

        at_fast, at_down, at_flapping = await brokers.in_nats(), await brokers.in_redis(), await brokers.in_rabbit()
        at_slow = [json.loads(request.body) for request in slow.accepted]
        for bodies in (at_fast, at_slow, at_down, at_flapping):
            assert {body["n"] for body in bodies} == set(range(EVENTS))
        for bodies in (at_fast, at_slow, at_down):
            assert in_order(service, bodies)
        assert len(at_fast) == len(at_slow) == EVENTS  # nothing went wrong there: once each

        assert "delivered" not in held["broken"]
        assert held["broken"]["dead"] > 0
        assert sum(held["broken"].values()) == EVENTS
        assert len(broken.requests) < EVENTS / 2  # the breaker: a backlog does not go out to fail
        assert sum(held["gone"].values()) == EVENTS
        assert held["gone"].keys() <= {"pending", "retrying"}
        assert len(gone.requests) <= 8  # those that were on their way together

        said = Counter((body["alert"], body["subject"], body["state"]) for body in map(_body, ops.accepted))
        assert said == Counter(
            [
                ("destination_down", "broken", "opened"),
                ("destination_down", "down", "opened"),
                ("destination_down", "down", "over"),
                ("destination_down", "flapping", "opened"),
                ("destination_down", "flapping", "over"),
                ("destination_gone", "gone", "opened"),
                ("dead_letters", "broken", "opened"),
            ]
        )
        assert service.stop() == 0


def _body(request: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(request.body)
    return body
