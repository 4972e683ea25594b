"""A subscriber to an MQTT broker, and a Mosquitto of our own with settings."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from reconciler.simulator.ports import free_port
from tests.support.brokers import listens
from tests.support.service import until


def void(_: object) -> None:
    """For callbacks that must return nothing."""


class Subscriber:
    """Keeps what comes. Its client's thread calls it."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.subscribed = False

    async def wait_for(self, count: int) -> list[Any]:
        """The messages, once there are so many."""
        await asyncio.to_thread(until, lambda: len(self.messages) >= count)
        return self.messages


@contextmanager
def subscribed(port: int, topic: str, user: str | None = None, password: str | None = None) -> Iterator[Subscriber]:
    """A subscriber to a topic, which the broker knows."""
    subscriber = Subscriber()
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.username_pw_set(user, password)
    client.on_message = lambda _client, _data, message: subscriber.messages.append(message)
    client.on_subscribe = lambda *_: setattr(subscriber, "subscribed", True)
    client.on_connect = lambda *_: void(client.subscribe(topic, qos=1))
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        until(lambda: subscriber.subscribed)
        yield subscriber
    finally:
        client.disconnect()
        client.loop_stop()


@contextmanager
def mosquitto(folder: Path, settings: str, *, user: str, password: str, acl: str) -> Iterator[int]:
    """The port of a Mosquitto with one user and these settings, in which `{}` are the files of passwords and ACLs."""
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if program is None:
        pytest.skip("NOT TESTED: mosquitto is not installed")
    port, passwords, allowed = free_port(), folder / "passwords", folder / "acl"
    passwords.touch(mode=0o600)
    subprocess.run(["mosquitto_passwd", "-b", str(passwords), user, password], check=True)
    allowed.write_text(acl)
    for one in (folder, passwords, allowed):
        one.chmod(0o755 if one.is_dir() else 0o644)
    file = folder / "mosquitto.conf"
    me = Path("/proc/self").owner()
    file.write_text(f"user {me}\nlistener {port} 127.0.0.1\n" + settings.format(passwords, allowed))
    process = subprocess.Popen([program, "-c", str(file)], stderr=subprocess.DEVNULL)
    try:
        until(lambda: listens(port))
        yield port
    finally:
        process.terminate()
        process.wait(20)
