"""The addresses that the service listens on, and why one can't be bound."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

from reconciler.config.models import Config


def listening(config: Config) -> Iterator[tuple[str, str, int]]:
    """Each section of the config with a port, with its host and port. Port 0 (any free one) is left out."""
    for name, section in (("receiver", config.receiver), ("admin", config.admin), ("metrics", config.metrics)):
        if section.port:
            yield name, section.host, section.port


def trouble(host: str, port: int) -> str | None:
    """Why an address can't be bound now; None if it can. Nothing is accepted on it, so that no webhook is lost."""
    try:
        with socket.socket(family(host), socket.SOCK_STREAM) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the service does
            one.bind((host, port))
    except (OSError, OverflowError, UnicodeError) as error:
        return reason(error)
    return None


def is_taken(host: str, port: int) -> bool:
    """Whether another process listens on an address."""
    return trouble(host, port) == os.strerror(errno.EADDRINUSE)


def family(host: str) -> socket.AddressFamily:
    """The address family of a host: IPv4 or IPv6."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def reason(error: Exception) -> str:
    """The system's error text, without the address that Python adds."""
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno:
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error)
