"""`kind: nats`: publishes to NATS JetStream. Delivered means that a stream acknowledged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr

from reconciler.config.basics import ReadFile, Tls, check_url, host_and_port
from reconciler.config.destinations import Destination
from reconciler.forwarding.kind import Connected
from reconciler.forwarding.message import DeliveryRejected, Message, NotAccepted
from reconciler.forwarding.names import Pattern, render, word

if TYPE_CHECKING:
    from nats.aio.client import Client


def _server(url: str) -> str:
    """Allow an address with or without a scheme, as NATS' own tools do."""
    check_url(url if "://" in url else f"nats://{url}", ("nats", "tls", "ws", "wss"), "nats://127.0.0.1:4222")
    return url


_PORTS = {"ws": 80, "wss": 443}

Server = Annotated[str, AfterValidator(_server)]


class NatsDestination(Destination):
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


class Nats(Connected["Client"]):
    """Sends the event's id as `Nats-Msg-Id`, so that the stream drops repeats within its duplicate window."""

    config = NatsDestination
    requires = ("nats", "nats")

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

    async def connect(self) -> Client:
        import nats

        wanted = self._destination
        options: dict[str, Any] = {
            "token": wanted.token and wanted.token.get_secret_value(),
            "user": wanted.user,
            "password": wanted.password and wanted.password.get_secret_value(),
            "user_credentials": wanted.credentials_file and str(wanted.credentials_file),
            "tls": wanted.tls and wanted.tls.context(),
        }
        return await nats.connect(
            servers=wanted.servers,
            name="gitlab-reconciler",
            allow_reconnect=False,  # a new connection is opened after an error anyway
            connect_timeout=max(1, wanted.timeout // 1000),
            **{name: value for name, value in options.items() if value is not None},
        )

    async def publish(self, connection: Client, message: Message) -> None:
        from nats.errors import MaxPayloadError
        from nats.js.errors import APIError, NoStreamResponseError

        subject = render(self._destination.subject, message, word)
        headers = message.headers | {"Nats-Msg-Id": message.id}
        try:
            await connection.jetstream().publish(
                subject, message.body, headers=headers, timeout=self._destination.timeout / 1000
            )
        except MaxPayloadError:
            raise DeliveryRejected(
                f"{len(message.body):,} bytes are more than the server allows (max_payload)"
            ) from None
        except NoStreamResponseError:
            raise NotAccepted(f"no JetStream stream accepts the subject {subject}") from None
        except APIError as error:
            raise NotAccepted(f"the stream did not accept it: {error.description} ({error.err_code})") from None

    async def disconnect(self, connection: Client) -> None:
        await connection.close()
