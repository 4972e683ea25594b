"""The real NATS, RabbitMQ, Redis, Mosquitto and MariaDB: on their usual ports, or started, or the test is skipped."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reconciler.simulator.ports import free_port

PORTS = {"mqtt": 1883, "nats": 4222, "rabbitmq": 5672, "redis": 6379, "mariadb": 3306}


def listens(port: int) -> bool:
    """Whether something answers on a local port."""
    with socket.socket() as one:
        one.settimeout(1)
        return one.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def broker(name: str, folder: Path) -> Iterator[int]:
    """A running broker's port."""
    if listens(PORTS[name]):
        yield PORTS[name]
        return
    commands = {
        "mqtt": ["mosquitto", "-p", "{port}"],
        "nats": ["nats-server", "-a", "127.0.0.1", "-p", "{port}", "-js", "-sd", str(folder)],
        "redis": ["redis-server", "--bind", "127.0.0.1", "--port", "{port}", "--save", "", "--dir", str(folder)],
    }
    command = commands.get(name)
    program = shutil.which(command[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin") if command else None
    if command is None or program is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} does not listen on {PORTS[name]}, and CI must not skip this")
        pytest.skip(f"NOT TESTED: no {name} listens on 127.0.0.1:{PORTS[name]}, and it is not installed")
    port = free_port()
    arguments = [part.format(port=port) for part in command[1:]]
    process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not listens(port):
            assert time.monotonic() < deadline, f"{name} did not start"
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(20)
