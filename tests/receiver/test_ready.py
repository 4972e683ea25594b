"""/readyz proves by a commit that webhooks can be written to disk. Clients can't make it commit all the time."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import MutableMapping
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver import app as app_module
from receiver.app import receiver_app
from receiver.ready import SharedCheck
from reconciler.config.models import Receiver
from reconciler.ledger.errors import IntakeUnavailable
from reconciler.ledger.intake.appender import SqliteAppender
from reconciler.service.receiver_counts import ReceiverCounts


async def test_a_thousand_that_ask_share_one_commit(tmp_path: Path) -> None:
    async def ask() -> int:
        answers: list[MutableMapping[str, Any]] = []

        async def send(message: MutableMapping[str, Any]) -> None:
            answers.append(message)

        async def receive() -> Any:
            return await asyncio.Future()

        scope = {"type": "http", "method": "GET", "path": "/readyz", "headers": [], "query_string": b""}
        await app(scope, receive, send)
        return int(answers[0]["status"])

    intake = SqliteAppender(tmp_path / "intake")
    config = Receiver.model_validate({"hooks": [{"token": "t"}]})
    app = receiver_app(config, intake=intake, observer=ReceiverCounts())
    assert set(await asyncio.gather(*(ask() for _ in range(1000)))) == {200}
    with closing(sqlite3.connect(tmp_path / "intake")) as db:
        assert db.execute("SELECT checked FROM intake").fetchone() == (1,)
    await intake.close()


@pytest.mark.parametrize("fails", [False, True])
async def test_an_answer_is_good_for_a_second(fails: bool) -> None:
    now, asked = 0.0, 0

    async def prove() -> None:
        nonlocal asked
        asked += 1
        if fails:
            raise IntakeUnavailable("no")

    shared = SharedCheck(prove, lambda: now)

    async def ask() -> None:
        try:
            await shared()
        except IntakeUnavailable:
            assert fails
        else:
            assert not fails

    for at, wanted in ((0.0, 1), (0.5, 1), (0.99, 1), (1.0, 2), (1.5, 2), (9.0, 3)):
        now = at
        await ask()
        assert asked == wanted


@given(st.lists(st.floats(0, 3), max_size=50))
def test_no_more_than_one_a_second(pauses: list[float]) -> None:
    async def scene() -> None:
        now, at = 0.0, list[float]()

        async def prove() -> None:
            at.append(now)

        shared = SharedCheck(prove, lambda: now)
        for pause in pauses:
            now += pause
            await shared()
        assert all(later - earlier > 1 - 1e-9 for earlier, later in pairwise(at))

    asyncio.run(scene())


async def test_who_goes_away_takes_no_answer_from_the_others() -> None:
    go_on = asyncio.Event()

    async def prove() -> None:
        await go_on.wait()

    shared = SharedCheck(prove)
    first, second = asyncio.create_task(shared()), asyncio.create_task(shared())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    go_on.set()
    await second


async def test_a_disk_that_hangs_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "PROOF_S", 0.05)
    intake = SqliteAppender(tmp_path / "intake")
    await intake.check_writable()
    app = receiver_app(Receiver.model_validate({"hooks": [{"token": "t"}]}), intake=intake, observer=ReceiverCounts())
    with closing(sqlite3.connect(tmp_path / "intake", isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://receiver") as client:
            answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert "hangs" in answer.text
        db.execute("ROLLBACK")
    await intake.close()
