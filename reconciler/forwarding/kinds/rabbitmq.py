"""`kind: rabbitmq`: publishes persistently to an exchange. Delivered means that the broker confirmed it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from reconciler.config.basics import Tls, check_url, host_and_port
from reconciler.config.destinations import BatchedDestination
from reconciler.forwarding.kind import Connected, answer_to
from reconciler.forwarding.message import ACCEPTED, UNANSWERED, Answer, DeliveryRejected, Message, NotAccepted
from reconciler.forwarding.names import Pattern, render, word
from reconciler.forwarding.rounds import gathered

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange


def _server(url: SecretStr) -> SecretStr:
    check_url(url.get_secret_value(), ("amqp", "amqps"), "amqp://127.0.0.1:5672/")
    return url


ServerUrl = Annotated[SecretStr, AfterValidator(_server)]
"""May hold a password."""


class RabbitMQDestination(BatchedDestination):
    """An exchange that is there, with a queue bound to it."""

    kind: Literal["rabbitmq"] = "rabbitmq"
    url: ServerUrl = Field(description="Server, like amqp://user:password@127.0.0.1:5672/vhost, or amqps://….")
    exchange: str = Field(
        "",
        description="Name of an existing exchange. Empty: the default exchange, where `routing_key` is the name of a "
        "queue.",
    )
    routing_key: Pattern = Field(
        "gitlab.{project_id}.{kind}",
        description="Routing key. {project_id}, {project_path}, {kind} and {action} are filled in.",
    )
    tls: Tls | None = Field(None, description="A private CA or a client certificate, for amqps.")


class Channels:
    """A connection with its channels. Each message in flight has a channel of its own: RabbitMQ closes a channel on
    one message's error, and all other messages on it would fail.
    """

    def __init__(self, connection: AbstractConnection, exchange: str) -> None:
        self.connection = connection
        self._exchange = exchange
        self._free: list[tuple[AbstractChannel, AbstractExchange]] = []

    @asynccontextmanager
    async def exchange(self) -> AsyncIterator[AbstractExchange]:
        """The exchange, on a channel that nobody else uses."""
        channel, exchange = self._free.pop() if self._free else await self._open()
        try:
            yield exchange
        finally:
            if not channel.is_closed:
                self._free.append((channel, exchange))

    async def _open(self) -> tuple[AbstractChannel, AbstractExchange]:
        channel = await self.connection.channel(publisher_confirms=True, on_return_raises=True)
        if not self._exchange:
            return channel, channel.default_exchange
        return channel, await channel.get_exchange(self._exchange, ensure=True)


class RabbitMQ(Connected[Channels]):
    """Publishes as mandatory: a message that no queue accepts is returned and retried instead of being lost."""

    config = RabbitMQDestination
    requires = ("aio_pika", "rabbitmq")

    def __init__(self, destination: RabbitMQDestination) -> None:
        super().__init__(destination)
        self._destination = destination

    @property
    def address(self) -> str:
        parts = urlsplit(self._destination.url.get_secret_value())
        where = f"{parts.hostname}:{parts.port or 5672}{parts.path}"
        return f"{where}: {self._destination.exchange or 'default exchange'}, {self._destination.routing_key}"

    @property
    def endpoints(self) -> list[tuple[str, int]]:
        url = self._destination.url.get_secret_value()
        return [host_and_port(url, 5671 if url.startswith("amqps:") else 5672)]

    async def connect(self) -> Channels:
        import aio_pika

        wanted = self._destination
        connection = await aio_pika.connect(
            wanted.url.get_secret_value(),
            ssl_context=wanted.tls.context() if wanted.tls else None,
            timeout=wanted.timeout / 1000,
            client_properties={"connection_name": f"gitlab-reconciler {wanted.name}"},
        )
        try:
            channels = Channels(connection, wanted.exchange)
            async with channels.exchange():  # the exchange exists
                return channels
        except BaseException:
            await connection.close()
            raise

    async def publish(self, connection: Channels, message: Message) -> None:
        with _answers():
            async with connection.exchange() as exchange:
                await self._publish(exchange, message)

    async def publish_batch(self, connection: Channels, messages: Sequence[Message]) -> Sequence[Answer]:
        """They have a channel of their own: when RabbitMQ closes it because of one message, all messages that it
        had not confirmed fail.
        """
        with _answers():
            async with connection.exchange() as exchange:
                return await gathered((self._answer(exchange, one) for one in messages), UNANSWERED)

    async def _answer(self, exchange: AbstractExchange, message: Message) -> Answer:
        try:
            with _answers():
                await self._publish(exchange, message)
        except (DeliveryRejected, NotAccepted) as error:
            return answer_to(error)
        return ACCEPTED

    async def _publish(self, exchange: AbstractExchange, message: Message) -> None:
        import aio_pika

        made = aio_pika.Message(
            message.body,
            message_id=message.id,
            content_type=message.headers["Content-Type"],
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            headers=dict(message.headers),
            timestamp=datetime.fromtimestamp(message.sent_at // 1000, tz=UTC),
            type=message.about["kind"],
            app_id="gitlab-reconciler",
        )
        key = render(self._destination.routing_key, message, word)
        try:
            await exchange.publish(made, key, mandatory=True)
        except aio_pika.exceptions.PublishError:
            raise NotAccepted(f"no queue accepts messages with the routing key {key}") from None

    async def disconnect(self, connection: Channels) -> None:
        await connection.connection.close()


@contextmanager
def _answers() -> Iterator[None]:
    """Raise errors that are not the connection's fault as NotAccepted or DeliveryRejected."""
    from aio_pika import exceptions

    try:
        yield
    except exceptions.DeliveryError as error:
        raise NotAccepted(f"the broker did not confirm: {error}") from None
    except exceptions.ChannelPreconditionFailed as error:
        raise DeliveryRejected(f"the broker rejected it: {error}") from None
    except exceptions.ChannelClosed as error:
        raise NotAccepted(f"the broker did not accept it: {error}") from None
