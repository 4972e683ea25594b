"""Faults that a process can't be told of: a listening socket of another process that dies."""

from __future__ import annotations

import ctypes
import os
import socket
from contextlib import closing
from pathlib import Path

_PIDFD_GETFD = 438
_LISTENING = "0A"


def kill_listener(pid: int, port: int) -> None:
    """Have a process' socket on a port listen no more, without the process' doing (pidfd_getfd(2))."""
    pidfd = os.pidfd_open(pid)
    try:
        for number in _listeners(pid, port):
            copy = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, pidfd, number, 0)
            if copy < 0:
                raise OSError(ctypes.get_errno(), "pidfd_getfd")
            with closing(socket.socket(fileno=copy)) as one:
                one.shutdown(socket.SHUT_RDWR)
            return
        raise LookupError(f"process {pid} does not listen on port {port}")
    finally:
        os.close(pidfd)


def _listeners(pid: int, port: int) -> list[int]:
    """The descriptors of a process that listen on a port."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
            inodes.add(f"socket:[{fields[9]}]")
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if str(link.readlink()) in inodes:
                found.append(int(link.name))
        except FileNotFoundError:
            continue
    return found
