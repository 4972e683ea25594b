"""`kind: mqtt`: publishes to an MQTT 5 broker with QoS 1. Delivered means that the broker sent its PUBACK."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, SecretStr

from reconciler.config.basics import Tls, check_url, host_and_port
from reconciler.config.destinations import BatchedDestination
from reconciler.forwarding.kind import Connected, answer_to
from reconciler.forwarding.message import ACCEPTED, UNANSWERED, Answer, DeliveryRejected, Message, NotAccepted
from reconciler.forwarding.names import Pattern, render, word
from reconciler.forwarding.rounds import gathered

if TYPE_CHECKING:
    from paho.mqtt.client import Client
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

PORT, TLS_PORT = 1883, 8883
MOST_IN_FLIGHT = 65_535
"""How many messages may wait for their acknowledgement if the broker names no number (MQTT 5, Receive Maximum)."""
NO_SUBSCRIBER = 0x10
"""The broker took the message and dropped it: nobody subscribes to its topic, not even a session that is away."""
INVALID_PAYLOAD = 0x99
_FRAMING = 9
"""The most bytes that a PUBLISH has besides topic, properties and body: one of flags, four that say how long the rest
is, two that say how long the topic is, and two of its number.
"""
_PLANES = "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
_FORBIDDEN = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_PLANES}]")
"""What a text may not or should not contain (MQTT 5, 1.5.4): a broker hangs up on it, as Mosquitto does."""


def _server(url: SecretStr) -> SecretStr:
    check_url(url.get_secret_value(), ("mqtt", "mqtts"), "mqtt://127.0.0.1:1883")
    return url


def _topic(pattern: str) -> str:
    if "+" in pattern or "#" in pattern:
        raise ValueError("should have no wildcards (+ and #): they are for those who subscribe")
    if pattern.startswith("$") or "\x00" in pattern:
        raise ValueError("should not begin with $, which is the broker's own")
    return pattern


class MqttDestination(BatchedDestination):
    """An MQTT 5 broker."""

    kind: Literal["mqtt"] = "mqtt"
    url: Annotated[SecretStr, AfterValidator(_server)] = Field(
        description="Broker, like mqtt://user:password@127.0.0.1:1883, or mqtts://…."
    )
    topic: Annotated[Pattern, AfterValidator(_topic)] = Field(
        "gitlab/{project_id}/{kind}",
        description="Topic. {project_id}, {project_path}, {kind} and {action} are filled in.",
    )
    tls: Tls | None = Field(None, description="A private CA or a client certificate, for mqtts.")


class Broker:
    """A connection. paho's thread reads and writes it; all of this object's state changes on the event loop."""

    def __init__(self, client: Client) -> None:
        self.lost: Exception | None = None
        """Why the connection ended, once it has."""
        self.max_packet: int | None = None
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._slots = asyncio.Semaphore(MOST_IN_FLIGHT)
        self._ended = asyncio.Event()
        self._runs = self._is_closed = False
        client.on_connect = lambda _c, _u, _f, code, properties: self._soon(self._connected, code, properties)
        client.on_disconnect = lambda _c, _u, _f, code, _p: self._soon(self._disconnected, code)
        client.on_publish = lambda _c, _u, mid, code, _p: self._soon(self._acknowledged, mid, code)

    async def open(self, host: str, port: int) -> None:
        """Connect, and wait until the broker accepts the connection."""
        await asyncio.to_thread(self._dial, host, port)
        self._runs = True
        self._client.loop_start()
        await self._opened

    async def publish(self, topic: str, message: Message) -> None:
        """Publish, and wait for the acknowledgement. A slot is free again when it comes, however long that takes."""
        properties = _properties(message)
        try:
            packed: bytes = properties.pack()  # type: ignore[no-untyped-call]
        except struct.error:  # a length that needs more than two bytes
            raise DeliveryRejected("a header has more than 65,535 bytes, which MQTT does not allow") from None
        size = len(topic.encode()) + len(packed) + len(message.body)
        if self.max_packet is not None and size + _FRAMING > self.max_packet:
            raise DeliveryRejected(f"{size:,} bytes are more than the broker allows ({self.max_packet:,})")
        await self._slots.acquire()
        try:
            if self.lost is not None:
                raise self.lost
            info = self._client.publish(topic, message.body, qos=1, properties=properties)
            if info.rc != 0:
                raise ConnectionResetError(f"it could not be sent: {info.rc!s}")
        except ValueError as error:
            self._slots.release()
            raise DeliveryRejected(f"it can't be sent: {error}") from None
        except BaseException:
            self._slots.release()
            raise
        future = self._waiting[info.mid] = self._loop.create_future()
        await future

    async def close(self) -> None:
        """Disconnect, and end the thread. A broker that does not read is hung up on."""
        self._is_closed = True
        line = cast("socket.socket | None", self._client.socket())
        self._client.disconnect()
        if self._runs:
            try:
                await asyncio.wait_for(self._ended.wait(), 1)
            except TimeoutError:
                if line is not None:
                    with suppress(OSError):
                        line.shutdown(socket.SHUT_RDWR)
            await asyncio.to_thread(self._client.loop_stop)
        self._disconnected("this service closed it")

    def _dial(self, host: str, port: int) -> None:
        self._client.connect(host, port)
        if self._is_closed:  # nobody waits for it any more
            self._client.disconnect()

    def _soon(self, what: Any, *arguments: Any) -> None:
        """Called by paho's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(what, *arguments)

    def _connected(self, code: ReasonCode, properties: Properties | None) -> None:
        if self._opened.done():
            return
        if code.is_failure:
            self._opened.set_exception(ConnectionRefusedError(f"the broker refuses the connection: {code}"))
            return
        self._slots = asyncio.Semaphore(getattr(properties, "ReceiveMaximum", MOST_IN_FLIGHT))
        self.max_packet = getattr(properties, "MaximumPacketSize", None)
        self._opened.set_result(None)

    def _acknowledged(self, mid: int, code: ReasonCode) -> None:
        future = self._waiting.pop(mid, None)
        if future is None:
            return
        self._slots.release()
        if future.done():  # its time is over
            return
        if code.value == INVALID_PAYLOAD:
            future.set_exception(DeliveryRejected(f"the broker rejected it: {code}"))
        elif code.value == NO_SUBSCRIBER:
            future.set_exception(NotAccepted("nobody subscribes to its topic, so the broker dropped it"))
        elif code.is_failure:
            future.set_exception(NotAccepted(f"the broker did not accept it: {code}"))
        else:
            future.set_result(None)

    def _disconnected(self, why: object) -> None:
        self._ended.set()
        if self.lost is None:
            self.lost = ConnectionResetError(f"the connection ended: {why}")
        if not self._opened.done():
            self._opened.set_exception(self.lost)
            self._opened.exception()  # nobody may be waiting for it any more
        for future in self._waiting.values():
            self._slots.release()  # who waits for a slot gets the same error
            if not future.done():
                future.set_exception(self.lost)
        self._waiting.clear()


