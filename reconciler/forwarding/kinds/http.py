"""`kind: http`: an HTTP POST for each event, signed if configured. A 2xx answer means delivered."""

from __future__ import annotations

import base64
import ipaddress
import re
import ssl
from collections.abc import Hashable, Sequence
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import httpx
import msgspec
from pydantic import AfterValidator, Field, model_validator
from standardwebhooks import Webhook

from reconciler.config.basics import HeaderSecret, Network, Networks, ProxyUrl, SigningKey, Tls, Url
from reconciler.config.destinations import BatchedDestination
from reconciler.config.mistakes import Misplaced
from reconciler.events import times
from reconciler.forwarding.addresses import EVERYWHERE, AddressRefused, look_up, may_connect
from reconciler.forwarding.chat.presets import Preset, asked_pause, with_preset
from reconciler.forwarding.http_batch import HttpBatch, batch_format, batched
from reconciler.forwarding.http_request import header_bytes, keeps_body, post, redirected
from reconciler.forwarding.kind import Kind
from reconciler.forwarding.message import EXCERPT_BYTES, Answer, DeliveryRejected, Message, excerpt, failure
from reconciler.forwarding.reach import reach
from reconciler.forwarding.retry import is_rejection, retry_after
from reconciler.forwarding.transport import Transport

READ_BYTES = 64 * 1024
"""How much of an answer is read, so that the connection can be reused. If there is more, it is closed."""
MOST_REDIRECTS = 5


def _header_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
        raise ValueError("is not a valid header name")
    return name


HeaderName = Annotated[str, AfterValidator(_header_name)]

_SECRET_PART = re.compile(r"(?<=/)(?=[^/]*\d)[^/]{16,}")
"""Parts of a path that may be a secret, as in the URLs of chat services: long ones with a digit."""


class HttpDestination(BatchedDestination):
    """An HTTP endpoint."""

    kind: Literal["http"] = "http"
    url: Url = Field(description="URL that events are posted to.")
    preset: Preset | None = Field(
        None, description="Send readable messages to a chat: `slack`, `mattermost`, `teams` or `discord`."
    )
    headers: dict[HeaderName, HeaderSecret] = Field(
        default_factory=dict, description="Headers to send with each event."
    )
    secret: SigningKey | None = Field(None, description="Standard Webhooks secret to sign events with (`whsec_…`).")
    secret_file: Path | None = Field(None, description="File that contains the secret.")
    tls: Tls | None = Field(None, description="A private CA or a client certificate.")
    proxy: ProxyUrl | None = Field(None, description="A proxy, like http://proxy:3128, which makes the connection.")
    allow_private: Networks = Field(
        False,
        description="Whether to allow connections to addresses that are not public (loopback, 10.0.0.0/8, "
        "link-local, …): `true`, or a list of networks.",
    )
    follow_redirects: bool = Field(
        False,
        description="Whether to follow 307 and 308. Other redirects are never followed: they would lose the body.",
    )

    batch: HttpBatch | None = Field(None, description="Send several events in one request.")

    @property
    def chat(self) -> Preset | None:
        return self.preset

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, values: Any) -> Any:
        return with_preset(values)

    @model_validator(mode="after")
    def _fits_in_a_batch(self) -> HttpDestination:
        if self.batch is not None:
            batch_format(self.batch, self)
        return self

    @model_validator(mode="after")
    def _may_be_reached(self) -> HttpDestination:
        """Refuse a bad URL or a private address when the config is read, not at the first event."""
        try:
            httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise Misplaced((("url",), f"can't be used: {error}", None)) from None
        host = urlsplit(self.url).hostname or ""
        if self.proxy is None and _is_private(host) and not _allows(host, networks(self)):
            raise Misplaced((("url",), f"{host} is not a public address: it needs `allow_private: true`", None))
        return self


