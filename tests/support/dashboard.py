"""The dashboard of a ledger, without a service."""

from __future__ import annotations

import asyncio
import re
from html import unescape
from typing import Any

import httpx

from reconciler.config.models import Config
from reconciler.dashboard.app import dashboard_app
from reconciler.dashboard.stream import Stream
from reconciler.forwarding.pulling import Pulls
from reconciler.ledger.views.unknowns import Known


class Browser:
    """Asks for pages and sends forms, as a browser would without JavaScript."""

    def __init__(self, config: Config) -> None:
        self.config = config
        stream = Stream(config.ledger.location)
        pulls = Pulls(lambda: config)
        self.app = dashboard_app(lambda: config, known=lambda: Known([], []), stream=stream, pulls=pulls)

    def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def one() -> httpx.Response:
            way = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=way, base_url="http://localhost", follow_redirects=True) as client:
                return await client.request(method, path, **more)

        return asyncio.run(one())

    def get(self, path: str, **params: Any) -> str:
        answer = self.send("GET", path, params=params or None)
        assert answer.status_code == 200, answer.text
        return unescape(answer.text)

    def act(self, page: str, action: str, **fields: str) -> str:
        secret = re.search(r'name="secret" value="([^"]+)"', self.send("GET", page).text)
        assert secret is not None
        return unescape(self.send("POST", action, data={"secret": secret[1], **fields}).text)
