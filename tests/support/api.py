"""The admin port's app on a ledger, without a service, as a client of the API asks it."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Any

import httpx

from reconciler.config.models import Config
from reconciler.dashboard.app import dashboard_app
from reconciler.dashboard.stream import Stream
from reconciler.events.times import Millis
from reconciler.forwarding.pulling import Pulls
from reconciler.ledger.queue import destinations
from reconciler.ledger.queue.destinations import DestinationSpec
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.location import Location, PostgresUrl
from reconciler.polling.knowledge import SharedLook
from tests.support.filled import filled

BASE = "/api/v1"


def config_for(location: Location, **sections: Any) -> Config:
    """A config with this ledger."""
    ledger = {"url": location.value} if isinstance(location, PostgresUrl) else {"path": location}
    return Config.model_validate({"ledger": ledger, "receiver": {"hooks": [{"token": "secret"}]}} | sections)


def some_events(location: Location, count: int, *names: str) -> None:
    """A ledger with so many events and these destinations, to which each has a pending delivery."""
    with closing(connect(location)) as db, transaction(db):
        ids = destinations.sync(db, [DestinationSpec(name, "none") for name in names], now=Millis(0))
    filled(location, count, routes=[Route(ident, "none", lambda _: True) for ident in ids.values()])


class Client:
    """Sends requests as curl does, or as a browser with its headers."""

    def __init__(self, config: Config, **headers: str) -> None:
        known = SharedLook(lambda: config)
        self.pulls = Pulls(lambda: config)
        self.stream = Stream(config.ledger.location)
        self.app = dashboard_app(lambda: config, known=known, stream=self.stream, pulls=self.pulls)
        self.headers = headers

    def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def one() -> httpx.Response:
            way = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=way, base_url="http://localhost", headers=self.headers) as client:
                return await client.request(method, BASE + path, **more)

        return asyncio.run(one())

    def get(self, path: str, **params: Any) -> Any:
        """The JSON of an answer that must be 200."""
        answer = self.send("GET", path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        """As `get`."""
        answer = self.send("POST", path, json={} if body is None else body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()


def problem(answer: httpx.Response) -> tuple[int, str]:
    """The status and the detail of problem details."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    said = answer.json()
    assert said["status"] == answer.status_code
    return said["status"], said["detail"]
