"""`kind: kafka`: produces with acks=all and an idempotent producer. Delivered means that the brokers acknowledged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from reconciler.config.basics import Tls, check_address, host_and_port
from reconciler.config.destinations import Destination
from reconciler.forwarding.kind import Connected
from reconciler.forwarding.message import DeliveryRejected, Message, NotAccepted
from reconciler.forwarding.names import Pattern, render, word

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer


def _server(address: str) -> str:
    check_address(address, "127.0.0.1:9092")
    return address


def _tls(value: Any) -> Any:
    return {} if value is True else value


Server = Annotated[str, AfterValidator(_server)]


class KafkaDestination(Destination):
    """A Kafka cluster, or what speaks its protocol."""

    kind: Literal["kafka"] = "kafka"
    servers: list[Server] = Field(min_length=1, description="Bootstrap servers, like 127.0.0.1:9092.")
    topic: Pattern = Field(
        "gitlab", description="Topic. {project_id}, {project_path}, {kind} and {action} are filled in."
    )
    max_message: int = Field(1_048_576, ge=1024, description="Largest message that the topic accepts, in bytes.")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        None, description="SASL mechanism, if the cluster requires authentication."
    )
    user: str | None = Field(None, description="SASL user.")
    password: SecretStr | None = Field(None, description="SASL password.")
    password_file: Path | None = Field(None, description="File that contains the password.")
    tls: Annotated[Tls | None, BeforeValidator(_tls, json_schema_input_type=Tls | Literal[True] | None)] = Field(
        None, description="`true` to use TLS; or a private CA or a client certificate."
    )

    @model_validator(mode="after")
    def _who(self) -> KafkaDestination:
        if self.sasl_mechanism and not (self.user and self.password):
            raise ValueError("sasl_mechanism needs `user` and `password`")
        return self


class Kafka(Connected["AIOKafkaProducer"]):
    """The key is the project's id, so that a project's events stay in order in one partition."""

    config = KafkaDestination
    requires = ("aiokafka", "kafka")

    def __init__(self, destination: KafkaDestination) -> None:
        super().__init__(destination)
        self._destination = destination

    @property
    def address(self) -> str:
        return f"{', '.join(self._destination.servers)}: {self._destination.topic}"

    @property
    def endpoints(self) -> list[tuple[str, int]]:
        return [host_and_port(f"kafka://{server}", 9092) for server in self._destination.servers]

    async def connect(self) -> AIOKafkaProducer:
        from aiokafka import AIOKafkaProducer

        wanted = self._destination
        options: dict[str, Any] = {
            "security_protocol": ("SASL_" if wanted.sasl_mechanism else "") + ("SSL" if wanted.tls else "PLAINTEXT"),
            "ssl_context": wanted.tls.context() if wanted.tls else None,
        }
        if wanted.sasl_mechanism and wanted.password:
            options["sasl_mechanism"] = wanted.sasl_mechanism
            options["sasl_plain_username"] = wanted.user
            options["sasl_plain_password"] = wanted.password.get_secret_value()
        producer = AIOKafkaProducer(
            bootstrap_servers=wanted.servers,
            client_id="gitlab-reconciler",
            enable_idempotence=True,
            acks="all",
            max_request_size=wanted.max_message,
            request_timeout_ms=wanted.timeout,
            **options,
        )
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        return producer

    async def publish(self, connection: AIOKafkaProducer, message: Message) -> None:
        from aiokafka import errors

        headers = [(name, value.encode()) for name, value in message.headers.items()]
        topic = render(self._destination.topic, message, word)
        try:
            await connection.send_and_wait(topic, message.body, key=message.project.encode(), headers=headers)
        except errors.MessageSizeTooLargeError:
            raise DeliveryRejected(
                f"{len(message.body):,} bytes are more than max_message or the topic allows"
            ) from None
        except errors.KafkaTimeoutError as error:
            raise TimeoutError(str(error)) from None
        except (
            errors.UnknownTopicOrPartitionError,
            errors.TopicAuthorizationFailedError,
            errors.InvalidTopicError,
            errors.NotEnoughReplicasError,
            errors.NotEnoughReplicasAfterAppendError,
        ) as error:
            raise NotAccepted(f"the topic {topic} did not accept it: {error}") from None

    async def disconnect(self, connection: AIOKafkaProducer) -> None:
        await connection.stop()
