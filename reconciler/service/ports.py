"""Where the service listens, and why it can't there."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

from reconciler.config.models import Config


def listening(config: Config) -> Iterator[tuple[str, str, int]]:
    """Each section of the config that names a port, with its host and that port. Free ones that are taken as they
    come are left out.
    """
    for name, section in (("receiver", config.receiver), ("admin", config.admin), ("metrics", config.metrics)):
        if section.port:
            yield name, section.host, section.port


def trouble(host: str, port: int) -> str | None:
    """Why nobody could listen there now. Nothing is accepted: GitLab must not meet who only looks."""
    try:
        with socket.socket(family(host), socket.SOCK_STREAM) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the service does
            one.bind((host, port))
    except (OSError, OverflowError, UnicodeError) as error:
        return reason(error)
    return None


def family(host: str) -> socket.AddressFamily:
    """Which of the two kinds of address a host is."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def reason(error: Exception) -> str:
    """What went wrong, without the address, which Python adds to the system's words."""
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno:
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error)
