"""Unauthenticated requests: what is read of them, and how much memory they get."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook

from receiver.app import receiver_app
from reconciler.config.models import HookConfig, Receiver
from reconciler.ledger.intake.appender import SqliteAppender
from reconciler.service.receiver_counts import ReceiverCounts

KEY = "whsec_" + base64.b64encode(b"signing-key-of-a-test-32-bytes!!").decode()
JSON = (b"content-type", b"application/json")
TOKEN = (b"x-gitlab-token", b"hook-token")
BODY = b'{"object_kind":"push"}'
NOBODY = base64.b64encode(bytes(32)).decode().encode()


def signed(body: bytes) -> list[tuple[bytes, bytes]]:
    now = datetime.now(UTC)
    signature = Webhook(KEY).sign("an-id", now, body.decode())
    return shown(signature.encode(), at=b"%d" % now.timestamp())


def shown(signature: bytes, *, at: bytes | None = None, ident: bytes = b"an-id") -> list[tuple[bytes, bytes]]:
    stamp = b"%d" % time.time() if at is None else at
    return [(b"webhook-id", ident), (b"webhook-timestamp", stamp), (b"webhook-signature", signature)]


class Door:
    """A receiver's app, and whoever comes to it."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.read = 0

    async def deliver(self, headers: list[tuple[bytes, bytes]], body: bytes, *, ends: bool = True) -> int:
        """The status; for a body that does not end there is none until it is given up."""
        sent = [{"type": "http.request", "body": body, "more_body": not ends}]
        answers: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            self.read += 1
            return sent.pop() if sent else await asyncio.Future()

        async def send(message: dict[str, Any]) -> None:
            answers.append(message)

        scope = {"type": "http", "method": "POST", "path": "/webhooks/gitlab", "headers": [JSON, *headers]}
        await self.app(scope, receive, send)
        return int(answers[0]["status"])


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    hook = HookConfig(name="default", token=SecretStr("hook-token"), signing_token=SecretStr(KEY))
    config = Receiver.model_validate({"hooks": [hook], "max_body": "4KiB", "max_pending_bytes": "16KiB"})
    intake = SqliteAppender(tmp_path / "ledger.db.intake")
    yield Door(receiver_app(config, intake=intake, observer=ReceiverCounts()))
    await intake.close()


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"x-gitlab-token", b"wrong")],
        [(b"webhook-signature", b"v1,x")],
        [TOKEN, (b"webhook-signature", b"v1,x")],
        shown(b"v1,x"),
        shown(b""),
        shown(b"v2," + NOBODY),
        shown(b"v1," + NOBODY, ident=b""),
        shown(b"v1," + NOBODY, at=b""),
        shown(b"v1," + NOBODY, at=b"now"),
        shown(b"v1," + NOBODY, at=b"nan"),
        shown(b"v1," + NOBODY, at=b"\xb2"),
        shown(b"v1," + NOBODY, at=b"%d" % (time.time() - 3600)),
        shown(b"v1," + NOBODY, at=b"%d" % (time.time() + 3600)),
    ],
)
async def test_nothing_is_read_where_the_headers_can_t_pass(door: Door, headers: list[tuple[bytes, bytes]]) -> None:
    assert await door.deliver(headers, BODY) == 401
    assert door.read == 0


async def test_who_is_who(door: Door) -> None:
    assert await door.deliver([TOKEN], BODY) == 200
    assert await door.deliver(signed(BODY), BODY) == 200
    assert await door.deliver(signed(b"{}"), BODY) == 401
    assert await door.deliver([TOKEN, *signed(b"{}")], BODY) == 401


async def test_unauthenticated_bodies_fill_only_their_own_budget(door: Door) -> None:
    forged = shown(b"v1," + NOBODY)
    unauthenticated = [asyncio.create_task(door.deliver(forged, b" " * 1000, ends=False)) for _ in range(40)]
    refused = [await one for one in islice(asyncio.as_completed(unauthenticated), 36)]
    assert refused == [503] * 36  # 4 KiB hold the other four
    assert await door.deliver([TOKEN], BODY) == 200
    assert await door.deliver([TOKEN], b'{"pad":"' + b"x" * 4000 + b'"}') == 200
    assert await door.deliver([TOKEN, *signed(BODY)], BODY) == 200
    for task in unauthenticated:
        task.cancel()
    await asyncio.gather(*unauthenticated, return_exceptions=True)
    assert await door.deliver(signed(BODY), BODY) == 200  # the bytes were given back


async def test_an_authenticated_body_leaves_the_budget_of_unauthenticated_ones(door: Door) -> None:
    for _ in range(20):
        body = b'{"pad":"' + b"x" * 3000 + b'"}'
        assert await door.deliver(signed(body), body) == 200
