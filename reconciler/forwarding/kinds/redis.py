"""`kind: redis`: appends to a Redis Stream. Delivered means that Redis answered, and replicas if configured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

import orjson
from pydantic import AfterValidator, Field, SecretStr

from reconciler.config.basics import Tls, check_url, host_and_port
from reconciler.config.destinations import BatchedDestination
from reconciler.forwarding.kind import Connected, answer_to
from reconciler.forwarding.message import ACCEPTED, Answer, Message, NotAccepted
from reconciler.forwarding.names import Pattern, render

if TYPE_CHECKING:
    from redis.asyncio import Redis as Client


def _server(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith("unix://"):
        check_url(url.get_secret_value(), ("redis", "rediss"), "redis://127.0.0.1:6379/0")
    return url


ServerUrl = Annotated[SecretStr, AfterValidator(_server)]
"""May hold a password."""


class RedisDestination(BatchedDestination):
    """A Redis server, version 5 or newer, or anything that speaks its protocol."""

    kind: Literal["redis"] = "redis"
    url: ServerUrl = Field(description="Server, like redis://user:password@127.0.0.1:6379/0, or rediss://….")
    stream: Pattern = Field(
        "gitlab", description="Key of the stream. {project_id}, {project_path}, {kind} and {action} are filled in."
    )
    max_length: int | None = Field(
        None,
        ge=1,
        description="Trim the stream to about this many entries. Default: no trimming. Consumers that fall behind "
        "lose entries.",
    )
    replicas: int = Field(
        0, ge=0, description="How many replicas must confirm an event before it counts as delivered."
    )
    tls: Tls | None = Field(None, description="A private CA or a client certificate, for rediss.")


class Redis(Connected["Client"]):
    """Each entry has the fields id, project, kind, headers (JSON) and body."""

    config = RedisDestination
    requires = ("redis", "redis")
    batch_fails_whole: ClassVar[bool] = False

    def __init__(self, destination: RedisDestination) -> None:
        super().__init__(destination)
        self._destination = destination

    @property
    def address(self) -> str:
        parts = urlsplit(self._destination.url.get_secret_value())
        return f"{parts.hostname}:{parts.port or 6379}{parts.path}: {self._destination.stream}"

    @property
    def endpoints(self) -> list[tuple[str, int]]:
        url = self._destination.url.get_secret_value()
        return [] if url.startswith("unix://") else [host_and_port(url, 6379)]

    async def connect(self) -> Client:
        import redis.asyncio

        wanted = self._destination
        options: dict[str, Any] = {}
        if wanted.tls is not None:
            files = {"ssl_ca_certs": wanted.tls.ca_file, "ssl_certfile": wanted.tls.cert_file}
            files["ssl_keyfile"] = wanted.tls.key_file or wanted.tls.cert_file
            options = {name: str(path) for name, path in files.items() if path is not None}
        client: Client = redis.asyncio.from_url(
            wanted.url.get_secret_value(), client_name="gitlab-reconciler", socket_timeout=None, **options
        )
        try:
            await client.ping()
        except BaseException:
            await client.aclose()
            raise
        return client

    async def publish(self, connection: Client, message: Message) -> None:
        from redis.exceptions import ReadOnlyError, ResponseError

        wanted = self._destination
        async with connection.client() as one:  # WAIT counts only what this connection wrote
            try:
                await one.xadd(self._stream(message), _entry(message), maxlen=wanted.max_length, approximate=True)
            except ReadOnlyError:  # no longer the master: a new connection may find it
                raise
            except ResponseError as error:
                raise NotAccepted(f"Redis did not accept it: {error}") from None
            if wanted.replicas:
                reached = await one.wait(wanted.replicas, wanted.timeout)
                if reached < wanted.replicas:
                    raise NotAccepted(f"{reached} of {wanted.replicas} replicas have it")

    async def publish_batch(self, connection: Client, messages: Sequence[Message]) -> Sequence[Answer]:
        """Append in one transaction: Redis runs all of it, in order, or refuses all of it, for example without free
        memory. Only an entry whose key is not a stream fails alone.
        """
        from redis.exceptions import ReadOnlyError, ResponseError

        wanted = self._destination
        async with connection.pipeline(transaction=False) as pipeline:
            pipeline.execute_command("MULTI")
            for one in messages:
                pipeline.xadd(self._stream(one), _entry(one), maxlen=wanted.max_length, approximate=True)
            pipeline.execute_command("EXEC")
            if wanted.replicas:  # after EXEC, on the same connection: it counts what this connection wrote
                pipeline.execute_command("WAIT", wanted.replicas, wanted.timeout)
            found = await pipeline.execute(raise_on_error=False)
        added = found[1 + len(messages)]
        if isinstance(added, ResponseError):
            refused = [one for one in found[1 : 1 + len(messages)] if isinstance(one, ResponseError)]
            error = refused[0] if refused else added
            if isinstance(error, ReadOnlyError):  # no longer the master: a new connection may find it
                raise error
            raise NotAccepted(f"Redis did not accept it: {error}")
        if wanted.replicas:
            reached = found[-1]
            if isinstance(reached, ResponseError) or reached < wanted.replicas:
                raise NotAccepted(f"{reached} of {wanted.replicas} replicas have it")
        return [
            answer_to(NotAccepted(f"Redis did not accept it: {one}")) if isinstance(one, Exception) else ACCEPTED
            for one in added
        ]

    def target(self, message: Message) -> str:
        # Streams are independent of each other: one can fail while another, of the same lane, would not.
        return self._stream(message)

    def _stream(self, message: Message) -> str:
        return render(self._destination.stream, message, lambda text: text)

    async def disconnect(self, connection: Client) -> None:
        await connection.aclose()


def _entry(message: Message) -> dict[Any, Any]:
    return {
        "id": message.id,
        "project": message.project,
        "kind": message.about["kind"],
        "headers": orjson.dumps(message.headers),
        "body": message.body,
    }