class Mqtt(Connected[Broker]):
    """Sends the event's headers as user properties, `webhook-id` among them."""

    config = MqttDestination
    requires = ("paho.mqtt", "mqtt")
    batch_fails_whole: ClassVar[bool] = False

    def __init__(self, destination: MqttDestination) -> None:
        super().__init__(destination)
        self._destination = destination
        self._url = urlsplit(destination.url.get_secret_value())

    @property
    def address(self) -> str:
        host, port = self.endpoints[0]
        return f"{host}:{port}: {self._destination.topic}"

    @property
    def endpoints(self) -> list[tuple[str, int]]:
        return [host_and_port(self._url.geturl(), TLS_PORT if self._url.scheme == "mqtts" else PORT)]

    async def connect(self) -> Broker:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        client = Client(
            CallbackAPIVersion.VERSION2,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,  # a new connection is opened after an error anyway
        )
        client.connect_timeout = self._destination.timeout / 1000
        client.max_inflight_messages_set(0)  # the broker's own number is kept, see `Broker`
        if self._url.username is not None:
            client.username_pw_set(unquote(self._url.username), unquote(self._url.password or ""))
        if self._url.scheme == "mqtts":
            client.tls_set_context(self._destination.tls.context() if self._destination.tls else None)
        broker = Broker(client)
        try:
            await broker.open(*self.endpoints[0])
        except BaseException:
            await asyncio.shield(broker.close())
            raise
        return broker

    async def publish(self, connection: Broker, message: Message) -> None:
        topic = render(self._destination.topic, message, word)
        try:
            await connection.publish(topic, message)
        except NotAccepted as error:
            raise NotAccepted(f"{topic}: {error}") from None

    async def publish_batch(self, connection: Broker, messages: Sequence[Message]) -> Sequence[Answer]:
        """Publish all, in their order, and wait for all acknowledgements. What was acknowledged before the connection
        ended is delivered.
        """
        answers = await gathered((self._answer(connection, one) for one in messages), UNANSWERED)
        if connection.lost is not None and self._line is not None and self._line.connection is connection:
            self._give_up(self._line)
        return answers

    async def disconnect(self, connection: Broker) -> None:
        await connection.close()

    async def _answer(self, connection: Broker, message: Message) -> Answer:
        try:
            await self.publish(connection, message)
        except (NotAccepted, DeliveryRejected, ConnectionError) as error:
            return answer_to(error)
        return ACCEPTED


def _properties(message: Message) -> Properties:
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    made = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    made.UserProperty = [(_allowed(name), _allowed(value)) for name, value in message.headers.items()]
    if "Content-Type" in message.headers:
        made.ContentType = _allowed(message.headers["Content-Type"])
    return made


def _allowed(text: str) -> str:
    """A text that no broker hangs up on. Other characters stay as they are."""
    return _FORBIDDEN.sub("\ufffd", text)
