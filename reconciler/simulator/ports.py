"""Ports that stay free while whoever uses them is down."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_LOWEST = 10_240
_GIVEN_FROM = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A free port on 127.0.0.1 that the system gives to nobody who asks for any port: a service that uses it can go
    down and come back, and nobody else answers there meanwhile.
    """
    lowest_given = int(_GIVEN_FROM.read_text().split()[0]) if _GIVEN_FROM.exists() else 49_152  # RFC 6335
    choice = random.SystemRandom()
    while True:
        port = choice.randrange(min(_LOWEST, lowest_given - 1), lowest_given)
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
