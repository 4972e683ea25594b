"""A service whose ledger is copied to PostgreSQL, and back, goes on as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from reconciler.simulator.consumer import Consumer
from tests.conftest import MakeService, to_consumer
from tests.support.ledgers import ledger_location
from tests.support.service import Service, run


def note(number: int) -> bytes:
    return json.dumps({"object_kind": "note", "project_id": 1, "object_attributes": {"id": number}}).encode()


def post(service: Service, *numbers: int) -> None:
    for number in numbers:
        answer = service.post(note(number), recorded=False, Idempotency_Key=f"note-{number}")
        assert answer.status_code == 200


def bodies(consumer: Consumer) -> list[bytes]:
    return sorted(one.body for one in consumer.accepted)


@pytest.mark.postgresql
def test_a_service_goes_on_with_its_copied_ledger(
    make_service: MakeService, consumer: Consumer, tmp_path: Path
) -> None:
    to = {"destinations": [to_consumer(consumer, ordering="none")]}
    first = make_service(**to, ledger={"path": "ledger.db"}).start()
    post(first, 1, 2, 3)
    assert consumer.wait_for(lambda c: len(c.accepted) == 3)
    consumer.answer = lambda _headers, _body: (503, {}, b"")
    post(first, 4, 5)
    assert consumer.wait_for(lambda c: {note(4), note(5)} <= {one.body for one in c.requests})
    with ledger_location("postgresql", tmp_path) as url:
        copy = ("ledger", "copy", "--from", f"sqlite:{first.ledger}", "--to", "env:THERE")
        there = {"THERE": getattr(url, "value", "")}
        refused = run(*copy, **there)
        assert (refused.returncode, "stop it first" in refused.stderr) == (1, True)
        assert first.stop() == 0
        done = run(*copy, **there)
        assert done.returncode == 0, done.stdout + done.stderr

        second = make_service(**to, ledger={"url": there["THERE"]}).start()
        post(second, 1, 4, 6)  # two of them came before
        consumer.answer = lambda _headers, _body: (200, {}, b"")
        assert consumer.wait_for(lambda c: bodies(c) == [note(number) for number in range(1, 7)])
        assert second.stop() == 0
        back = tmp_path / "back.db"
        done = run("ledger", "copy", "--from", "env:THERE", "--to", f"sqlite:{back}", **there)
        assert done.returncode == 0, done.stdout + done.stderr

        third = make_service(**to, ledger={"path": str(back)}).start()
        post(third, 2, 6, 7)
        assert consumer.wait_for(lambda c: bodies(c) == [note(number) for number in range(1, 8)])
        assert httpx.get(f"{third.url}/healthz").status_code == 200
        assert third.stop() == 0
    numbers = [one.event_id.rsplit("_", 1) for one in consumer.accepted]
    assert len({prefix for prefix, _ in numbers}) == 1
    assert len({number for _, number in numbers}) == 7
