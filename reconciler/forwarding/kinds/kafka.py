"""`kind: kafka`: produces with acks=all and an idempotent producer. Delivered means acknowledged by the brokers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from reconciler.config.basics import Tls, check_address, host_and_port
from reconciler.config.destinations import BatchedDestination
from reconciler.forwarding.kind import Connected, answer_to
from reconciler.forwarding.message import (
    ACCEPTED,
    NOT_SENT,
    UNANSWERED,
    Answer,
    DeliveryRejected,
    Message,
    NotAccepted,
)
from reconciler.forwarding.names import Pattern, render, word
from reconciler.forwarding.rounds import gathered

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer


def _server(address: str) -> str:
    check_address(address, "127.0.0.1:9092")
    return address


def _tls(value: Any) -> Any:
    return {} if value is True else value


Server = Annotated[str, AfterValidator(_server)]


class KafkaDestination(BatchedDestination):
    """A Kafka cluster, or anything that speaks its protocol."""

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
            max_batch_size=wanted.max_message if wanted.batch else 16_384,
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
        topic = self._topic(message)
        with _translated(topic, len(message.body)):
            await connection.send_and_wait(topic, message.body, key=_key(message), headers=_headers(message))

    async def publish_batch(self, connection: AIOKafkaProducer, messages: Sequence[Message]) -> Sequence[Answer]:
        """Produce to each partition. A lane's messages have one key, so that they go to the same one."""
        from aiokafka.partitioner import DefaultPartitioner

        answers = [UNANSWERED] * len(messages)
        partitions: dict[tuple[str, int], list[int]] = {}
        for position, message in enumerate(messages):
            topic = self._topic(message)
            try:
                with _translated(topic, len(message.body)):
                    known = sorted(await connection.partitions_for(topic))
            except (NotAccepted, DeliveryRejected) as error:
                answers[position] = answer_to(error)
                continue
            partition = DefaultPartitioner()(_key(message), known, known)
            partitions.setdefault((topic, partition), []).append(position)

        async def to(where: tuple[str, int], positions: list[int]) -> None:
            found = await self._to_partition(connection, *where, [messages[position] for position in positions])
            for position, answer in zip(positions, found, strict=True):
                answers[position] = answer

        await gathered((to(where, positions) for where, positions in partitions.items()), None)
        if all(answer is UNANSWERED or answer is NOT_SENT for answer in answers):
            raise TimeoutError  # the connection may be dead
        return answers

    async def _to_partition(
        self, connection: AIOKafkaProducer, topic: str, partition: int, messages: Sequence[Message]
    ) -> list[Answer]:
        """Produce in as few record batches as max_message allows. Kafka accepts each whole or not at all; after one
        that it did not accept, or not in time, nothing more is sent.
        """
        from aiokafka import errors

        answers: list[Answer] = []
        while len(answers) < len(messages):
            records, count = connection.create_batch(), 0
            for message in messages[len(answers) :]:
                if not records.append(
                    timestamp=message.sent_at, key=_key(message), value=message.body, headers=_headers(message)
                ):
                    break
                count += 1
            try:
                with _translated(topic, records.size()):
                    if records.size() > self._destination.max_message:
                        raise errors.MessageSizeTooLargeError
                    await (await connection.send_batch(records, topic, partition=partition))
            except (NotAccepted, DeliveryRejected) as error:
                answers += [answer_to(error)] * count
                break
            except TimeoutError:
                answers += [UNANSWERED] * count
                break
            except asyncio.CancelledError:
                if not answers:
                    raise
                answers += [UNANSWERED] * count
                break
            answers += [ACCEPTED] * count
        return answers + [NOT_SENT] * (len(messages) - len(answers))

    def target(self, message: Message) -> str:
        # Topics are independent of each other: one can fail while another, of the same lane, would not.
        return self._topic(message)

    def _topic(self, message: Message) -> str:
        return render(self._destination.topic, message, word)

    async def disconnect(self, connection: AIOKafkaProducer) -> None:
        await connection.stop()


def _key(message: Message) -> bytes:
    return message.project.encode()


def _headers(message: Message) -> list[tuple[str, bytes]]:
    return [(name, value.encode()) for name, value in message.headers.items()]


@contextmanager
def _translated(topic: str, size: int) -> Iterator[None]:
    """Raise the errors that are not the connection's fault as NotAccepted or DeliveryRejected."""
    from aiokafka import errors

    try:
        yield
    except errors.MessageSizeTooLargeError:
        raise DeliveryRejected(f"{size:,} bytes are more than max_message or the topic allows") from None
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
