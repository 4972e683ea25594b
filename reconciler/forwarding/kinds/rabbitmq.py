"""`kind: rabbitmq`: published persistently to an exchange; delivered when the broker has confirmed it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from reconciler.config.basics import Tls, check_url
from reconciler.config.destinations import Destination
from reconciler.forwarding.kind import Connected
from reconciler.forwarding.message import Message
from reconciler.forwarding.names import Pattern, fill, word

if TYPE_CHECKING:
    from aio_pika.abc import AbstractConnection, AbstractExchange


def _server(url: SecretStr) -> SecretStr:
    check_url(url.get_secret_value(), ("amqp", "amqps"), "amqp://127.0.0.1:5672/")
    return url


ServerUrl = Annotated[SecretStr, AfterValidator(_server)]
"""May hold a password."""


class RabbitMQDestination(Destination):
    """An exchange that is there, with a queue bound to it."""

    kind: Literal["rabbitmq"] = "rabbitmq"
    url: ServerUrl = Field(description="Like amqp://user:password@127.0.0.1:5672/vhost, or amqps://….")
    exchange: str = Field(
        "", description="Its name; it must be there. Empty: the default one, where `routing_key` is a queue's name."
    )
    routing_key: Pattern = Field(
        "gitlab.{project_id}.{kind}", description="With {project_id}, {project_path}, {kind}, {action}."
    )
    tls: Tls | None = Field(None, description="A private CA, a client certificate; for amqps.")


class RabbitMQ(Connected["tuple[AbstractConnection, AbstractExchange]"]):
    """Mandatory: a message that no queue takes comes back, and is tried again, instead of vanishing."""

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

    async def connect(self) -> tuple[AbstractConnection, AbstractExchange]:
        import aio_pika

        wanted = self._destination
        connection = await aio_pika.connect(
            wanted.url.get_secret_value(),
            ssl_context=wanted.tls.context() if wanted.tls else None,
            timeout=wanted.timeout / 1000,
            client_properties={"connection_name": f"gitlab-reconciler {wanted.name}"},
        )
        try:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            if not wanted.exchange:
                return connection, channel.default_exchange
            return connection, await channel.get_exchange(wanted.exchange, ensure=True)
        except BaseException:
            await connection.close()
            raise

    async def publish(self, connection: tuple[AbstractConnection, AbstractExchange], message: Message) -> None:
        import aio_pika
        from aio_pika.exceptions import DeliveryError, PublishError

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
        key = fill(self._destination.routing_key, message, word)
        try:
            await connection[1].publish(made, key, mandatory=True)
        except PublishError:
            raise LookupError(f"no queue takes messages with the routing key {key}") from None
        except DeliveryError as error:
            raise ConnectionError(f"the broker did not confirm: {error}") from None

    async def disconnect(self, connection: tuple[AbstractConnection, AbstractExchange]) -> None:
        await connection[0].close()
