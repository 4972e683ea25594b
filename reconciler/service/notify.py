"""Notifies systemd: ready, alive, stopping (sd_notify(3)). Does nothing without systemd."""

from __future__ import annotations

import os
import socket

import structlog

log = structlog.get_logger(__name__)


def notify(state: str) -> None:
    """Send `READY=1`, `WATCHDOG=1` or `STOPPING=1` to systemd's socket, if there is one."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as one:
            one.connect("\0" + address[1:] if address.startswith("@") else address)
            one.sendall(state.encode())
    except OSError as error:  # the service is alive all the same
        log.warning("systemd not notified", state=state, error=str(error))