def networks(destination: HttpDestination) -> list[Network]:
    """The networks that are allowed in addition to public addresses."""
    allowed = destination.allow_private
    return allowed if isinstance(allowed, list) else EVERYWHERE if allowed else []


class Http(Kind):
    """Posts to one URL over kept-alive connections."""

    config = HttpDestination

    def __init__(self, destination: HttpDestination) -> None:
        self._destination = destination
        self._headers = {name: value.get_secret_value() for name, value in destination.headers.items()}
        self._signer = Webhook(destination.secret.get_secret_value()) if destination.secret else None
        self._own = {name.lower() for name in self._headers}
        self._batch_format = batch_format(destination.batch, destination) if destination.batch else None
        self._transport = _transport(destination)

    @property
    def address(self) -> str:
        parts = urlsplit(self._destination.url)
        is_chat = self._destination.preset is not None  # whose whole path is a password
        path = "/…" if is_chat else _SECRET_PART.sub("…", parts.path)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], path=path, query="").geturl()

    @property
    def secret_headers(self) -> list[str]:
        """The names of headers whose values are secret."""
        return [*self._headers, *(["webhook-signature"] if self._signer else [])]

    async def check(self) -> str:
        wanted = self._destination
        if wanted.proxy is not None:
            host, port, encrypted = _endpoint(wanted.proxy.get_secret_value())
            found = await reach(host, port, tls=_tls(wanted) if encrypted else None)
            return f"its proxy {found}; the destination behind it is not checked"
        host, port, encrypted = _endpoint(wanted.url)
        addresses = [str(one) for one in await look_up(host, port, networks(wanted))]
        return await reach(host, port, addresses=addresses, tls=_tls(wanted) if encrypted else None)

    async def send(self, message: Message) -> Answer:
        if self._batch_format is not None:
            [answer] = await self.send_batch([message])
            return answer
        return await self._post(message)

    async def send_batch(self, messages: Sequence[Message]) -> Sequence[Answer]:
        """One request with all of them: its answer is the answer to each. Raises DeliveryRejected."""
        answer = await self._post(self._batched(messages))
        return [answer] * len(messages)

    def target(self, message: Message) -> Hashable:
        return self._destination.url

    def as_sent(self, message: Message) -> Message:
        """A message as it goes out if it is sent alone: in a batch of one if there are batches."""
        whole = self._batched([message]) if self._batch_format is not None else message
        return msgspec.structs.replace(whole, headers=self.headers(whole))

    def headers(self, message: Message) -> dict[str, str]:
        """The headers of a message, with its signature. Configured headers replace others of the same name."""
        headers = dict(message.headers)
        if self._signer is not None:
            signed_at = datetime.fromtimestamp(message.sent_at // 1000, tz=UTC)
            headers["webhook-signature"] = self._signer.sign(message.id, signed_at, message.body.decode())
        for name in [name for name in headers if name.lower() in self._own]:
            del headers[name]
        return headers | self._headers

    async def close(self) -> None:
        await self._transport.aclose()

    def _batched(self, messages: Sequence[Message]) -> Message:
        transform = self._destination.transform
        unchecked = transform is not None and transform.template is not None
        return batched(messages, self._batch_format or "json", unchecked=unchecked)

    async def _post(self, message: Message) -> Answer:
        request = self._request(message)
        try:
            response = await self._follow(request, message.body)
            try:
                body = await _excerpt(response)
            finally:
                await response.aclose()
        except httpx.TimeoutException:
            return Answer("timeout", f"no answer within {self._destination.timeout / 1000:g} s")
        except AddressRefused as error:
            return Answer("address", str(error))
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            tls = isinstance(error.__cause__, ssl.SSLError) or "SSL" in str(error)
            return Answer("tls" if tls else "connection", failure(error))
        return self._answer(response, body)

    def _request(self, message: Message) -> httpx.Request:
        """Build the request. Header values are sent as the bytes that GitLab sent.

        Raises DeliveryRejected if this message can never be sent.
        """
        try:
            headers = [(name.encode("ascii"), header_bytes(value)) for name, value in self.headers(message).items()]
            return post(self._url, self._client_headers + headers, message.body)
        except (httpx.InvalidURL, ValueError, TypeError) as error:
            raise DeliveryRejected(f"it can't be sent: {type(error).__name__}: {error}") from None

    @cached_property
    def _url(self) -> httpx.URL:
        return httpx.URL(self._destination.url)

    @cached_property
    def _client_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that this client adds, except those that the config sets."""
        made = {"Accept": b"*/*", "Accept-Encoding": b"identity", "Connection": b"keep-alive"}
        if self._url.userinfo:
            login = f"{self._url.username}:{self._url.password}"
            made["Authorization"] = b"Basic " + base64.b64encode(login.encode())
        return [(name.encode(), value) for name, value in made.items() if name.lower() not in self._own]

    async def _follow(self, request: httpx.Request, body: bytes) -> httpx.Response:
        """Send the request, and follow redirects that keep method and body if the config allows it."""
        response = await self._transport.handle_async_request(request)
        for _ in range(MOST_REDIRECTS):
            if not self._destination.follow_redirects or not keeps_body(response):
                return response
            await response.aclose()
            request = redirected(request, response, body, withheld=self._headers)
            response = await self._transport.handle_async_request(request)
        return response

    def _answer(self, response: httpx.Response, body: str) -> Answer:
        status = response.status_code
        if 200 <= status < 300:
            return Answer(status=status, response=body or None)
        what = f"HTTP {status} {response.reason_phrase}".strip()
        pause = retry_after(response.headers.get("Retry-After"), now=times.now())
        if not pause and self._destination.preset == "discord":
            pause = asked_pause(body)
        return Answer(
            error_class=f"http_{status // 100}xx",
            error=f"{what}: {body}" if body else what,
            status=status,
            response=body or None,
            retry_after=pause,
            rejected=is_rejection(status, self._destination.retry),
            gone=status == httpx.codes.GONE,
        )


def _transport(destination: HttpDestination) -> Transport:
    proxy = None if destination.proxy is None else destination.proxy.get_secret_value()
    return Transport(
        tls=_tls(destination),
        connections=destination.concurrency,
        timeout_s=destination.timeout / 1000,
        allowed=networks(destination) if proxy is None else EVERYWHERE,
        proxy=proxy,
    )


def _endpoint(url: str) -> tuple[str, int, bool]:
    """Host, port, and whether TLS is used."""
    parts = httpx.URL(url)
    encrypted = parts.scheme == "https"
    return parts.raw_host.decode("ascii"), parts.port or (443 if encrypted else 80), encrypted


def _tls(destination: HttpDestination) -> ssl.SSLContext:
    return destination.tls.context() if destination.tls else _public_tls()


@cache
def _public_tls() -> ssl.SSLContext:
    """A context that trusts the public CAs. It is shared because loading them takes tens of milliseconds."""
    return httpx.create_ssl_context()


async def _excerpt(response: httpx.Response) -> str:
    """The beginning of an answer. It is not decompressed, so that a small answer can't become a large one."""
    kept, read = b"", 0
    assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - as every asynchronous transport's is
    async for chunk in response.stream:
        kept += chunk[: EXCERPT_BYTES - len(kept)]
        read += len(chunk)
        if read > READ_BYTES:
            break
    if not kept:
        return ""
    packed = response.headers.get("Content-Encoding", "identity")
    if packed != "identity":
        return f"(the answer is compressed with {packed[:20]}, although that was not asked for)"
    return excerpt(kept.decode("utf-8", "replace"))


def _is_private(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not may_connect(ipaddress.ip_address(host), [])
    except ValueError:
        return False


def _allows(host: str, allowed: list[Network]) -> bool:
    try:
        return may_connect(ipaddress.ip_address(host), allowed)
    except ValueError:
        return bool(allowed)  # a name: its addresses are checked when connecting
