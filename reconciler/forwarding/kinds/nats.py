"""`kind: nats`: publishes to NATS JetStream. Delivered means that a stream acknowledged it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, SecretStr

from reconciler.config.basics import ReadFile, Tls, check_url, host_and_port
from reconciler.config.destinations import BatchedDestination
from reconciler.forwarding.kind import Connected, answer_to
from reconciler.forwarding.message import ACCEPTED, UNANSWERED, Answer, DeliveryRejected, Message, NotAccepted
from reconciler.forwarding.names import Pattern, render, word
from reconciler.forwarding.rounds import gathered

if TYPE_CHECKING:
    from nats.aio.client import Client


def _server(url: str) -> str:
    """Allow an address with or without a scheme, as NATS' own tools do."""
    check_url(url if "://" in url else f"nats://{url}", ("nats", "tls", "ws", "wss"), "nats://127.0.0.1:4222")
    return url


_PORTS = {"ws": 80, "wss": 443}

Server = Annotated[str, AfterValidator(_server)]


class NatsDestination(BatchedDestination):
    """A NATS server with JetStream, and a stream that takes the subjects."""

    kind: Literal["nats"] = "nats"
    servers: list[Server] = Field(min_length=1, description="Servers, like nats://127.0.0.1:4222.")
    subject: Pattern = Field(
        "gitlab.{project_id}.{kind}",
        description="Subject. {project_id}, {project_path}, {kind} and {action} are filled in. A JetStream stream "
        "must accept it.",
    )
    token: SecretStr | None = Field(None, description="Token, if the server requires one.")
    token_file: Path | None = Field(None, description="File that contains the token.")
    user: str | None = Field(None, description="User, if the server requires one.")
    password: SecretStr | None = Field(None, description="Password of the user.")
    password_file: Path | None = Field(None, description="File that contains the password.")
    credentials_file: ReadFile | None = Field(None, description="NATS credentials file (JWT and seed).")
    tls: Tls | None = Field(None, description="A private CA or a client certificate.")


class Streams:
    """A connection and its JetStream context, which receives the acknowledgements."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.streams = client.jetstream()

    async def close(self) -> None:
        """Close the connection."""
        await self.client.close()


class Nats(Connected[Streams]):
    """Sends the event's id as `Nats-Msg-Id`, so that the stream drops repeats within its duplicate window."""

    config = NatsDestination
    requires = ("nats", "nats")
    batch_fails_whole: ClassVar[bool] = False

    def __init__(self, destination: NatsDestination) -> None:
        super().__init__(destination)
        self._destination = destination

    @property
    def address(self) -> str:
        servers = ", ".join(server.rpartition("@")[2].removeprefix("nats://") for server in self._destination.servers)
        return f"{servers}: {self._destination.subject}"

    @property
    def endpoints(self) -> list[tuple[str, int]]:
        return [
            host_and_port(
                server if "://" in server else f"nats://{server}", _PORTS.get(server.partition(":")[0], 4222)
            )
            for server in self._destination.servers
        ]

    async def connect(self) -> Streams:
        import nats

        wanted = self._destination
        options: dict[str, Any] = {
            "token": wanted.token and wanted.token.get_secret_value(),
            "user": wanted.user,
            "password": wanted.password and wanted.password.get_secret_value(),
            "user_credentials": wanted.credentials_file and str(wanted.credentials_file),
            "tls": wanted.tls and wanted.tls.context(),
        }
        client = await nats.connect(
            servers=wanted.servers,
            name="gitlab-reconciler",
            allow_reconnect=False,  # a new connection is opened after an error anyway
            connect_timeout=max(1, wanted.timeout // 1000),
            **{name: value for name, value in options.items() if value is not None},
        )
        return Streams(client)

    async def publish(self, connection: Streams, message: Message) -> None:
        from nats.errors import MaxPayloadError

        subject = self._subject(message)
        try:
            with _translated(subject):
                await connection.streams.publish(
                    subject, message.body, headers=_headers(message), timeout=self._destination.timeout / 1000
                )
        except MaxPayloadError:
            raise _too_large(message) from None

    async def publish_batch(self, connection: Streams, messages: Sequence[Message]) -> Sequence[Answer]:
        """Publish all, then wait for their acknowledgements."""
        answers = [UNANSWERED] * len(messages)
        waiting = []
        for position, message in enumerate(messages):
            if len(message.body) > connection.client.max_payload:
                answers[position] = answer_to(_too_large(message))
                continue
            subject = self._subject(message)
            future = await connection.streams.publish_async(subject, message.body, headers=_headers(message))
            waiting.append((position, subject, future))
        found = await gathered((_acknowledged(subject, future) for _, subject, future in waiting), UNANSWERED)
        for (position, _, _), answer in zip(waiting, found, strict=True):
            answers[position] = answer
        return answers

    def _subject(self, message: Message) -> str:
        return render(self._destination.subject, message, word)

    async def disconnect(self, connection: Streams) -> None:
        await connection.close()


async def _acknowledged(subject: str, future: asyncio.Future[Any]) -> Answer:
    try:
        with _translated(subject):
            await future
    except NotAccepted as error:
        return answer_to(error)
    return ACCEPTED


def _headers(message: Message) -> dict[str, str]:
    return message.headers | {"Nats-Msg-Id": message.id}


def _too_large(message: Message) -> DeliveryRejected:
    return DeliveryRejected(f"{len(message.body):,} bytes are more than the server allows (max_payload)")


@contextmanager
def _translated(subject: str) -> Iterator[None]:
    """Raise the errors that are not the connection's fault as NotAccepted."""
    from nats.js.errors import APIError, NoStreamResponseError

    try:
        yield
    except NoStreamResponseError:
        raise NotAccepted(f"no JetStream stream accepts the subject {subject}") from None
    except APIError as error:
        raise NotAccepted(f"the stream did not accept it: {error.description} ({error.err_code})") from None
