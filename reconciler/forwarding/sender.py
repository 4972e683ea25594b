"""One attempt over HTTP: what was sent, what came back, and how bad it is."""

from __future__ import annotations

import httpx
import msgspec
import structlog

from reconciler.config.models import Destination
from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.forwarding.formats import Message
from reconciler.forwarding.retry import retry_after

EXCERPT_BYTES = 1024
"""How much of an answer is kept."""
READ_BYTES = 64 * 1024
"""How much of an answer is read, so that the connection can be used again; past that it is closed."""

log = structlog.get_logger(__name__)


class Answer(msgspec.Struct, frozen=True):
    """What came of an attempt. No status: there was no answer."""

    status: int | None
    error: str | None
    retry_after: Millis = 0

    @property
    def taken(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class Sender:
    """Posts to one destination over kept-alive connections. Redirects are not followed."""

    def __init__(self, destination: Destination) -> None:
        self._url = destination.url
        connections = httpx.Limits(
            max_connections=destination.concurrency, max_keepalive_connections=destination.concurrency
        )
        self._client = httpx.AsyncClient(timeout=destination.timeout / 1000, limits=connections)

    async def send(self, message: Message) -> Answer:
        """Send one message. Never raises for anything that the network or the destination does."""
        try:
            async with self._client.stream(
                "POST", self._url, content=message.body, headers=message.headers
            ) as response:
                excerpt = await _excerpt(response)
        except httpx.TimeoutException as error:
            return Answer(None, f"no answer in time ({type(error).__name__})")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return Answer(None, f"{type(error).__name__}: {error}"[:EXCERPT_BYTES])
        except Exception as error:  # whatever it is, the event stays and is tried again
            log.exception("an attempt failed in an unforeseen way")
            return Answer(None, f"{type(error).__name__}: {error}"[:EXCERPT_BYTES])
        if 200 <= response.status_code < 300:
            return Answer(response.status_code, None)
        pause = retry_after(response.headers.get("Retry-After"), now=times.now())
        what = f"HTTP {response.status_code} {response.reason_phrase}".strip()
        return Answer(response.status_code, f"{what}: {excerpt}" if excerpt else what, pause)

    async def close(self) -> None:
        await self._client.aclose()


async def _excerpt(response: httpx.Response) -> str:
    kept, read = b"", 0
    async for chunk in response.aiter_bytes():
        kept += chunk[: EXCERPT_BYTES - len(kept)]
        read += len(chunk)
        if read > READ_BYTES:
            break
    return kept.decode("utf-8", "replace").replace("\x00", "").strip()
